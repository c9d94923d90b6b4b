"""Whose what is, in a step that has mounts but a single id: owners are recorded and shown, ids virtual.

A handler that finds nothing to do lets the call go on.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import identities, kernel, metadata, permissions
from builder.sandbox.engine.kernel import AT_EMPTY_PATH
from builder.sandbox.engine.located import found, is_plain, records_of
from builder.sandbox.engine.mounted import MountedView
from builder.sandbox.engine.records import touch
from builder.sandbox.engine.step import CONTINUE
from builder.sandbox.engine.view import fail, signed

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.located import Where
    from builder.sandbox.engine.step import Handler, Step

_ROOT = 0
_KEPT = -1
_NATIVE = frozenset({_KEPT, _ROOT})
_SCRIPT = b"#!"


def status(where: Where, at: int) -> Handler:
    """Show the status of what is recorded; `at` is the buffer's position."""

    def handle(step: Step, request: Request) -> int:
        named = where(request)
        if is_plain(step, request.task, named):
            return CONTINUE
        fd = found(step, request.task, named)
        if fd is None:
            return CONTINUE
        try:
            if records_of(step).known(fd) is None:
                return CONTINUE
            data = step.records.patched(kernel.stat_bytes(fd))
        finally:
            os.close(fd)
        kernel.write(request.task, request.arguments[at], data)
        return 0

    return handle


def statx(step: Step, request: Request) -> int:
    """Show the status of what is recorded, as statx does."""
    directory, address, flags, mask, buffer = request.arguments[:5]
    if is_plain(step, request.task, (directory, address, flags)):
        return CONTINUE
    fd = found(step, request.task, (directory, address, flags))
    if fd is None:
        return CONTINUE
    try:
        if records_of(step).known(fd) is None:
            return CONTINUE
        data = kernel.statx_bytes(fd, b"", AT_EMPTY_PATH, mask)
    finally:
        os.close(fd)
    kernel.write(request.task, buffer, step.records.patched_statx(data))
    return 0


def owner(where: Where, at: int) -> Handler:
    """Record an owner; `at` is the position of the two ids."""

    def handle(step: Step, request: Request) -> int:
        uid, gid = (signed(number) for number in request.arguments[at : at + 2])
        fd = found(step, request.task, where(request))
        if fd is None:
            return CONTINUE if {uid, gid} <= _NATIVE else fail(errno.ENOENT)
        try:
            return _change_owner(step, request.task, fd, (uid, gid))
        finally:
            os.close(fd)

    return handle


def _change_owner(step: Step, task: int, fd: int, wanted: tuple[int, int]) -> int:
    records = records_of(step)
    record = records.known(fd)
    metadata.require_owner_change(step, task, fd, *wanted)
    if record is None and set(wanted) <= _NATIVE:
        return CONTINUE
    key = records.settle(fd)
    touch(fd)  # which takes away set-id bits and capabilities
    record = records.make(key)
    for name, number in zip(("uid", "gid"), wanted, strict=True):
        if number != _KEPT:
            setattr(record, name, number & 0xFFFFFFFF)
    records.note_group(key, os.fstat(fd))
    return 0


def mode(where: Where, at: int) -> Handler:
    """Let only its owner change a mode, and note directories that give their group on."""

    def handle(step: Step, request: Request) -> int:
        fd = found(step, request.task, where(request))
        if fd is None:
            return CONTINUE
        try:
            permissions.require_owner(step, request.task, fd)
            if request.arguments[at] & stat.S_ISGID:
                records = records_of(step)
                record, status = records.known(fd), os.fstat(fd)
                if record is not None and record.gid > 0 and stat.S_ISDIR(status.st_mode):
                    records.give_group((status.st_dev, status.st_ino))
        finally:
            os.close(fd)
        return CONTINUE

    return handle


def executing(where: Where) -> Handler:
    """Become whose a set-id program is, as recorded."""

    def handle(step: Step, request: Request) -> int:
        task = request.task
        fd = found(step, task, where(request))
        if fd is None:
            return CONTINUE
        try:
            permissions.require(step, task, fd, permissions.EXECUTE)
            _become(step, task, fd)
        finally:
            os.close(fd)
        return CONTINUE

    return handle


def _become(step: Step, task: int, fd: int) -> None:
    records_of(step).known(fd)
    mode, uid, gid = step.records.shown(os.fstat(fd))
    identity = old = step.identities.of(task)
    if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(mode) and not _is_script(fd):
        if mode & stat.S_ISUID:
            identity = identity._replace(euid=uid)
        if mode & stat.S_ISGID and mode & stat.S_IXGRP:
            identity = identity._replace(egid=gid)
    identity = identity._replace(suid=identity.euid, sgid=identity.egid, keeps=False, capable=False)
    if identity != old:
        step.identities.become(task, identity)


def _is_script(fd: int) -> bool:
    with open(b"/proc/self/fd/%d" % fd, "rb", buffering=0) as file:
        return file.read(len(_SCRIPT)) == _SCRIPT


def chroot(step: Step, request: Request) -> int:
    """From here on names may be looked up in other roots."""
    if step.identities.of(request.task).euid:
        fail(errno.EPERM)
    view = step.views[b""]
    assert isinstance(view, MountedView)  # noqa: S101 - what begins such a step sees to it
    view.changed = True
    records_of(step).roots_differ()
    return CONTINUE


def limits(step: Step, request: Request) -> int:
    """The limit that carries identities stays as it is."""
    del step
    wanted, new = request.arguments[1:3]
    return 0 if new and signed(wanted) == identities.LIMIT else CONTINUE


def set_limit(step: Step, request: Request) -> int:
    """The same for setrlimit."""
    del step
    return 0 if signed(request.arguments[0]) == identities.LIMIT else CONTINUE
