"""The border to the kernel: system calls Python 3.11 has no function for, as plain functions.

Everything is resolved when this module is imported, so that a process that has changed its
root needs no loader any more. Knows numbers and structures, no policy. Failures are OSError.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
from typing import Any

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

OPEN_TREE_CLONE = 0x1
# Signals that the C library keeps to itself, and leaves ignored in what posix_spawn starts.
KEPT_SIGNALS = (32, 33)
SIGACTION_SIZE, SIGSET_SIZE = 32, 8  # bytes; of zeros it is the default action

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MFD_EXEC = 0x10

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

KEYCTL_JOIN_SESSION_KEYRING = 1
SECCOMP_SET_MODE_FILTER = 1
_NEW_LISTENER, _WAIT_KILLABLE = 8, 32  # flags of seccomp
_CAPABILITY_VERSION_3 = 0x20080522

# The same number on every architecture since 5.2.
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_CLOSE_RANGE = 436
_OPENAT2 = 437
_MOUNT_SETATTR = 442

# In this order: pivot_root, keyctl, seccomp, capset, statx, rt_sigaction.
_BY_MACHINE = {"x86_64": (155, 250, 317, 126, 332, 13), "aarch64": (41, 219, 277, 91, 291, 134)}
_STATX_SIZE, _STATX_BTIME, _STATX_BTIME_AT = 256, 0x800, 80

_RACES = 1000  # tries to resolve a path while another step renames directories

MACHINE = os.uname().machine
_PIVOT_ROOT, _KEYCTL, _SECCOMP, _CAPSET, _STATX, _SIGACTION = _BY_MACHINE.get(MACHINE, (-1,) * 6)

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYSCALL = _LIBC.syscall
_SYSCALL.restype = ctypes.c_long
_MOUNT = _LIBC.mount
_MOUNT.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_UMOUNT2 = _LIBC.umount2
_UNSHARE = _LIBC.unshare
_SETNS = _LIBC.setns
_PRCTL = _LIBC.prctl
_PRCTL.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _call(what: str, number: int, *arguments: Any) -> int:
    # A bare int would be passed as 32 bits and corrupt 64-bit arguments.
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_SYSCALL(ctypes.c_long(number), *wide), what)


def settle_kept_signals() -> None:
    """Give the signals of the C library their default action; only without threads."""
    for number in KEPT_SIGNALS:
        _call("rt_sigaction", _SIGACTION, number, bytes(SIGACTION_SIZE), None, SIGSET_SIZE)


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_NEW* flags for new ones."""
    _checked(_UNSHARE(flags), "unshare")


def fork_into(namespaces: int) -> int:
    """Fork, the child being in new namespaces (CLONE_NEW* flags) and we not; only without threads.

    Unlike after unshare(CLONE_NEWPID) we can go on to start threads and processes of our own.
    """
    number = {"x86_64": 56, "aarch64": 220}[MACHINE]
    return _call("fork", number, namespaces | signal.SIGCHLD, 0, 0, 0, 0)


def setns(fd: int, kind: int) -> None:
    """Enter the namespace of an fd; for CLONE_NEWPID only children to come."""
    _checked(_SETNS(fd, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Make a mount; empty strings are passed as null."""
    raw = [os.fsencode(text) or None for text in (source, target, kind, data)]
    _checked(_MOUNT(raw[0], raw[1], raw[2], flags, raw[3]), f"mount {kind or source}")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _checked(_UMOUNT2(os.fsencode(target), flags), "umount")


def pivot_root_here() -> None:
    """Make the current directory (a mount point) the root and drop the old root."""
    _call("pivot_root", _PIVOT_ROOT, b".", b".")
    _checked(_UMOUNT2(b".", MNT_DETACH), "umount of the old root")


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    """Change a property of the calling process."""
    _checked(_PRCTL(option, first, second, 0, 0), f"prctl {option}")


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open a path with resolution rules; the fd is close-on-exec."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    return _call(f"open {path}", _OPENAT2, dir_fd, os.fsencode(path), how, len(how))


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open an in-image path: links and `..` stay in the root, magic links are refused."""
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    for _ in range(_RACES):
        with contextlib.suppress(BlockingIOError):  # EAGAIN: a rename elsewhere, look again
            return openat2(root_fd, path, flags, resolve)
    return openat2(root_fd, path, flags, resolve)


def clone_tree(fd: int, path: str = "") -> int:
    """A detached copy of the mounts at and under a path, ready for attach()."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC | (0 if path else AT_EMPTY_PATH)
    return _call("open_tree", _OPEN_TREE, fd, os.fsencode(path), flags)


def restrict_tree(tree_fd: int, attributes: int) -> None:
    """Set MOUNT_ATTR_* on every mount of a detached tree."""
    value = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = AT_EMPTY_PATH | AT_RECURSIVE
    _call("mount_setattr", _MOUNT_SETATTR, tree_fd, b"", flags, value, len(value))


def attach(tree_fd: int, target_fd: int) -> None:
    """Mount a detached tree on the file or directory of an fd."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _call("move_mount", _MOVE_MOUNT, tree_fd, b"", target_fd, b"", flags)


def mount_from_settings(kind: str, settings: list[tuple[str, str]]) -> int:
    """A detached mount configured setting by setting; no length limit on the whole."""
    context = _call(f"fsopen {kind}", _FSOPEN, kind.encode(), 1)
    try:
        for key, value in settings:
            text = os.fsencode(value) if value else None
            command = FSCONFIG_SET_STRING if value else FSCONFIG_SET_FLAG
            _call(f"fsconfig {key}", _FSCONFIG, context, command, key.encode(), text, 0)
        _call(f"fsconfig {kind}", _FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        return _call(f"fsmount {kind}", _FSMOUNT, context, 1, 0)
    finally:
        os.close(context)


def birth_time(fd: int) -> int:
    """When the file of an fd was made, in nanoseconds; 0 where the file system does not tell."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    _call("statx", _STATX, fd, b"", AT_EMPTY_PATH, _STATX_BTIME, buffer)
    mask = struct.unpack_from("=I", buffer)[0]
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, _STATX_BTIME_AT)
    return seconds * 1_000_000_000 + nanoseconds if mask & _STATX_BTIME else 0


def close_from(first: int) -> None:
    """Close every fd from `first` up."""
    _call("close_range", _CLOSE_RANGE, first, 0xFFFFFFFF, 0)


def join_new_session_keyring() -> None:
    """Leave the caller's session keyring behind."""
    _call("keyctl", _KEYCTL, KEYCTL_JOIN_SESSION_KEYRING, None)


def install_filter(program: ctypes.Array[ctypes.c_char]) -> None:
    """Install a seccomp filter of 8-byte instructions; needs CAP_SYS_ADMIN or no_new_privs."""
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(program))
    _call("seccomp", _SECCOMP, SECCOMP_SET_MODE_FILTER, 0, header)


def listen(program: bytes) -> int:
    """Install a filter whose notifications can be received from the fd that is returned."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    try:
        flags = _NEW_LISTENER | _WAIT_KILLABLE
        return _call("seccomp", _SECCOMP, SECCOMP_SET_MODE_FILTER, flags, header)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # before Linux 5.19
    return _call("seccomp", _SECCOMP, SECCOMP_SET_MODE_FILTER, _NEW_LISTENER, header)


def known_capabilities(last: int) -> int:
    """The bounding set as a mask, which is every capability the kernel knows up to `last`."""
    return sum(1 << bit for bit in range(last + 1) if _PRCTL(PR_CAPBSET_READ, bit, 0, 0, 0) == 1)


def capability_sets(mask: int, inheritable: int = 0) -> tuple[bytes, bytes]:
    """What capset takes to make `mask` the permitted and effective set."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = ((mask & 0xFFFFFFFF), mask >> 32)
    more = (inheritable & 0xFFFFFFFF, inheritable >> 32)
    body = struct.pack("=6I", low, low, more[0], high, high, more[1])
    return header, body


def set_capabilities(mask: int, inheritable: int = 0) -> None:
    """Make `mask` the permitted and effective set."""
    _call("capset", _CAPSET, *capability_sets(mask, inheritable))
