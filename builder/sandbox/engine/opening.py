"""Calls that open files: done in the step's tree, the descriptor handed over.

Never waits in the supervisor: what may block is opened without, and FIFOs wait in threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import threading
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel, permissions
from builder.sandbox.engine.files import note_new
from builder.sandbox.engine.kernel import AT_FDCWD, Request
from builder.sandbox.engine.step import CONTINUE
from builder.sandbox.engine.view import fail, fd_path

if TYPE_CHECKING:
    from builder.sandbox.engine.step import Handler, Step

_TEMPORARY = 0o20000000  # the bit O_TMPFILE has beside O_DIRECTORY
_ACCESS = os.O_WRONLY | os.O_RDWR
_CREATION = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC
_OWNER_READS_AND_WRITES = 0o600


def _openat(step: Step, request: Request) -> int | None:
    directory, path, flags, mode = request.arguments[:4]
    return _open(step, request, directory, path, flags, mode)


def _open2(step: Step, request: Request) -> int | None:
    path, flags, mode = request.arguments[:3]
    return _open(step, request, AT_FDCWD, path, flags, mode)


def _creat(step: Step, request: Request) -> int | None:
    path, mode = request.arguments[:2]
    flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
    return _open(step, request, AT_FDCWD, path, flags, mode)


def _open(
    step: Step, request: Request, directory: int, address: int, flags: int, mode: int
) -> int | None:
    task = request.task
    flags &= 0xFFFFFFFF
    path = kernel.read_path(task, address)
    if not path:
        fail(errno.ENOENT)
    follow = not flags & os.O_NOFOLLOW
    name = permissions.named(step, task, directory, path, follow=follow)
    if flags & os.O_PATH and not follow and _is_name(path) and _is_opaque(step, task, name):
        # Only the kernel can give such an fd. The step may have changed the name by then.
        step.unsure = True
        return CONTINUE
    path = name
    opener = _create if flags & os.O_CREAT or flags & _TEMPORARY else _open_existing
    fd = opener(step, task, path, flags, mode)
    try:
        if flags & os.O_PATH:
            kernel.give_fd(step.listener, request.id, fd, flags)
        elif not flags & os.O_NONBLOCK and must_wait(fd, flags):
            open_fifo(step, request, fd, flags)
            return None
        else:
            if not flags & os.O_NONBLOCK:
                fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~(os.O_NONBLOCK | _ACCESS | _CREATION))
            kernel.give_fd(step.listener, request.id, fd, flags)
    finally:
        os.close(fd)
    return None


def must_wait(fd: int, flags: int) -> bool:
    """Whether what was opened is one end of a FIFO whose other end may be missing."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return False
    return not flags & _ACCESS or bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH)


def _is_name(path: bytes) -> bool:
    """Whether a path is one name in a directory that is open already."""
    return b"/" not in path and path not in {b"..", b"."}


def _is_opaque(step: Step, task: int, path: bytes) -> bool:
    """Whether a file can be referred to but not opened."""
    fd = step.view(task).reference(task, path, follow=False)
    try:
        mode = os.fstat(fd).st_mode
        return stat.S_ISLNK(mode) or stat.S_ISSOCK(mode)
    finally:
        os.close(fd)


def _require(step: Step, task: int, path: bytes, flags: int) -> None:
    """Ask for what an open of a file that is there needs, before it can have an effect."""
    wanted = permissions.WRITE if flags & (_ACCESS | os.O_TRUNC) else 0
    wanted |= 0 if flags & os.O_WRONLY else permissions.READ
    fd = step.view(task).reference(task, path, follow=not flags & os.O_NOFOLLOW)
    try:
        permissions.require(step, task, fd, wanted)
    finally:
        os.close(fd)


def _open_existing(step: Step, task: int, path: bytes, flags: int, _mode: int) -> int:
    if flags & os.O_PATH:  # one that can be read does as well, and can be given
        kept = os.O_DIRECTORY | os.O_NOFOLLOW
        return step.view(task).open(task, path, flags & kept | os.O_NONBLOCK)
    if permissions.restricted(step, task) is not None:
        _require(step, task, path, flags)
    # Never wait here: other calls of the step are answered by the same thread.
    try:
        return step.view(task).open(task, path, flags | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO or flags & os.O_NONBLOCK or not flags & _ACCESS:
            raise
        fd = step.view(task).reference(task, path)
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):  # but a socket
            os.close(fd)
            raise
        return fd  # a FIFO without reader


def _create(step: Step, task: int, path: bytes, flags: int, mode: int) -> int:
    """Open with O_CREAT or O_TMPFILE; what is new gets its owner and mode."""
    view = step.view(task)
    wanted = mode & 0o7777 & ~step.umask(task)
    real = step.records.usable(wanted, _OWNER_READS_AND_WRITES)
    flags_asked = flags
    if permissions.restricted(step, task) is not None:
        _require_place(step, task, path, flags)
    flags |= os.O_NOCTTY | os.O_NONBLOCK
    if flags & _TEMPORARY:
        fd = view.open(task, path, flags, real)
    else:
        try:
            fd = view.open(task, path, flags | os.O_CREAT | os.O_EXCL, real)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            try:
                asked = flags & ~(os.O_CREAT | os.O_NONBLOCK) | (flags_asked & os.O_NONBLOCK)
                return _no_directory(_open_existing(step, task, path, asked, mode))
            except FileNotFoundError:  # a link whose target is to be made
                return view.open(task, path, flags, real)
    _note_new(step, task, fd, wanted, real, os.path.dirname(path.rstrip(b"/")))
    return fd


def _no_directory(fd: int) -> int:
    """Refuse what O_CREAT found if that is a directory."""
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        fail(errno.EISDIR)
    return fd


def _require_place(step: Step, task: int, path: bytes, flags: int) -> None:
    """Ask for what making a file needs, unless it is there already."""
    view = step.view(task)
    if flags & _TEMPORARY == _TEMPORARY:
        parent, name = view.reference(task, path), b""
    else:
        above, name = os.path.split(path.rstrip(b"/"))
        parent = view.reference(task, above or b"/")
    try:
        permissions.require_new(step, task, parent, name)
    finally:
        os.close(parent)


def _note_new(step: Step, task: int, fd: int, wanted: int, real: int, above: bytes) -> None:
    """Record what a new inode is meant to be where it differs from what it is."""
    view = step.view(task)
    parent = view.reference(task, above or b"/")
    try:
        note_new(step, task, fd, parent, wanted, real)
    finally:
        os.close(parent)


def open_fifo(step: Step, request: Request, fd: int, flags: int) -> None:
    """Open a FIFO as patiently as the step wants to, in a thread of its own.

    A reader has its end already, and waits for what a writer brings; opening it once more could
    miss one who came and went. A writer without reader has only a reference, and opens when one
    comes.
    """
    held = os.dup(fd)

    def wait() -> None:
        opened = held
        try:
            if fcntl.fcntl(held, fcntl.F_GETFL) & os.O_PATH:
                opened = os.open(fd_path(held), flags & ~_CREATION & ~os.O_NOFOLLOW | os.O_CLOEXEC)
            else:
                poll = select.poll()
                poll.register(held, select.POLLIN)
                poll.poll()
                fcntl.fcntl(held, fcntl.F_SETFL, flags & ~(os.O_NONBLOCK | _ACCESS | _CREATION))
        except OSError as error:
            kernel.answer(step.listener, request.id, 0, error.errno or errno.EIO)
        else:
            with contextlib.suppress(OSError):
                kernel.give_fd(step.listener, request.id, opened, flags)
        finally:
            os.close(held)
            if opened != held:
                os.close(opened)

    threading.Thread(target=wait, daemon=True).start()


CALLS: dict[str, Handler] = {"openat": _openat, "open": _open2, "creat": _creat}
