"""Calls that open, make, move and remove names, done for a step in its tree."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel, permissions
from builder.sandbox.engine.kernel import AT_FDCWD, Request
from builder.sandbox.engine.records import key_of
from builder.sandbox.engine.view import fail, fd_path, signed

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.engine.step import Handler, Step

_REMOVE_DIRECTORY = 0x200
_TEMPORARY = 0o20000000  # the bit O_TMPFILE has beside O_DIRECTORY
_ACCESS = os.O_WRONLY | os.O_RDWR
_CREATION = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC
_OWNER_READS_AND_WRITES = 0o600
_OWNER_DOES_ALL = 0o700
_RENAME_EXCHANGE, _RENAME_WHITEOUT = 2, 4
_DOTS = frozenset({b"", b".", b".."})
# What a call answers for the root, for `.` and for `..` as the last part of a path.
_EXISTS = (errno.EEXIST,) * 3
_BUSY = (errno.EBUSY,) * 3
_IS_DIRECTORY = (errno.EISDIR,) * 3
_REMOVES = (errno.EBUSY, errno.EINVAL, errno.ENOTEMPTY)
_GONE = b" (deleted)"


def note_new(step: Step, task: int, fd: int, parent: int, wanted: int, real: int) -> None:
    """Record owner and mode of the new inode of `fd` in the directory `parent`."""
    identity = step.identities.of(task)
    key, status = key_of(fd)
    step.records.forget(key)  # the number may have been another file's
    gid = identity.egid
    mode, _, directory_gid = step.records.shown(os.fstat(parent))
    if mode & stat.S_ISGID:
        gid = directory_gid
        if stat.S_ISDIR(status.st_mode):  # the kernel has seen to it where modes are its own
            wanted |= stat.S_ISGID
    if identity.euid or gid:
        record = step.records.make(key)
        record.uid, record.gid = identity.euid, gid
    if wanted != real:
        step.records.make(key).mode = stat.S_IFMT(status.st_mode) | wanted


def in_parent(
    step: Step, task: int, named: tuple[int, int], act: Callable[[int, bytes], int | None]
) -> int:
    """Do something about a name (a directory and an address) in its directory, an O_PATH fd."""
    return in_parent_as_written(step, task, named, lambda parent, name, _: act(parent, name))


def in_parent_as_written(
    step: Step,
    task: int,
    named: tuple[int, int],
    act: Callable[[int, bytes, bytes], int | None],
    dots: tuple[int, int, int] = _EXISTS,
) -> int:
    """Do the same with a name as it was written, too.

    `act` gets the name without and with the slashes it was written with; those are for the call
    that makes or takes the name, which refuses them for what is no directory. `dots` are the
    errnos for the root, `.` and `..`.
    """
    directory, address = named
    view = step.view(task)
    path = kernel.read_path(task, address)
    if not path:
        fail(errno.ENOENT)
    last = path.rstrip(b"/").rpartition(b"/")[2]
    if last in _DOTS:
        fail(dots[len(last)])
    absolute = permissions.named(step, task, directory, path, follow=False)
    parent, name = view.parent(task, absolute)
    try:
        return act(parent, name, name + b"/" if path.endswith(b"/") else name) or 0
    finally:
        os.close(parent)


def make_directory(step: Step, request: Request, directory: int, address: int, mode: int) -> int:
    """Make a directory, as mkdir and mkdirat do."""
    task = request.task
    wanted = mode & 0o1777 & ~step.umask(task)
    real = step.records.usable(wanted, _OWNER_DOES_ALL)

    def act(parent: int, name: bytes) -> None:
        permissions.require_new(step, task, parent, name)
        os.mkdir(name, real, dir_fd=parent)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            note_new(step, task, fd, parent, wanted, real)
        finally:
            os.close(fd)

    return in_parent(step, task, (directory, address), act)


def _remove(step: Step, request: Request, directory: int, address: int, is_directory: bool) -> int:
    def act(parent: int, name: bytes, written: bytes) -> None:
        permissions.require_removable(step, request.task, parent, name)
        status = _status(parent, name)
        (os.rmdir if is_directory else os.unlink)(written, dir_fd=parent)
        if status is not None and (status.st_nlink <= 1 or is_directory):
            step.records.forget((status.st_dev, status.st_ino))

    dots = _REMOVES if is_directory else _IS_DIRECTORY
    return in_parent_as_written(step, request.task, (directory, address), act, dots)


def _unlinkat(step: Step, request: Request) -> int:
    directory, address, flags = request.arguments[:3]
    if flags & 0xFFFFFFFF & ~_REMOVE_DIRECTORY:
        fail(errno.EINVAL)
    return _remove(step, request, directory, address, is_directory=bool(flags))


def _status(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None


def _rename(step: Step, request: Request, ends: tuple[int, int, int, int], flags: int) -> int:
    task = request.task
    old_directory, old_path, new_directory, new_path = ends
    if flags & _RENAME_WHITEOUT:  # makes a device
        fail(errno.EPERM)

    def act(old: int, old_name: bytes, old_written: bytes) -> int:
        def onto(new: int, new_name: bytes, new_written: bytes) -> None:
            source, status = _status(old, old_name), _status(new, new_name)
            if source is None:
                fail(errno.ENOENT)
            if permissions.restricted(step, task) is not None:
                _require_rename(step, task, (old, old_name), (new, new_name))
            kernel.rename(old, old_written, new, new_written, flags)
            if status is None or flags & _RENAME_EXCHANGE:
                return
            same = (status.st_dev, status.st_ino) == (source.st_dev, source.st_ino)
            if not same and (status.st_nlink <= 1 or stat.S_ISDIR(status.st_mode)):
                step.records.forget((status.st_dev, status.st_ino))

        return in_parent_as_written(step, task, (new_directory, new_path), onto, _BUSY)

    return in_parent_as_written(step, task, (old_directory, old_path), act, _BUSY)


def _require_rename(
    step: Step, task: int, source: tuple[int, bytes], target: tuple[int, bytes]
) -> None:
    permissions.require_removable(step, task, *source)
    permissions.require_removable(step, task, *target)
    permissions.require_new(step, task, *target)
    if os.path.sameopenfile(source[0], target[0]):
        return
    fd = os.open(source[1], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source[0])
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):  # its `..` changes
            permissions.require(step, task, fd, permissions.WRITE)
    finally:
        os.close(fd)


def _link(step: Step, request: Request, ends: tuple[int, int, int, int], flags: int) -> int:
    task = request.task
    old_directory, old_path, new_directory, new_path = ends
    if flags & 0xFFFFFFFF & ~(kernel.AT_SYMLINK_FOLLOW | kernel.AT_EMPTY_PATH):
        fail(errno.EINVAL)
    follow = bool(flags & kernel.AT_SYMLINK_FOLLOW)
    source = reference(step, task, old_directory, old_path, flags & kernel.AT_EMPTY_PATH, follow)
    place = step.views[b""].place_of(source)

    def act(parent: int, name: bytes, written: bytes) -> None:
        if step.views[b""].place_of(parent) is not place:  # would be another mount
            fail(errno.EXDEV)
        permissions.require_new(step, task, parent, name)
        permissions.require_linkable(step, task, source)
        kernel.link_fd(source, parent, written)

    try:
        return in_parent_as_written(step, task, (new_directory, new_path), act)
    finally:
        os.close(source)


def _symlink(step: Step, request: Request, text: int, directory: int, address: int) -> int:
    task = request.task
    target = kernel.read_path(task, text)

    def act(parent: int, name: bytes, written: bytes) -> None:
        permissions.require_new(step, task, parent, name)
        os.symlink(target, written, dir_fd=parent)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            note_new(step, task, fd, parent, 0, 0)
        finally:
            os.close(fd)

    return in_parent_as_written(step, task, (directory, address), act)


def reference(
    step: Step, task: int, directory: int, address: int, flags: int, follow: bool = True
) -> int:
    """An O_PATH fd of what a call names: a path, or with AT_EMPTY_PATH a descriptor itself."""
    path = kernel.read_path(task, address) if address else b""
    if path:
        absolute = permissions.named(step, task, directory, path, follow=follow)
        return step.view(task).reference(task, absolute, follow=follow)
    if not flags & kernel.AT_EMPTY_PATH:
        fail(errno.ENOENT)
    return descriptor(step, task, directory)


def descriptor(step: Step, task: int, number: int) -> int:
    """An O_PATH fd of what a descriptor of a task refers to, or of its working directory."""
    number = signed(number)
    name = b"/proc/%d/cwd" % task if number == AT_FDCWD else b"/proc/%d/fd/%d" % (task, number)
    try:
        fd = os.open(name, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        fail(errno.EBADF)
    if step.unsure:
        try:
            step.views[b""].place_of(fd)
        except OSError:
            os.close(fd)
            raise
    return fd


def _readlink(step: Step, request: Request, directory: int, rest: tuple[int, int, int]) -> int:
    task = request.task
    address, buffer, size = rest
    path = kernel.read_path(task, address)
    view = step.view(task)
    name = permissions.named(step, task, directory, path, follow=False) if path else b""
    text = _program(step, task, name) if name.startswith(b"/proc/") else None
    if text is None:
        fd = view.reference(task, name, follow=False) if path else descriptor(step, task, directory)
        try:
            text = os.readlink(b"", dir_fd=fd)
        except FileNotFoundError:
            fail(errno.EINVAL if path else errno.ENOENT)
        finally:
            os.close(fd)
        if name.startswith((b"/proc/", b"/dev/fd")):
            text = view.guest_name(text)
    if signed(size) <= 0:
        fail(errno.EINVAL)
    kernel.write(task, buffer, text[:size])
    return min(len(text), size)


def _program(step: Step, task: int, name: bytes) -> bytes | None:
    """What /proc/self/exe and its like lead to: the program, not the loader it was started by."""
    if name in {b"/proc/self", b"/proc/thread-self"}:
        return b"%d" % step.process_of(task) if name == b"/proc/self" else None
    parts = name.split(b"/")
    if len(parts) != 4 or parts[3] != b"exe":  # noqa: PLR2004 - "", proc, PID, exe
        return None
    process = (
        step.process_of(task)
        if parts[2] == b"self"
        else int(parts[2])
        if parts[2].isdigit()
        else -1
    )
    return step.programs.get(process)


def _truncate(step: Step, request: Request) -> int:
    address, size = request.arguments[:2]
    fd = reference(step, request.task, AT_FDCWD, address, 0)
    try:
        step.require_writable(fd)
        permissions.require(step, request.task, fd, permissions.WRITE)
        os.truncate(fd_path(fd), size - (1 << 64) if size >> 63 else size)
    finally:
        os.close(fd)
    return 0


def _statfs(step: Step, request: Request) -> int:
    fd = reference(step, request.task, AT_FDCWD, request.arguments[0], 0)
    try:
        kernel.write(request.task, request.arguments[1], kernel.statfs_bytes(fd))
    finally:
        os.close(fd)
    return 0


def _getcwd(step: Step, request: Request) -> int:
    buffer, size = request.arguments[:2]
    name = _working_directory(step, request.task) + b"\0"
    if len(name) > size:
        fail(errno.ERANGE)
    kernel.write(request.task, buffer, name)
    return len(name)


def _working_directory(step: Step, task: int) -> bytes:
    link = b"/proc/%d/cwd" % task
    host = os.readlink(link)
    if host.endswith(_GONE) and not os.stat(link).st_nlink:
        fail(errno.ENOENT)
    view = step.view(task)
    if view.shows(host):
        return view.guest_name(host)
    return b"(unreachable)" + step.views[b""].guest_name(host)


def _umask(step: Step, request: Request) -> int:
    identity = step.identities.of(request.task)
    step.identities.become(request.task, identity._replace(umask=request.arguments[0] & 0o777))
    return identity.umask


def _chroot(step: Step, request: Request) -> int:
    if step.identities.of(request.task).euid:
        fail(errno.EPERM)
    step.change_root(request.task, kernel.read_path(request.task, request.arguments[0]))
    return 0


CALLS: dict[str, Handler] = {
    "mkdir": lambda s, r: make_directory(s, r, AT_FDCWD, r.arguments[0], r.arguments[1]),
    "mkdirat": lambda s, r: make_directory(s, r, *r.arguments[:3]),
    "unlink": lambda s, r: _remove(s, r, AT_FDCWD, r.arguments[0], is_directory=False),
    "rmdir": lambda s, r: _remove(s, r, AT_FDCWD, r.arguments[0], is_directory=True),
    "unlinkat": _unlinkat,
    "rename": lambda s, r: _rename(s, r, (AT_FDCWD, r.arguments[0], AT_FDCWD, r.arguments[1]), 0),
    "renameat": lambda s, r: _rename(s, r, r.arguments[:4], 0),  # type: ignore[arg-type]
    "renameat2": lambda s, r: _rename(s, r, r.arguments[:4], r.arguments[4] & 0xFFFFFFFF),  # type: ignore[arg-type]
    "link": lambda s, r: _link(s, r, (AT_FDCWD, r.arguments[0], AT_FDCWD, r.arguments[1]), 0),
    "linkat": lambda s, r: _link(s, r, r.arguments[:4], r.arguments[4]),  # type: ignore[arg-type]
    "symlink": lambda s, r: _symlink(s, r, r.arguments[0], AT_FDCWD, r.arguments[1]),
    "symlinkat": lambda s, r: _symlink(s, r, *r.arguments[:3]),
    "readlink": lambda s, r: _readlink(s, r, AT_FDCWD, r.arguments[:3]),  # type: ignore[arg-type]
    "readlinkat": lambda s, r: _readlink(s, r, r.arguments[0], r.arguments[1:4]),  # type: ignore[arg-type]
    "truncate": _truncate,
    "statfs": _statfs,
    "getcwd": _getcwd,
    "umask": _umask,
    "chroot": _chroot,
}
