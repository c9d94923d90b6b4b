"""Names made, opened, moved and removed in a step that has mounts but a single id.

What belongs to who made it, or to its directory's group, is made here and recorded; what is
recorded is known by another number once it has another name, and forgotten with its last.
Everything else is the kernel's.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import files, kernel, permissions
from builder.sandbox.engine.kernel import AT_SYMLINK_NOFOLLOW
from builder.sandbox.engine.located import found, is_recorded, linked, records_of, settle
from builder.sandbox.engine.records import is_device
from builder.sandbox.engine.step import CONTINUE

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.located import Named, Where
    from builder.sandbox.engine.step import Handler, Step

_TEMPORARY = 0o20000000  # the bit O_TMPFILE has beside O_DIRECTORY
CHANGES = os.O_CREAT | os.O_WRONLY | os.O_RDWR  # flags of an open that is for more than reading
_KERNELS = (b"/proc/", b"/dev/", b"/sys/")


def _is_kernels(task: int, address: int) -> bool:
    """Whether a path leads into a tree of the kernel's, as it is written."""
    return kernel.read_path(task, address).startswith(_KERNELS)


def making(act: Handler, where: Where) -> Handler:
    """Let what is made belong to who makes it, if that is not root, or to its directory's group."""

    def handle(step: Step, request: Request) -> int | None:
        _, address, _ = where(request)
        who = step.identities.of(request.task)
        if not who.euid and not who.egid and not _gives_group(step, request.task, where(request)):
            return CONTINUE
        if _is_kernels(request.task, address):
            return CONTINUE
        records_of(step).called(kernel.read_path(request.task, address).rstrip(b"/"))
        try:
            return act(step, request)
        except FileNotFoundError:
            return CONTINUE

    return handle


def _gives_group(step: Step, task: int, named: Named) -> bool:
    """Whether what is made at a path gets the group of its directory."""
    records = records_of(step)
    if not records.gives_groups:
        return False
    directory, address, _ = named
    path = kernel.read_path(task, address)
    above = os.path.dirname(path.rstrip(b"/"))
    remembered = above if above.startswith(b"/") else b""
    if remembered and records.gives_none(remembered):
        return False
    try:
        if above:
            view = step.view(task)
            fd = view.reference(task, view.absolute(task, directory, above))
        elif path.startswith(b"/"):
            fd = os.dup(step.view(task).root_fd)
        else:
            fd = files.descriptor(step, task, directory)
    except OSError:
        return False
    try:
        record = records.known(fd)
        gives = record is not None and record.gid > 0 and os.fstat(fd).st_mode & stat.S_ISGID
        if remembered and not gives:
            records.note_plain(remembered)
        return bool(gives)
    finally:
        os.close(fd)


def node(where: Where, act: Handler, at: int) -> Handler:
    """Record a device, and make anything else as `making` says; `at` is the mode's position."""
    made = making(act, where)

    def handle(step: Step, request: Request) -> int | None:
        if not is_device(request.arguments[at]):
            return made(step, request)
        records_of(step).called(kernel.read_path(request.task, where(request)[1]))
        return act(step, request)

    return handle


def opened(act: Handler, where: Where, at: int | None) -> Handler:
    """`at` is the position of the flags, None where they are creat's."""
    made = making(act, where)

    def handle(step: Step, request: Request) -> int | None:
        flags = os.O_CREAT if at is None else request.arguments[at] & 0xFFFFFFFF
        if flags & os.O_CREAT or flags & _TEMPORARY == _TEMPORARY:
            return made(step, request)
        if permissions.restricted(step, request.task) is None:
            return CONTINUE
        directory, address, _ = where(request)
        nofollow = AT_SYMLINK_NOFOLLOW if flags & os.O_NOFOLLOW else 0
        fd = found(step, request.task, (directory, address, nofollow))
        if fd is None:
            return CONTINUE
        try:
            if not flags & os.O_PATH:
                wanted = permissions.WRITE if flags & (CHANGES | os.O_TRUNC) else 0
                wanted |= 0 if flags & os.O_WRONLY else permissions.READ
                permissions.require(step, request.task, fd, wanted)
        finally:
            os.close(fd)
        return CONTINUE

    return handle


def removing(act: Handler, where: Where) -> Handler:
    """Forget what is recorded of what is removed: its number may come back."""

    def handle(step: Step, request: Request) -> int | None:
        name = linked(step, request.task, where(request))
        if name or permissions.restricted(step, request.task) is not None:
            result = act(step, request)
            records_of(step).gone(name)
            return result
        if not records_of(step).can_return:
            return CONTINUE
        return act(step, request) if is_recorded(step, request.task, where(request)) else CONTINUE

    return handle


def renaming(act: Handler, old: Where, new: Where) -> Handler:
    """Let what is recorded keep its record under the new name."""

    def handle(step: Step, request: Request) -> int | None:
        named = (old(request), new(request))
        gone = [linked(step, request.task, name) for name in named]
        settle(step, request.task, *named)
        restricted = permissions.restricted(step, request.task) is not None
        ours = restricted or is_recorded(step, request.task, named[1])
        result = act(step, request) if ours else CONTINUE
        for name in gone:
            records_of(step).gone(name)
        return result

    return handle


def linking(act: Handler, old: Where, new: Where) -> Handler:
    """Let what is recorded keep its record under both names."""

    def handle(step: Step, request: Request) -> int | None:
        settle(step, request.task, old(request), new(request))
        restricted = permissions.restricted(step, request.task) is not None
        return act(step, request) if restricted else CONTINUE

    return handle


def changing(act: Handler) -> Handler:
    """What only its owner may do."""

    def handle(step: Step, request: Request) -> int | None:
        if permissions.restricted(step, request.task) is None:
            return CONTINUE
        try:
            return act(step, request)
        except FileNotFoundError:
            return CONTINUE

    return handle
