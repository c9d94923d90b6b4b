"""What a call of a step with mounts names, and what is recorded of it.

A file that is not found is for the kernel to find: only it knows names in the caller's /proc.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import files, kernel, permissions
from builder.sandbox.engine.kernel import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW
from builder.sandbox.engine.overlaid import OverlaidRecords
from builder.sandbox.engine.view import signed

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Step

    Named = tuple[int, int, int]  # directory, address of the path, flags
    Where = Callable[[Request], Named]


def records_of(step: Step) -> OverlaidRecords:
    """The records of such a step."""
    assert isinstance(step.records, OverlaidRecords)  # noqa: S101 - what begins such a step sees to it
    return step.records


def found(step: Step, task: int, named: Named) -> int | None:
    """An O_PATH fd of what a call names; None where the kernel is to find it, or to refuse.

    Raises:
        PermissionError: who the task is virtually may not.
    """
    directory, address, flags = named
    follow = not flags & AT_SYMLINK_NOFOLLOW
    try:
        return files.reference(step, task, directory, address, flags, follow)
    except PermissionError:
        raise
    except OSError:
        return None


def is_plain(step: Step, task: int, named: Named) -> bool:
    """Whether nothing is recorded of what a call names, as far as can be seen at a glance."""
    directory, address, flags = named
    if permissions.restricted(step, task) is not None:
        return False  # who is to be asked for rights on the way
    try:
        path = kernel.read_path(task, address) if address else b""
        if path:
            return bool(flags & AT_SYMLINK_NOFOLLOW) and not records_of(step).may_be(path)
        if not flags & AT_EMPTY_PATH or signed(directory) < 0:
            return False
        return records_of(step).is_plain(os.stat(b"/proc/%d/fd/%d" % (task, directory)))
    except OSError:
        return False


def is_recorded(step: Step, task: int, named: Named) -> bool:
    """Whether anything is recorded of what a call names."""
    if is_plain(step, task, named):
        return False
    fd = found(step, task, named)
    if fd is None:
        return False
    try:
        return records_of(step).known(fd) is not None
    finally:
        os.close(fd)


def linked(step: Step, task: int, named: Named) -> bytes:
    """The seeded name of what a call names, if that is a lower's file with several; or nothing."""
    if not records_of(step).has_links or is_plain(step, task, named):
        return b""
    fd = found(step, task, named)
    if fd is None:
        return b""
    try:
        return records_of(step).linked(fd)
    finally:
        os.close(fd)


def settle(step: Step, task: int, named: Named, new: Named) -> None:
    """Have what is recorded known by the number that it keeps, now that it gets another name."""
    if is_plain(step, task, named):
        return
    fd = found(step, task, named)
    if fd is None:
        return
    try:
        if records_of(step).known(fd) is None:
            return
        records_of(step).called(kernel.read_path(task, new[1]).rstrip(b"/"))
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            records_of(step).settle(fd)
    finally:
        os.close(fd)


def at(
    directory: int | None, address: int | None, flags: int | None = None, fixed: int = 0
) -> Where:
    """Where a call names a file: positions of its arguments, and flags it always has."""

    def where(request: Request) -> Named:
        arguments = request.arguments
        return (
            AT_FDCWD if directory is None else arguments[directory],
            0 if address is None else arguments[address],
            fixed if flags is None else arguments[flags] | fixed,
        )

    return where
