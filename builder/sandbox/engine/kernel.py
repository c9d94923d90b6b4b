"""The engine's border to the kernel: notifications, another process's memory, raw file calls.

Knows numbers and structures, no policy. Everything is resolved on import. Failures are OSError.
One thread at a time: buffers are shared between calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from typing import Any, NamedTuple, NoReturn

from builder.sandbox import syscalls

_RECEIVE, _SEND, _ADD_FD = 0xC0502100, 0xC0182101, 0x40182103
_REQUEST = struct.Struct("<QI4xi12x6Q")  # id, task, number, arguments; flags and the like skipped
_ANSWER = struct.Struct("<QqiI")
_FD = struct.Struct("<QIIII")
_SET_FLAGS, _SYNC_WAKE_UP = 0x40082104, 1
_CONTINUE, _ADD_AND_SEND, _SET_NUMBER = 1, 2, 1
_PAGE = 4096
_GUESS = 256  # most paths are shorter
_MAX_STRING = 128 * 1024 + 1  # MAX_ARG_STRLEN
_MAX_MEMORY = 1 << 20  # bytes of one piece read from a step
_IN_ROOT, _BENEATH_WITHOUT_MAGIC = 0x10, 0x08 | 0x02
_NO_LINKS = 0x04 | _IN_ROOT
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
STAT_SIZE = 128 if syscalls.MACHINE == "aarch64" else 144
_STATX_SIZE = 256
_EMPTY = ctypes.c_char_p(b"")

_BY_MACHINE = {  # newfstatat, statx, renameat2, linkat, utimensat, statfs
    "x86_64": (262, 332, 316, 265, 280, 137),
    "aarch64": (79, 291, 276, 37, 88, 43),
}
_FSTATAT, _STATX, _RENAMEAT2, _LINKAT, _UTIMENSAT, _STATFS = _BY_MACHINE.get(
    syscalls.MACHINE, (-1,) * 6
)
_OPENAT2 = 437

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYSCALL = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long
_LONG, _POINTER = ctypes.c_long, ctypes.c_void_p
# The same with types that are known: a third of the time, for what is called most.
_OPEN_CALL, _STAT_CALL = _LIBC["syscall"], _LIBC["syscall"]
_OPEN_CALL.restype = _STAT_CALL.restype = _LONG
_OPEN_CALL.argtypes = _STAT_CALL.argtypes = (_LONG, _LONG, ctypes.c_char_p, _POINTER, _LONG)
_READV, _WRITEV = _LIBC.process_vm_readv, _LIBC.process_vm_writev
_READV.restype = _WRITEV.restype = ctypes.c_ssize_t
_READV.argtypes = _WRITEV.argtypes = (ctypes.c_int, *(_POINTER, ctypes.c_ulong) * 2, ctypes.c_ulong)


def _shared(size: int) -> tuple[bytearray, int]:
    """A buffer of ours and where it is."""
    buffer = bytearray(size)
    return buffer, ctypes.addressof((ctypes.c_char * size).from_buffer(buffer))


_BUFFER, _BUFFER_AT = _shared(_PAGE)
_VECTOR = ctypes.c_uint64 * 2  # struct iovec: address, length
_HERE, _THERE = _VECTOR(_BUFFER_AT, _PAGE), _VECTOR()
_HERE_AT, _THERE_AT = ctypes.addressof(_HERE), ctypes.addressof(_THERE)
_HOW = (ctypes.c_uint64 * 3)()
_HOW_AT = ctypes.addressof(_HOW)
STATUS, _STATUS_AT = _shared(_STATX_SIZE)  # a struct stat or statx, on its way to a step
_STATUS_HERE = _VECTOR(_STATUS_AT, 0)
_STATUS_HERE_AT = ctypes.addressof(_STATUS_HERE)
_INCOMING = bytearray(80)  # struct seccomp_notif
_NOTHING = bytes(len(_INCOMING))


class Request(NamedTuple):
    """One call of a step that waits for its answer."""

    id: int
    task: int  # thread id as this process sees it
    number: int
    arguments: tuple[int, ...]


def fail(number: int) -> NoReturn:
    """Raise what a system call would return."""
    raise OSError(number, os.strerror(number))


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _call(number: int, *arguments: Any) -> int:
    wide = [_LONG(a) if isinstance(a, int) else a for a in arguments]
    result = int(_SYSCALL(_LONG(number), *wide))
    if result < 0:
        raise _failed()
    return result


def listen(code: bytes) -> int:
    """Install a program whose notifications can be received from the fd that is returned."""
    return syscalls.listen(code)


def wake_in_turn(listener: int) -> None:
    """Have who asks and who answers take turns on one processor, where the kernel can (6.6)."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)


def receive(listener: int) -> Request | None:
    """The next notification; None when its sender is gone already."""
    _INCOMING[:] = _NOTHING
    try:
        fcntl.ioctl(listener, _RECEIVE, _INCOMING)
    except OSError:
        return None
    return request_of(_INCOMING)


def request_of(notice: bytes | bytearray) -> Request:
    """The request that a struct seccomp_notif holds."""
    fields = _REQUEST.unpack(notice)
    return Request(fields[0], fields[1], fields[2], fields[3:])


def answer(listener: int, request: int, result: int, error: int = 0) -> None:
    """Let a call return `result`, or fail with an errno."""
    data = _ANSWER.pack(request, 0 if error else result, -error, 0)
    with contextlib.suppress(OSError):  # the caller may be dead: nobody waits then
        fcntl.ioctl(listener, _SEND, data)


def proceed(listener: int, request: int) -> None:
    """Let the kernel do the call as it stands."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(request, 0, 0, _CONTINUE))


def give_fd(listener: int, request: int, fd: int, flags: int) -> None:
    """Let a call return a copy of our fd, with O_CLOEXEC or not."""
    data = _FD.pack(request, _ADD_AND_SEND, fd, 0, flags & os.O_CLOEXEC)
    try:
        fcntl.ioctl(listener, _ADD_FD, data)
    except FileNotFoundError:
        return  # the caller is gone


def put_fd(listener: int, request: int, fd: int, flags: int) -> int:
    """Give a task that waits a copy of our fd; its number there. The call still waits."""
    data = bytearray(_FD.pack(request, 0, fd, 0, flags & os.O_CLOEXEC))
    return int(fcntl.ioctl(listener, _ADD_FD, data))


def replace_fd(listener: int, request: int, fd: int, number: int, flags: int) -> None:
    """Let a number of a task that waits be a copy of our fd from now on."""
    data = bytearray(_FD.pack(request, _SET_NUMBER, fd, number, flags & os.O_CLOEXEC))
    fcntl.ioctl(listener, _ADD_FD, data)


def read(task: int, address: int, size: int) -> bytes:
    """Up to `size` bytes of a task's memory; fewer where its mapping ends."""
    if size <= _PAGE:
        _HERE[1], _THERE[0], _THERE[1] = size, address, size
        got = _READV(task, _HERE_AT, 1, _THERE_AT, 1, 0)
        if got < 0:
            raise _failed()
        return bytes(_BUFFER[:got])
    if size > _MAX_MEMORY:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    buffer = ctypes.create_string_buffer(size)
    here, there = _VECTOR(ctypes.addressof(buffer), size), _VECTOR(address, size)
    got = _READV(task, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)
    if got < 0:
        raise _failed()
    return buffer.raw[:got]


def read_exactly(task: int, address: int, size: int) -> bytes:
    """All of `size` bytes, EFAULT otherwise."""
    data = read(task, address, size) if size else b""
    if len(data) != size:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return data


def read_path(task: int, address: int) -> bytes:
    """A path: a string of less than a page."""
    if not address:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    left = _PAGE - (address & (_PAGE - 1))
    size = min(left, _GUESS)
    _HERE[1], _THERE[0], _THERE[1] = size, address, size
    got = _READV(task, _HERE_AT, 1, _THERE_AT, 1, 0)
    if got < 0:
        raise _failed()
    end = _BUFFER.find(b"\0", 0, got)
    if end >= 0:
        return bytes(_BUFFER[:end])
    text = read_string(task, address)
    if len(text) >= _PAGE:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return text


def read_string(task: int, address: int) -> bytes:
    """A string of any length that an argument may have."""
    found = bytearray()
    while len(found) < _MAX_STRING:
        data = read(task, address + len(found), _PAGE - ((address + len(found)) & (_PAGE - 1)))
        end = data.find(b"\0")
        if end >= 0:
            return bytes(found + data[:end])
        if not data:
            break
        found += data
    raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))


def read_pointers(task: int, address: int, limit: int) -> list[int]:
    """A null-terminated array of pointers."""
    found: list[int] = []
    while address and len(found) <= limit:
        here = address + 8 * len(found)
        room = (_PAGE - (here & (_PAGE - 1))) & ~7 or 8
        data = read(task, here, min(room, _PAGE))
        for (pointer,) in struct.iter_unpack("<Q", data[: len(data) & ~7]):
            if not pointer:
                return found
            found.append(pointer)
        if len(data) < 8:  # noqa: PLR2004 - bytes of a pointer
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    if address:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return found


def write(task: int, address: int, data: bytes) -> None:
    """Put all of `data` into a task's memory, EFAULT otherwise."""
    if not data:
        return
    buffer = ctypes.create_string_buffer(data, len(data))
    here, there = _VECTOR(ctypes.addressof(buffer), len(data)), _VECTOR(address, len(data))
    if _WRITEV(task, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0) != len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def open_in(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """openat2 with links and `..` held inside `root`; the fd is close-on-exec."""
    return _open(root, path, (flags, mode, _IN_ROOT))


def open_without_links(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """The same where no part of the path may be a link: an fd, or an errno as a negative number.

    ELOOP says that there is a link on the way.
    """
    _HOW[0], _HOW[1], _HOW[2] = flags | os.O_CLOEXEC, mode, _NO_LINKS
    fd: int = _OPEN_CALL(_OPENAT2, root, path, _HOW_AT, 24)
    return fd if fd >= 0 else -ctypes.get_errno()


def open_beneath(tree: int, path: bytes, flags: int, mode: int = 0) -> int:
    """openat2 that refuses whatever leads out of `tree`, links of processes in /proc included."""
    return _open(tree, path, (flags, mode, _BENEATH_WITHOUT_MAGIC))


def _open(root: int, path: bytes, how: tuple[int, int, int]) -> int:
    _HOW[0], _HOW[1], _HOW[2] = how[0] | os.O_CLOEXEC, how[1], how[2]
    while True:
        fd: int = _OPEN_CALL(_OPENAT2, root, path, _HOW_AT, 24)
        if fd >= 0:
            return fd
        if ctypes.get_errno() != errno.EAGAIN:  # a rename elsewhere: look again
            raise _failed()


def stat_bytes(fd: int, path: bytes = b"", flags: int = AT_EMPTY_PATH) -> bytes:
    """Give struct stat as the kernel writes it."""
    take_status(fd, path, flags)
    return bytes(STATUS[:STAT_SIZE])


def take_status(fd: int, path: bytes = b"", flags: int = AT_EMPTY_PATH) -> None:
    """Put a struct stat into STATUS."""
    if _STAT_CALL(_FSTATAT, fd, path, _STATUS_AT, flags) < 0:
        raise _failed()


def give_status(task: int, address: int, size: int = STAT_SIZE) -> None:
    """Put what is in STATUS into a task's memory, EFAULT otherwise."""
    _STATUS_HERE[1], _THERE[0], _THERE[1] = size, address, size
    if _WRITEV(task, _STATUS_HERE_AT, 1, _THERE_AT, 1, 0) != size:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def statx_bytes(fd: int, path: bytes, flags: int, mask: int) -> bytes:
    """Give struct statx as the kernel writes it."""
    name = ctypes.c_char_p(path) if path else _EMPTY
    _call(_STATX, fd, name, flags, mask, ctypes.c_void_p(_STATUS_AT))
    return bytes(STATUS)


def statfs_bytes(fd: int) -> bytes:
    """Give struct statfs of the file system an fd is on."""
    _call(_STATFS, ctypes.c_char_p(b"/proc/self/fd/%d" % fd), ctypes.c_void_p(_STATUS_AT))
    return bytes(STATUS[:120])


def rename(old: int, old_name: bytes, new: int, new_name: bytes, flags: int) -> None:
    """renameat2."""
    _call(_RENAMEAT2, old, ctypes.c_char_p(old_name), new, ctypes.c_char_p(new_name), flags)


def link_fd(fd: int, directory: int, name: bytes) -> None:
    """Give the file of an fd another name, without following a link that it is itself."""
    source = ctypes.c_char_p(b"/proc/self/fd/%d" % fd)
    _call(_LINKAT, AT_FDCWD, source, directory, ctypes.c_char_p(name), AT_SYMLINK_FOLLOW)


def set_times(fd: int, times: bytes | None) -> None:
    """Do utimensat on the file of an fd, a link itself included; `times` is two timespecs."""
    data = ctypes.create_string_buffer(times, len(times)) if times else None
    try:
        _call(_UTIMENSAT, fd, _EMPTY, data, AT_EMPTY_PATH)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EBADF, errno.ENOENT}:
            raise
        _call(_UTIMENSAT, AT_FDCWD, ctypes.c_char_p(b"/proc/self/fd/%d" % fd), data, 0)
