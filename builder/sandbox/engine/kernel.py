"""The engine's border to the kernel: notifications, another process's memory, raw file calls.

Knows numbers and structures, no policy. Everything is resolved on import. Failures are OSError.
One thread at a time: buffers are shared between calls.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any, NamedTuple, NoReturn

from builder.sandbox import syscalls

_RECEIVE, _SEND, _ADD_FD = 0xC0502100, 0xC0182101, 0x40182103
_REQUEST = struct.Struct("<QIIiIQ6Q")
_ANSWER = struct.Struct("<QqiI")
_FD = struct.Struct("<QIIII")
_CONTINUE, _ADD_AND_SEND = 1, 2
_NEW_LISTENER, _WAIT_KILLABLE = 0x8, 0x20
_PAGE = 4096
_GUESS = 256  # most paths are shorter
_MAX_STRING = 128 * 1024 + 1  # MAX_ARG_STRLEN
_MAX_MEMORY = 1 << 20  # bytes of one piece read from a step
_IN_ROOT, _BENEATH_WITHOUT_MAGIC = 0x10, 0x08 | 0x02
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
STAT_SIZE = 128 if syscalls.MACHINE == "aarch64" else 144
_STATX_SIZE = 256
_EMPTY = ctypes.c_char_p(b"")

_BY_MACHINE = {  # seccomp, newfstatat, statx, renameat2, linkat, utimensat, statfs
    "x86_64": (317, 262, 332, 316, 265, 280, 137),
    "aarch64": (277, 79, 291, 276, 37, 88, 43),
}
_SECCOMP, _FSTATAT, _STATX, _RENAMEAT2, _LINKAT, _UTIMENSAT, _STATFS = _BY_MACHINE.get(
    syscalls.MACHINE, (-1,) * 7
)
_OPENAT2 = 437

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYSCALL = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long
_IOCTL = _LIBC.ioctl
_IOCTL.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
_READV, _WRITEV = _LIBC.process_vm_readv, _LIBC.process_vm_writev
_READV.restype = _WRITEV.restype = ctypes.c_ssize_t
_LONG = ctypes.c_long


_BUFFER = ctypes.create_string_buffer(_PAGE)
_VECTOR = ctypes.c_uint64 * 2  # struct iovec: address, length
_HERE, _THERE = _VECTOR(ctypes.addressof(_BUFFER), _PAGE), _VECTOR()
_HERE_AT, _THERE_AT = ctypes.byref(_HERE), ctypes.byref(_THERE)
_HOW = (ctypes.c_uint64 * 3)()
_STAT = ctypes.create_string_buffer(_STATX_SIZE)
_INCOMING = ctypes.create_string_buffer(_REQUEST.size)


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
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    try:
        return _call(_SECCOMP, 1, _NEW_LISTENER | _WAIT_KILLABLE, header)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _call(_SECCOMP, 1, _NEW_LISTENER, header)  # before Linux 5.19


def receive(listener: int) -> Request | None:
    """The next notification; None when its sender is gone already."""
    ctypes.memset(_INCOMING, 0, _REQUEST.size)
    if _IOCTL(listener, _RECEIVE, ctypes.addressof(_INCOMING)) < 0:
        return None
    number, task, _, call, _, _, *arguments = _REQUEST.unpack(_INCOMING.raw)
    return Request(number, task, call, tuple(arguments))


def answer(listener: int, request: int, result: int, error: int = 0) -> None:
    """Let a call return `result`, or fail with an errno."""
    data = _ANSWER.pack(request, 0 if error else result, -error, 0)
    _IOCTL(listener, _SEND, data)  # the caller may be dead: nobody waits then


def proceed(listener: int, request: int) -> None:
    """Let the kernel do the call as it stands."""
    _IOCTL(listener, _SEND, _ANSWER.pack(request, 0, 0, _CONTINUE))


def give_fd(listener: int, request: int, fd: int, flags: int) -> None:
    """Let a call return a copy of our fd, with O_CLOEXEC or not."""
    data = _FD.pack(request, _ADD_AND_SEND, fd, 0, flags & os.O_CLOEXEC)
    if _IOCTL(listener, _ADD_FD, data) < 0 and ctypes.get_errno() != errno.ENOENT:
        raise _failed()


def put_fd(listener: int, request: int, fd: int, flags: int) -> int:
    """Give a task that waits a copy of our fd; its number there. The call still waits."""
    data = _FD.pack(request, 0, fd, 0, flags & os.O_CLOEXEC)
    number = int(_IOCTL(listener, _ADD_FD, data))
    if number < 0:
        raise _failed()
    return number


def read(task: int, address: int, size: int) -> bytes:
    """Up to `size` bytes of a task's memory; fewer where its mapping ends."""
    if size <= _PAGE:
        _HERE[1], _THERE[0], _THERE[1] = size, address, size
        got = _READV(task, _HERE_AT, 1, _THERE_AT, 1, 0)
        if got < 0:
            raise _failed()
        return _BUFFER.raw[:got]
    if size > _MAX_MEMORY:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    buffer = ctypes.create_string_buffer(size)
    here, there = _VECTOR(ctypes.addressof(buffer), size), _VECTOR(address, size)
    got = _READV(task, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
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
    data = read(task, address, min(left, _GUESS) if left > _GUESS else left)
    end = data.find(b"\0")
    if end >= 0:
        return data[:end]
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
    if _WRITEV(task, ctypes.byref(here), 1, ctypes.byref(there), 1, 0) != len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))


def open_in(root: int, path: bytes, flags: int, mode: int = 0) -> int:
    """openat2 with links and `..` held inside `root`; the fd is close-on-exec."""
    return _open(root, path, (flags, mode, _IN_ROOT))


def open_beneath(tree: int, path: bytes, flags: int) -> int:
    """openat2 that refuses whatever leads out of `tree`, links of processes in /proc included."""
    return _open(tree, path, (flags, 0, _BENEATH_WITHOUT_MAGIC))


def _open(root: int, path: bytes, how: tuple[int, int, int]) -> int:
    _HOW[0], _HOW[1], _HOW[2] = how[0] | os.O_CLOEXEC, how[1], how[2]
    while True:
        fd = _SYSCALL(_LONG(_OPENAT2), _LONG(root), ctypes.c_char_p(path), _HOW, _LONG(24))
        if fd >= 0:
            return int(fd)
        if ctypes.get_errno() != errno.EAGAIN:  # a rename elsewhere: look again
            raise _failed()


def stat_bytes(fd: int, path: bytes = b"", flags: int = AT_EMPTY_PATH) -> bytes:
    """Give struct stat as the kernel writes it."""
    name = ctypes.c_char_p(path) if path else _EMPTY
    if _SYSCALL(_LONG(_FSTATAT), _LONG(fd), name, _STAT, _LONG(flags)) < 0:
        raise _failed()
    return _STAT.raw[:STAT_SIZE]


def statx_bytes(fd: int, path: bytes, flags: int, mask: int) -> bytes:
    """Give struct statx as the kernel writes it."""
    name = ctypes.c_char_p(path) if path else _EMPTY
    if _SYSCALL(_LONG(_STATX), _LONG(fd), name, _LONG(flags), _LONG(mask), _STAT) < 0:
        raise _failed()
    return _STAT.raw


def statfs_bytes(fd: int) -> bytes:
    """Give struct statfs of the file system an fd is on."""
    _call(_STATFS, ctypes.c_char_p(b"/proc/self/fd/%d" % fd), _STAT)
    return _STAT.raw[:120]


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
