"""What a virtual identity that is not root may do: the kernel's rules, over owners and modes as shown.

The files are all ours on the host, so nobody else would refuse. Virtual root is asked nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from typing import TYPE_CHECKING

from builder.sandbox.engine.kernel import AT_FDCWD, fail
from builder.sandbox.engine.systemtrees import ROOTS
from builder.sandbox.engine.view import fd_path, signed

if TYPE_CHECKING:
    from builder.sandbox.engine.identities import Identity
    from builder.sandbox.engine.step import Step

READ, WRITE, SEARCH = 4, 2, 1
EXECUTE = SEARCH
_REFERENCE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel's
_SYSTEM = tuple(root + b"/" for root in ROOTS)


def restricted(step: Step, task: int) -> Identity | None:
    """Who a task is, unless that is root."""
    if not step.identities.restricted:
        return None
    identity = step.identities.of(task)
    return identity if identity.euid else None


def named(step: Step, task: int, directory: int, path: bytes, *, follow: bool = True) -> bytes:
    """The absolute guest path of what a call names, each directory on the way searchable.

    Raises:
        PermissionError: one is not.
    """
    view = step.view(task)
    if step.identities.restricted:
        who = restricted(step, task)
        if who is not None and path:
            _search(step, task, who, (directory, path), follow)
    return view.absolute(task, directory, path)


def require(step: Step, task: int, fd: int, wanted: int) -> None:
    """Ask for rights on the file of an fd.

    Raises:
        PermissionError: EACCES.
    """
    who = restricted(step, task)
    if who is not None and not _is_kernels(fd) and not _may(step, who, os.fstat(fd), wanted):
        fail(errno.EACCES)


def require_owner(step: Step, task: int, fd: int) -> None:
    """Ask that a file is the task's own.

    Raises:
        PermissionError: EPERM.
    """
    who = restricted(step, task)
    if who is not None and step.records.shown(os.fstat(fd))[1] != who.euid:
        fail(errno.EPERM)


def require_new(step: Step, task: int, parent: int, name: bytes) -> None:
    """Ask for the right to make a name; one that is there is for the call itself to refuse."""
    if restricted(step, task) is not None and _status(parent, name) is None:
        require(step, task, parent, WRITE | SEARCH)


def require_removable(step: Step, task: int, parent: int, name: bytes) -> None:
    """Ask for the right to remove a name, if it is there."""
    who = restricted(step, task)
    status = _status(parent, name) if who is not None else None
    if who is None or status is None:
        return
    require(step, task, parent, WRITE | SEARCH)
    mode, owner, _ = step.records.shown(os.fstat(parent))
    if mode & stat.S_ISVTX and who.euid not in (owner, step.records.shown(status)[1]):
        fail(errno.EPERM)


def require_linkable(step: Step, task: int, fd: int) -> None:
    """Ask for the right to give a file one more name (fs.protected_hardlinks)."""
    who = restricted(step, task)
    if who is None:
        return
    status = os.fstat(fd)
    mode, owner, _ = step.records.shown(status)
    if owner == who.euid:
        return
    harmless = stat.S_ISREG(mode) and not mode & stat.S_ISUID
    if not harmless or not _may(step, who, status, READ | WRITE):
        fail(errno.EPERM)


def accessible(step: Step, who: Identity, fd: int, wanted: int) -> bool:
    """Whether an identity that is not root has rights, as access(2) asks."""
    return _is_kernels(fd) or _may(step, who, os.fstat(fd), wanted)


def _is_kernels(fd: int) -> bool:
    """Whether a file is none of a tree's: the kernel knows best who may use it."""
    host = os.readlink(fd_path(fd))
    return not host.startswith(b"/") or host.startswith(_SYSTEM)


def _may(step: Step, who: Identity, status: os.stat_result, wanted: int) -> bool:
    mode, uid, gid = step.records.shown(status)
    if uid == who.euid:
        mode >>= 6
    elif gid == who.egid or gid in who.groups:
        mode >>= 3
    return mode & wanted == wanted


def _status(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except OSError:
        return None


def _search(step: Step, task: int, who: Identity, what: tuple[int, bytes], follow: bool) -> None:
    """Walk to the last directory of a path; what is missing or no directory is left to the call."""
    directory, path = what
    root = step.view(task).root_fd
    here = os.dup(root) if path.startswith(b"/") else _base(task, directory)
    todo = deque(part for part in path.split(b"/") if part not in {b"", b"."})
    links = 0
    try:
        while todo:
            status = os.fstat(here)
            if not stat.S_ISDIR(status.st_mode):
                return
            if not _is_kernels(here) and not _may(step, who, status, SEARCH):
                fail(errno.EACCES)
            part = todo.popleft()
            following = _enter(root, here, part)
            if following < 0:
                return
            text = _link(following) if todo or follow else b""
            if not text:
                os.close(here)
                here = following
                continue
            os.close(following)
            links += 1
            if links > _MAX_LINKS:
                return
            if text.startswith(b"/"):
                os.close(here)
                here = os.dup(root)
            todo.extendleft(reversed([p for p in text.split(b"/") if p not in {b"", b"."}]))
    finally:
        os.close(here)


def _base(task: int, directory: int) -> int:
    number = signed(directory)
    name = b"/proc/%d/cwd" % task if number == AT_FDCWD else b"/proc/%d/fd/%d" % (task, number)
    try:
        return os.open(name, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return fail(errno.EBADF)


def _enter(root: int, here: int, part: bytes) -> int:
    """An O_PATH fd of a name in a directory, -1 when there is none; above the root is the root."""
    if part == b".." and os.path.sameopenfile(root, here):
        return os.dup(here)
    try:
        return os.open(part, _REFERENCE, dir_fd=here)
    except OSError:
        return -1


def _link(fd: int) -> bytes:
    """The text of a link; empty for anything else."""
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        return b""
    return os.readlink(b"", dir_fd=fd)
