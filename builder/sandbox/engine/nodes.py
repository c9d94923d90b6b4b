"""Making a device for a step that has its own ids and mounts: an empty file stands for it.

The caller's rights, root and umask are the kernel's and are read from /proc; a name is resolved
below the root of who calls. Must not know how calls come here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING

from builder.sandbox import syscalls
from builder.sandbox.engine import abi, kernel
from builder.sandbox.engine.kernel import AT_FDCWD, fail
from builder.sandbox.engine.records import is_device, is_whiteout
from builder.sandbox.spec import Recorded
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.sandbox.engine.kernel import Request

MAX_DEVICES = 512  # of one step; each holds a descriptor until it ends
_IS_VALID = 0x80082102  # SECCOMP_IOCTL_NOTIF_ID_VALID, as every kernel takes it
_PATH = os.O_PATH | os.O_CLOEXEC
_DIRECTORY = _PATH | os.O_DIRECTORY
_FILE = _PATH | os.O_NOFOLLOW
_NEEDED = 1 << 27 | 1 << 1  # CAP_MKNOD and, as nobody asks for the directory's rights, DAC_OVERRIDE
_STATUS = 4096  # bytes of /proc/PID/status, enough for its first lines
_COPIED = "user.overlay.origin"  # what overlayfs leaves on what it copied up
_NO_NAMES = frozenset({b"", b".", b".."})


@value
class Node:
    """A device that was made. The fd keeps its inode from becoming another file's."""

    fd: int
    record: Recorded


def answer(listener: int, uppers: Mapping[int, str]) -> tuple[int, Node] | None:
    """Answer a call that waits; the device and its step, if it is in an upper of a step."""
    request = kernel.receive(listener)
    if request is None:
        return None
    try:
        found = _make(listener, request, uppers)
    except OSError as error:
        kernel.answer(listener, request.id, 0, error.errno or errno.EPERM)
        return None
    kernel.answer(listener, request.id, 0)
    return found


def left(nodes: Iterable[Node]) -> tuple[Recorded, ...]:
    """The records of those that still have a name."""
    found = {}
    for node in nodes:
        if os.fstat(node.fd).st_nlink:
            found[node.record.name] = node.record
        os.close(node.fd)
    return tuple(found.values())


def copied(upper: str, recorded: Iterable[Recorded]) -> Iterator[Recorded]:
    """Records of devices of the lowers that were copied up, as files of the upper."""
    upper_fd = os.open(upper, _DIRECTORY)
    try:
        for known in recorded:
            status = _copy(upper_fd, os.fsencode(known.name))
            if status is not None:
                name = f"{status.st_dev}:{status.st_ino}"
                yield Recorded(name, mode=known.mode, device=known.device)
    finally:
        os.close(upper_fd)


def _copy(upper_fd: int, name: bytes) -> os.stat_result | None:
    try:
        fd = kernel.open_in(upper_fd, name, _FILE)
    except OSError:
        return None
    try:
        os.getxattr(b"/proc/self/fd/%d" % fd, _COPIED)
        return os.fstat(fd)
    except OSError:
        return None  # another file, made anew
    finally:
        os.close(fd)


def _make(listener: int, request: Request, uppers: Mapping[int, str]) -> tuple[int, Node] | None:
    task, arguments = request.task, request.arguments
    if request.number != abi.abi_of(syscalls.MACHINE).numbers["mknodat"]:
        arguments = (AT_FDCWD, *arguments)
    number, address, mode, device = arguments[:4]
    if not is_device(mode):  # a mode of no kind has the bit that is asked for, too
        fail(errno.EINVAL)
    gid, umask = _caller(task)
    if is_whiteout(mode, device):
        fail(errno.EPERM)
    root = os.open(b"/proc/%d/root" % task, _DIRECTORY)
    try:
        path = _absolute(task, number, kernel.read_path(task, address))
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        if name in _NO_NAMES:
            fail(errno.EEXIST)
        parent = kernel.open_in(root, above or b"/", _DIRECTORY)
    finally:
        os.close(root)
    try:
        fcntl.ioctl(listener, _IS_VALID, struct.pack("<Q", request.id))  # so /proc was the caller's
        fd = _placeholder(parent, name, gid, stat.S_IMODE(mode) & ~umask)
    finally:
        os.close(parent)
    return _recorded(fd, mode, device, uppers)


def _caller(task: int) -> tuple[int, int]:
    """Group and umask of who calls.

    Raises:
        PermissionError: it may not make devices.
    """
    with open(f"/proc/{task}/status", "rb", buffering=0) as file:
        text = file.read(_STATUS)
    fields = dict(line.partition(b":\t")[::2] for line in text.split(b"\n"))
    ids = [int(fields[name].split()[3]) for name in (b"Uid", b"Gid")]
    held = int(fields[b"CapEff"], 16)
    ours = os.stat("/proc/self/ns/user").st_ino == os.stat(f"/proc/{task}/ns/user").st_ino
    if not ours or ids[0] or held & _NEEDED != _NEEDED:
        fail(errno.EPERM)
    return ids[1], int(fields[b"Umask"], 8)


def _absolute(task: int, number: int, path: bytes) -> bytes:
    """The path that a path means to a task, from the root of that."""
    if not path:
        fail(errno.ENOENT)
    if path.startswith(b"/"):
        return path
    number = number & 0xFFFFFFFF
    is_here = number == AT_FDCWD & 0xFFFFFFFF
    link = b"/proc/%d/cwd" % task if is_here else b"/proc/%d/fd/%d" % (task, number)
    try:
        start, root = os.readlink(link), os.readlink(b"/proc/%d/root" % task)
    except FileNotFoundError:
        fail(errno.EBADF)
    if root != b"/":
        if start != root and not start.startswith(root + b"/"):
            fail(errno.ENOENT)  # outside: only the kernel could tell
        start = start[len(root) :]
    return b"%b/%b" % (start, path)


def _placeholder(parent: int, name: bytes, gid: int, mode: int) -> int:
    """Make the file that stands for a device, and refer to it."""
    os.mknod(name, stat.S_IFREG | 0o600, dir_fd=parent)
    fd = os.open(name, _FILE, dir_fd=parent)
    try:
        path = b"/proc/self/fd/%d" % fd
        if gid and not os.fstat(parent).st_mode & stat.S_ISGID:
            os.chown(path, -1, gid)
        os.chmod(path, mode)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _recorded(
    fd: int, mode: int, device: int, uppers: Mapping[int, str]
) -> tuple[int, Node] | None:
    """The step that a new file belongs to and its record there; None where no layer has it."""
    path, inode = os.readlink(b"/proc/self/fd/%d" % fd), os.fstat(fd).st_ino
    for number, upper in uppers.items():
        status = _status(upper, path.lstrip(b"/"))
        if status is not None and status.st_ino == inode:
            key = f"{status.st_dev}:{status.st_ino}"
            numbers = os.major(device), os.minor(device)
            kind = stat.S_IFMT(mode) | stat.S_IMODE(status.st_mode)
            return number, Node(fd, Recorded(key, mode=kind, device=numbers))
    os.close(fd)
    return None


def _status(upper: str, path: bytes) -> os.stat_result | None:
    """What an upper directory has at a path."""
    try:
        upper_fd = os.open(upper, _DIRECTORY)
        try:
            fd = kernel.open_in(upper_fd, path, _FILE)
        finally:
            os.close(upper_fd)
    except OSError:
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
