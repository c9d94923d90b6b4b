"""Calls about what a file is like: status, access, mode, owner, times, device nodes."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

from builder.sandbox.engine import files, kernel, permissions
from builder.sandbox.engine.kernel import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    Request,
)
from builder.sandbox.engine.records import KEPT, is_device, is_whiteout, key_of, touch
from builder.sandbox.engine.view import fail, fd_path, signed

if TYPE_CHECKING:
    from builder.sandbox.engine.step import Handler, Step

_STATX_FLAGS = 0x6000  # AT_STATX_FORCE_SYNC and AT_STATX_DONT_SYNC
_EXECUTE = 1
_ANY_EXECUTE = 0o111
_UNCHANGED = -1
_NOW = (1 << 30) - 1  # UTIME_NOW
_EFFECTIVE = 0x200  # AT_EACCESS
# With AT_NO_AUTOMOUNT, which means nothing here.
_KNOWN_FLAGS = _STATX_FLAGS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | 0x800
_WRITE = 2
_RIGHTS = 7  # read, write, execute
_MICRO = 1_000_000


def _named(step: Step, request: Request, directory: int, address: int, flags: int) -> int:
    """An O_PATH fd of what a call names."""
    if flags & 0xFFFFFFFF & ~_KNOWN_FLAGS:
        fail(errno.EINVAL)
    follow = not flags & AT_SYMLINK_NOFOLLOW
    return files.reference(step, request.task, directory, address, flags, follow)


def _stat(step: Step, request: Request, directory: int, rest: tuple[int, int], flags: int) -> int:
    address, buffer = rest
    task = request.task
    if flags & 0xFFFFFFFF & ~_KNOWN_FLAGS:
        fail(errno.EINVAL)
    path = kernel.read_path(task, address) if address else b""
    if path:
        follow = not flags & AT_SYMLINK_NOFOLLOW
        name = permissions.named(step, task, directory, path, follow=follow)
        fd = step.view(task).reference(task, name, follow=follow)
        try:
            kernel.take_status(fd)
        finally:
            os.close(fd)
    elif flags & AT_EMPTY_PATH:
        _take_open(step, task, signed(directory))
    else:
        fail(errno.ENOENT)
    step.records.patch(kernel.STATUS)
    kernel.give_status(task, buffer)
    return 0


def _take_open(step: Step, task: int, number: int) -> None:
    """Take the status of what a task has open, or works in."""
    if step.unsure:  # whether it is the step's
        os.close(files.descriptor(step, task, number))
    link = b"/proc/%d/cwd" % task if number == AT_FDCWD else b"/proc/%d/fd/%d" % (task, number)
    try:
        kernel.take_status(AT_FDCWD, link, 0)
    except FileNotFoundError:
        fail(errno.EBADF)


def _statx(step: Step, request: Request) -> int:
    directory, address, flags, mask, buffer = request.arguments[:5]
    fd = _named(step, request, directory, address, flags)
    try:
        data = kernel.statx_bytes(fd, b"", AT_EMPTY_PATH | flags & _STATX_FLAGS, mask)
    finally:
        os.close(fd)
    kernel.write(request.task, buffer, step.records.patched_statx(data))
    return 0


def _access(step: Step, request: Request, directory: int, rest: tuple[int, int], flags: int) -> int:
    address, wanted = rest
    if wanted & 0xFFFFFFFF & ~_RIGHTS:
        fail(errno.EINVAL)
    fd = _named(step, request, directory, address, flags & ~_EFFECTIVE)
    try:
        mode = step.records.shown(os.fstat(fd))[0]
        if wanted & _WRITE and not stat.S_ISCHR(mode):
            step.require_writable(fd)
        if step.identities.restricted:
            who = step.identities.of(request.task)
            if not flags & _EFFECTIVE:
                who = who._replace(euid=who.ruid, egid=who.rgid)
            if who.euid and not permissions.accessible(step, who, fd, wanted):
                fail(errno.EACCES)
    finally:
        os.close(fd)
    if wanted & _EXECUTE and not stat.S_ISDIR(mode) and not mode & _ANY_EXECUTE:
        fail(errno.EACCES)
    return 0


def _chmod(step: Step, fd: int, mode: int) -> None:
    """Keep the file usable by us; what it is to be is recorded where that differs."""
    key, status = key_of(fd)
    if stat.S_ISLNK(status.st_mode):
        fail(errno.EOPNOTSUPP)
    wanted = mode & 0o7777
    real = wanted & 0o777 | (0o700 if stat.S_ISDIR(status.st_mode) else 0o600)
    os.chmod(fd_path(fd), real)
    record = step.records.get(key)
    kind = stat.S_IFMT(step.records.shown(status)[0])
    if wanted != real or (record is not None and record.mode != KEPT):
        step.records.make(key).mode = kind | wanted


def require_owner_change(step: Step, task: int, fd: int, uid: int, gid: int) -> None:
    """Ask for the right to give a file to somebody.

    Raises:
        PermissionError: EPERM.
    """
    identity = permissions.restricted(step, task)
    if identity is not None:
        owner = step.records.shown(os.fstat(fd))[1]
        mine = owner == identity.euid and uid in {_UNCHANGED, owner}
        if not mine or gid not in {_UNCHANGED, identity.egid, *identity.groups}:
            fail(errno.EPERM)


def _chown(step: Step, task: int, fd: int, uid: int, gid: int) -> None:
    key, status = key_of(fd)
    mode = step.records.shown(status)[0]
    uid, gid = signed(uid), signed(gid)
    require_owner_change(step, task, fd, uid, gid)
    touch(fd)
    record = step.records.own(key, uid, gid)
    if stat.S_ISREG(mode) and mode & 0o6000:  # the kernel takes these away, too
        kept = mode & ~stat.S_ISUID
        record.mode = kept & ~stat.S_ISGID if mode & stat.S_IXGRP else kept


def _make_node(step: Step, request: Request, directory: int, rest: tuple[int, int, int]) -> int:
    address, mode, device = rest
    task = request.task
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    wanted = mode & 0o7777 & ~step.umask(task)
    real = step.records.usable(wanted, 0o600)

    def act(parent: int, name: bytes, written: bytes) -> None:
        made = stat.S_IFREG if is_device(mode) else kind
        permissions.require_new(step, task, parent, name)
        if is_device(mode) and (is_whiteout(mode, device) or step.identities.of(task).euid):
            fail(errno.EPERM)
        os.mknod(written, made | real, dir_fd=parent)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            files.note_new(step, task, fd, parent, wanted, real)
            if is_device(mode):
                step.records.make_device(key_of(fd)[0], kind | wanted, _wide_device(device))
        finally:
            os.close(fd)

    return files.in_parent_as_written(step, task, (directory, address), act)


def _wide_device(device: int) -> int:
    """A device number of mknod(2) as stat shows it."""
    return os.makedev(os.major(device), os.minor(device))


def _on(step: Step, request: Request, named: tuple[int, int, int]) -> int:
    """An O_PATH fd of what is to be changed."""
    directory, address, flags = named
    fd = _named(step, request, directory, address, flags)
    try:
        step.require_writable(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _change_mode(step: Step, request: Request, named: tuple[int, int, int], mode: int) -> int:
    fd = _on(step, request, named)
    try:
        permissions.require_owner(step, request.task, fd)
        _chmod(step, fd, _without_set_id(step, request.task, fd, mode))
    finally:
        os.close(fd)
    return 0


def _without_set_id(step: Step, task: int, fd: int, mode: int) -> int:
    """A mode without set-group-id, for a group that is not among the caller's."""
    who = permissions.restricted(step, task)
    if who is None or not mode & stat.S_ISGID:
        return mode
    group = step.records.shown(os.fstat(fd))[2]
    return mode if group == who.egid or group in who.groups else mode & ~stat.S_ISGID


def _require_times(step: Step, task: int, fd: int, times: bytes | None) -> None:
    """Who owns a file may set its times; who may write it, to now only."""
    who = permissions.restricted(step, task)
    if who is None or step.records.shown(os.fstat(fd))[1] == who.euid:
        return
    if times is not None and struct.unpack("<4q", times)[1::2] != (_NOW, _NOW):
        fail(errno.EPERM)
    permissions.require(step, task, fd, permissions.WRITE)


def _change_owner(
    step: Step, request: Request, named: tuple[int, int, int], ids: tuple[int, int]
) -> int:
    fd = _on(step, request, named)
    try:
        _chown(step, request.task, fd, *ids)
    finally:
        os.close(fd)
    return 0


def _change_times(
    step: Step, request: Request, named: tuple[int, int, int], times: bytes | None
) -> int:
    fd = _on(step, request, named)
    try:
        _require_times(step, request.task, fd, times)
        kernel.set_times(fd, times)
    finally:
        os.close(fd)
    return 0


def _utimensat(step: Step, request: Request) -> int:
    directory, address, times, flags = request.arguments[:4]
    data = kernel.read_exactly(request.task, times, 32) if times else None
    flags |= 0 if address else AT_EMPTY_PATH
    return _change_times(step, request, (directory, address, flags), data)


def _utime(step: Step, request: Request) -> int:
    address, times = request.arguments[:2]
    data = seconds_at(request.task, times)
    return _change_times(step, request, (AT_FDCWD, address, 0), data)


def seconds_at(task: int, address: int) -> bytes | None:
    """Two timespecs from the struct utimbuf at an address; None for now."""
    if not address:
        return None
    seconds = struct.unpack("<qq", kernel.read_exactly(task, address, 16))
    return struct.pack("<4q", seconds[0], 0, seconds[1], 0)


def _utimes(step: Step, request: Request, directory: int, rest: tuple[int, int]) -> int:
    address, times = rest
    data = microseconds_at(request.task, times)
    flags = 0 if address else AT_EMPTY_PATH
    return _change_times(step, request, (directory, address, flags), data)


def microseconds_at(task: int, address: int) -> bytes | None:
    """Two timespecs from the two timevals at an address; None for now."""
    if not address:
        return None
    values = struct.unpack("<4q", kernel.read_exactly(task, address, 32))
    if not (0 <= values[1] < _MICRO and 0 <= values[3] < _MICRO):
        fail(errno.EINVAL)
    return struct.pack("<4q", values[0], values[1] * 1000, values[2], values[3] * 1000)


def _pair(arguments: tuple[int, ...], first: int) -> tuple[int, int]:
    return arguments[first], arguments[first + 1]


CALLS: dict[str, Handler] = {
    "stat": lambda s, r: _stat(s, r, AT_FDCWD, _pair(r.arguments, 0), 0),
    "lstat": lambda s, r: _stat(s, r, AT_FDCWD, _pair(r.arguments, 0), AT_SYMLINK_NOFOLLOW),
    "fstat": lambda s, r: _stat(s, r, r.arguments[0], (0, r.arguments[1]), AT_EMPTY_PATH),
    "newfstatat": lambda s, r: _stat(s, r, r.arguments[0], _pair(r.arguments, 1), r.arguments[3]),
    "statx": _statx,
    "access": lambda s, r: _access(s, r, AT_FDCWD, _pair(r.arguments, 0), 0),
    "faccessat": lambda s, r: _access(s, r, r.arguments[0], _pair(r.arguments, 1), 0),
    "faccessat2": lambda s, r: _access(s, r, r.arguments[0], _pair(r.arguments, 1), r.arguments[3]),
    "chmod": lambda s, r: _change_mode(s, r, (AT_FDCWD, r.arguments[0], 0), r.arguments[1]),
    "fchmod": lambda s, r: _change_mode(s, r, (r.arguments[0], 0, AT_EMPTY_PATH), r.arguments[1]),
    "fchmodat": lambda s, r: _change_mode(
        s, r, (r.arguments[0], r.arguments[1], 0), r.arguments[2]
    ),
    "fchmodat2": lambda s, r: _change_mode(
        s, r, (r.arguments[0], r.arguments[1], r.arguments[3]), r.arguments[2]
    ),
    "chown": lambda s, r: _change_owner(s, r, (AT_FDCWD, r.arguments[0], 0), _pair(r.arguments, 1)),
    "lchown": lambda s, r: _change_owner(
        s, r, (AT_FDCWD, r.arguments[0], AT_SYMLINK_NOFOLLOW), _pair(r.arguments, 1)
    ),
    "fchown": lambda s, r: _change_owner(
        s, r, (r.arguments[0], 0, AT_EMPTY_PATH), _pair(r.arguments, 1)
    ),
    "fchownat": lambda s, r: _change_owner(
        s, r, (r.arguments[0], r.arguments[1], r.arguments[4]), _pair(r.arguments, 2)
    ),
    "mknod": lambda s, r: _make_node(s, r, AT_FDCWD, r.arguments[:3]),  # type: ignore[arg-type]
    "mknodat": lambda s, r: _make_node(s, r, r.arguments[0], r.arguments[1:4]),  # type: ignore[arg-type]
    "utimensat": _utimensat,
    "utime": _utime,
    "utimes": lambda s, r: _utimes(s, r, AT_FDCWD, _pair(r.arguments, 0)),
    "futimesat": lambda s, r: _utimes(s, r, r.arguments[0], _pair(r.arguments, 1)),
}
