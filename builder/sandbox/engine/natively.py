"""Calls on names that only the supervisor can reach, made as whoever asked: the kernel decides.

For a step whose ids are the kernel's own. Opens, changes and asks; nothing is recorded. What a
name means is the view's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING

from builder.sandbox.engine import files, kernel, metadata, opening
from builder.sandbox.engine.kernel import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, fail
from builder.sandbox.engine.records import is_device, is_whiteout
from builder.sandbox.engine.taskowners import owner_of
from builder.sandbox.engine.view import fd_path, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Handler, Step
    from builder.sandbox.engine.taskowners import Owner

_LIBC = ctypes.CDLL(None, use_errno=True)
_REMOVE_DIRECTORY = 0x200
_TEMPORARY = 0o20000000  # the bit O_TMPFILE has beside O_DIRECTORY
_KEPT_BY_FCNTL = os.O_APPEND | os.O_NOATIME | 0o40000  # and O_DIRECT


@contextlib.contextmanager
def acting_as(owner: Owner) -> Iterator[None]:
    """Be somebody to files, so that the kernel asks for his rights and makes him an owner."""
    os.umask(owner.umask)
    if owner.is_root:
        yield
        return
    groups = os.getgroups()
    os.setgroups(owner.groups)
    _LIBC.setfsgid(owner.gids[3])
    _LIBC.setfsuid(owner.uids[3])  # the rights of root over files go with it
    try:
        yield
    finally:
        _LIBC.setfsuid(os.geteuid())
        _LIBC.setfsgid(os.getegid())
        os.setgroups(groups)


def link_of(task: int, name: bytes) -> bytes:
    """Where a link of a task's in /proc leads; empty where there is none.

    Of who is not root only himself may know, unless we have more rights than a container gives.
    """
    try:
        return os.readlink(name)
    except PermissionError:
        pass
    except OSError:
        return b""
    try:
        with acting_as(owner_of(task)):
            return os.readlink(name)
    except OSError:
        return b""


def open_file(step: Step, request: Request, directory: int, rest: tuple[int, int, int]) -> int:
    """Open a name as a call asks for; the fd, and whether a FIFO is to be waited for."""
    address, flags, mode = rest
    path = kernel.read_path(request.task, address)
    view = step.view(request.task)
    name = view.absolute(request.task, directory, path)
    flags &= 0xFFFFFFFF
    if flags & os.O_PATH:  # one that can be read does as well, and can be given
        flags = flags & (os.O_DIRECTORY | os.O_NOFOLLOW)
    making = flags & os.O_CREAT or flags & _TEMPORARY == _TEMPORARY
    if making and not view.lies_in_place(name):  # nothing may be made in what a place hides
        name = view.resolved(request.task, name, follow=not flags & os.O_NOFOLLOW)
    quiet = flags | os.O_NOCTTY | os.O_NONBLOCK  # never wait: others are answered here, too
    try:
        return view.open(request.task, name, quiet, mode & 0o7777 if making else 0)
    except OSError as error:
        if error.errno != errno.ENXIO or flags & os.O_NONBLOCK:
            raise
        return view.reference(request.task, name)  # a FIFO without reader


def give(step: Step, request: Request, fd: int, flags: int) -> None:
    """Give a task what was opened for it, in the way it asked for; closes our own."""
    try:
        if not flags & (os.O_NONBLOCK | os.O_PATH):
            if opening.must_wait(fd, flags):
                opening.open_fifo(step, request, fd, flags)
                return
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & _KEPT_BY_FCNTL)
        kernel.give_fd(step.listener, request.id, fd, flags)
    finally:
        os.close(fd)


def access(step: Step, request: Request, directory: int, rest: tuple[int, int, int]) -> int:
    """Whether the caller may do something with a file."""
    address, wanted, flags = rest
    follow = not flags & AT_SYMLINK_NOFOLLOW
    fd = files.reference(step, request.task, directory, address, flags & AT_EMPTY_PATH, follow)
    try:
        if wanted & os.W_OK and not stat.S_ISCHR(os.fstat(fd).st_mode):
            step.require_writable(fd)
        if not os.access(fd_path(fd), wanted & 7, effective_ids=True):
            fail(errno.EACCES)
    finally:
        os.close(fd)
    return 0


def _make_directory(step: Step, request: Request, place: tuple[int, int, int]) -> int:
    directory, address, mode = place

    def act(parent: int, name: bytes) -> None:
        os.mkdir(name, mode & 0o7777, dir_fd=parent)

    return files.in_parent(step, request.task, (directory, address), act)


def _make_node(step: Step, request: Request, place: tuple[int, int, int, int]) -> int:
    """Make a file; a device is an empty one and a record, for a real one would reach the host's."""
    directory, address, mode, device = place
    is_one = is_device(mode)

    def act(parent: int, name: bytes) -> None:
        os.mknod(name, mode & 0o7777 | stat.S_IFREG if is_one else mode & 0o177777, dir_fd=parent)
        if is_one:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            record = step.records.make((status.st_dev, status.st_ino))
            record.mode = stat.S_IFMT(mode) | stat.S_IMODE(status.st_mode)
            record.device = os.makedev(os.major(device), os.minor(device))

    if is_one and (is_whiteout(mode, device) or owner_of(request.task).uids[1]):
        fail(errno.EPERM)
    return files.in_parent(step, request.task, (directory, address), act)


def _remove(step: Step, request: Request, place: tuple[int, int], *, directory: bool) -> int:
    def act(parent: int, name: bytes) -> None:
        (os.rmdir if directory else os.unlink)(name, dir_fd=parent)

    return files.in_parent(step, request.task, place, act)


def _rename(step: Step, request: Request, ends: tuple[int, ...], flags: int) -> int:
    view = step.view(request.task)

    def act(old: int, old_name: bytes) -> int:
        def onto(new: int, new_name: bytes) -> None:
            if view.place_of(old) is not view.place_of(new):  # would be another mount
                fail(errno.EXDEV)
            kernel.rename(old, old_name, new, new_name, flags & 3)

        return files.in_parent(step, request.task, (ends[2], ends[3]), onto)

    return files.in_parent(step, request.task, (ends[0], ends[1]), act)


def _link(step: Step, request: Request, ends: tuple[int, ...], flags: int) -> int:
    task, view = request.task, step.view(request.task)
    follow = bool(flags & kernel.AT_SYMLINK_FOLLOW)
    source = files.reference(step, task, ends[0], ends[1], flags & AT_EMPTY_PATH, follow)

    def act(parent: int, name: bytes) -> None:
        if view.place_of(source) is not view.place_of(parent):
            fail(errno.EXDEV)
        kernel.link_fd(source, parent, name)

    try:
        return files.in_parent(step, task, (ends[2], ends[3]), act)
    finally:
        os.close(source)


def _symlink(step: Step, request: Request, text: int, place: tuple[int, int]) -> int:
    target = kernel.read_path(request.task, text)

    def act(parent: int, name: bytes) -> None:
        os.symlink(target, name, dir_fd=parent)

    return files.in_parent(step, request.task, place, act)


def _on(
    step: Step, request: Request, named: tuple[int, int, int], act: Callable[[int], None]
) -> int:
    """Change the file that a call names."""
    directory, address, flags = named
    follow = not flags & AT_SYMLINK_NOFOLLOW
    fd = files.reference(step, request.task, directory, address, flags & AT_EMPTY_PATH, follow)
    try:
        step.require_writable(fd)
        act(fd)
    finally:
        os.close(fd)
    return 0


def _mode(step: Step, request: Request, named: tuple[int, int, int], mode: int) -> int:
    return _on(step, request, named, lambda fd: os.chmod(fd_path(fd), mode & 0o7777))


def _owner(step: Step, request: Request, named: tuple[int, int, int], ids: tuple[int, int]) -> int:
    uid, gid = (signed(number) for number in ids)
    return _on(step, request, named, lambda fd: os.chown(fd_path(fd), uid, gid))


def _times(step: Step, request: Request, named: tuple[int, int, int], data: bytes | None) -> int:
    return _on(step, request, named, lambda fd: kernel.set_times(fd, data))


def _utimensat(step: Step, request: Request) -> int:
    directory, address, times, flags = request.arguments[:4]
    data = kernel.read_exactly(request.task, times, 32) if times else None
    return _times(step, request, (directory, address, flags), data)


def _utime(step: Step, request: Request) -> int:
    address, times = request.arguments[:2]
    return _times(step, request, (AT_FDCWD, address, 0), metadata.seconds_at(request.task, times))


def _utimes(step: Step, request: Request, directory: int, rest: tuple[int, int]) -> int:
    address, times = rest
    return _times(
        step, request, (directory, address, 0), metadata.microseconds_at(request.task, times)
    )


def _truncate(step: Step, request: Request) -> int:
    address, size = request.arguments[:2]
    length: int = struct.unpack("<q", struct.pack("<Q", size))[0]
    return _on(step, request, (AT_FDCWD, address, 0), lambda fd: os.truncate(fd_path(fd), length))


def _set_attribute(step: Step, request: Request, flags: int) -> int:
    path, name_at, value_at, size, how = request.arguments[:5]
    if size > 1 << 16:
        fail(errno.E2BIG)
    name = kernel.read_path(request.task, name_at)
    value = kernel.read_exactly(request.task, value_at, size)
    return _on(
        step,
        request,
        (AT_FDCWD, path, flags),
        lambda fd: os.setxattr(fd_path(fd), name, value, how),
    )


def _remove_attribute(step: Step, request: Request, flags: int) -> int:
    path, name_at = request.arguments[:2]
    name = kernel.read_path(request.task, name_at)
    return _on(step, request, (AT_FDCWD, path, flags), lambda fd: os.removexattr(fd_path(fd), name))


_HERE, _LINK = AT_FDCWD, AT_SYMLINK_NOFOLLOW

CHANGES: dict[str, Handler] = {
    "mkdir": lambda s, r: _make_directory(s, r, (_HERE, *r.arguments[:2])),  # type: ignore[arg-type]
    "mkdirat": lambda s, r: _make_directory(s, r, r.arguments[:3]),  # type: ignore[arg-type]
    "mknod": lambda s, r: _make_node(s, r, (_HERE, *r.arguments[:3])),  # type: ignore[arg-type]
    "mknodat": lambda s, r: _make_node(s, r, r.arguments[:4]),  # type: ignore[arg-type]
    "unlink": lambda s, r: _remove(s, r, (_HERE, r.arguments[0]), directory=False),
    "rmdir": lambda s, r: _remove(s, r, (_HERE, r.arguments[0]), directory=True),
    "unlinkat": lambda s, r: _remove(
        s, r, (r.arguments[0], r.arguments[1]), directory=bool(r.arguments[2] & _REMOVE_DIRECTORY)
    ),
    "rename": lambda s, r: _rename(s, r, (_HERE, r.arguments[0], _HERE, r.arguments[1]), 0),
    "renameat": lambda s, r: _rename(s, r, r.arguments[:4], 0),
    "renameat2": lambda s, r: _rename(s, r, r.arguments[:4], r.arguments[4]),
    "link": lambda s, r: _link(s, r, (_HERE, r.arguments[0], _HERE, r.arguments[1]), 0),
    "linkat": lambda s, r: _link(s, r, r.arguments[:4], r.arguments[4]),
    "symlink": lambda s, r: _symlink(s, r, r.arguments[0], (_HERE, r.arguments[1])),
    "symlinkat": lambda s, r: _symlink(s, r, r.arguments[0], r.arguments[1:3]),  # type: ignore[arg-type]
    "chmod": lambda s, r: _mode(s, r, (_HERE, r.arguments[0], 0), r.arguments[1]),
    "fchmodat": lambda s, r: _mode(s, r, (*r.arguments[:2], 0), r.arguments[2]),  # type: ignore[arg-type]
    "fchmodat2": lambda s, r: _mode(s, r, (*r.arguments[:2], r.arguments[3]), r.arguments[2]),  # type: ignore[arg-type]
    "chown": lambda s, r: _owner(s, r, (_HERE, r.arguments[0], 0), r.arguments[1:3]),  # type: ignore[arg-type]
    "lchown": lambda s, r: _owner(s, r, (_HERE, r.arguments[0], _LINK), r.arguments[1:3]),  # type: ignore[arg-type]
    "fchownat": lambda s, r: _owner(s, r, (*r.arguments[:2], r.arguments[4]), r.arguments[2:4]),  # type: ignore[arg-type]
    "utimensat": _utimensat,
    "utime": _utime,
    "utimes": lambda s, r: _utimes(s, r, _HERE, r.arguments[:2]),  # type: ignore[arg-type]
    "futimesat": lambda s, r: _utimes(s, r, r.arguments[0], r.arguments[1:3]),  # type: ignore[arg-type]
    "truncate": _truncate,
    "setxattr": lambda s, r: _set_attribute(s, r, 0),
    "lsetxattr": lambda s, r: _set_attribute(s, r, _LINK),
    "removexattr": lambda s, r: _remove_attribute(s, r, 0),
    "lremovexattr": lambda s, r: _remove_attribute(s, r, _LINK),
}
