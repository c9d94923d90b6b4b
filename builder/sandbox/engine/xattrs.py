"""Extended attributes: `user.*` are the kernel's, protected ones are recorded (file capabilities)."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import files, kernel, permissions
from builder.sandbox.engine.kernel import AT_EMPTY_PATH, AT_FDCWD, Request
from builder.sandbox.engine.records import is_device, key_of, touch
from builder.sandbox.engine.view import fail, fd_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.engine.step import Handler, Step

_MAX_NAME = 255
_MAX_VALUE = 65536
_CREATE, _REPLACE = 1, 2
_PROTECTED = (b"security.", b"trusted.")
_TRUSTED = b"trusted."  # nobody in a container may set these
_CAPABILITY = b"security.capability"
_CAPABILITY_SIZES = {1: 12, 2: 20, 3: 24}  # by version, the top byte of the first word
_USER = b"user."
_ACCESS_LISTS = b"system.posix_acl_"  # they would change the mode behind our back


def _name(request: Request, address: int) -> bytes:
    name = kernel.read_path(request.task, address)
    if not name or len(name) > _MAX_NAME:
        fail(errno.ERANGE)
    return name


def _set(step: Step, request: Request, fd: int) -> int:
    _, name_at, value_at, size, flags = request.arguments[:5]
    name = _name(request, name_at)
    step.require_writable(fd)
    if size > _MAX_VALUE:
        fail(errno.E2BIG)
    value = kernel.read_exactly(request.task, value_at, size)
    if name.startswith(_ACCESS_LISTS):
        fail(errno.EOPNOTSUPP)
    if not name.startswith(_PROTECTED):
        permissions.require(step, request.task, fd, permissions.WRITE)
        if name.startswith(_USER) and is_device(step.records.shown(os.fstat(fd))[0]):
            fail(errno.EPERM)
        os.setxattr(fd_path(fd), name, value, flags & (_CREATE | _REPLACE))
        return 0
    if step.identities.of(request.task).euid or name.startswith(_TRUSTED):
        fail(errno.EPERM)
    if name == _CAPABILITY and (size < 4 or _CAPABILITY_SIZES.get(value[3]) != size):  # noqa: PLR2004 - a word
        fail(errno.EINVAL)
    record = step.records.make(key_of(fd)[0])
    if flags & _CREATE and name in record.xattrs:
        fail(errno.EEXIST)
    if flags & _REPLACE and name not in record.xattrs:
        fail(errno.ENODATA)
    touch(fd)
    record.xattrs[name] = value
    return 0


def _get(step: Step, request: Request, fd: int) -> int:
    _, name_at, buffer, size = request.arguments[:4]
    name = _name(request, name_at)
    if name.startswith(_PROTECTED):
        record = step.records.get(key_of(fd)[0])
        value = record.xattrs.get(name) if record is not None else None
        if value is None:
            fail(errno.ENODATA)
    else:
        permissions.require(step, request.task, fd, permissions.READ)
        value = os.getxattr(_readable(fd), name)
    return _hand_over(request, buffer, size, value)


def _readable(fd: int) -> bytes:
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        fail(errno.ENODATA)  # links cannot have what a user may set
    return fd_path(fd)


def _list(step: Step, request: Request, fd: int) -> int:
    _, buffer, size = request.arguments[:3]
    record = step.records.get(key_of(fd)[0])
    names = sorted(record.xattrs) if record is not None else []
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        found = (os.fsencode(name) for name in os.listxattr(fd_path(fd)))
        names += [name for name in found if not name.startswith(_PROTECTED)]
    return _hand_over(request, buffer, size, b"".join(name + b"\0" for name in names))


def _remove(step: Step, request: Request, fd: int) -> int:
    name = _name(request, request.arguments[1])
    step.require_writable(fd)
    if not name.startswith(_PROTECTED):
        permissions.require(step, request.task, fd, permissions.WRITE)
        os.removexattr(_readable(fd), name)
        return 0
    if step.identities.of(request.task).euid:
        fail(errno.EPERM)
    record = step.records.get(key_of(fd)[0])
    if record is None or name not in record.xattrs:
        fail(errno.ENODATA)
    touch(fd)
    del record.xattrs[name]
    return 0


def _hand_over(request: Request, buffer: int, size: int, data: bytes) -> int:
    if size:
        if len(data) > size:
            fail(errno.ERANGE)
        kernel.write(request.task, buffer, data)
    return len(data)


def _handler(act: Callable[[Step, Request, int], int], how: str) -> Handler:
    def handle(step: Step, request: Request) -> int:
        first = request.arguments[0]
        if how == "f":
            fd = files.reference(step, request.task, first, 0, AT_EMPTY_PATH)
        else:
            fd = files.reference(step, request.task, AT_FDCWD, first, 0, follow=how != "l")
        try:
            return act(step, request, fd)
        finally:
            os.close(fd)

    return handle


CALLS: dict[str, Handler] = {
    f"{how}{name}": _handler(act, how)
    for name, act in (
        ("setxattr", _set),
        ("getxattr", _get),
        ("listxattr", _list),
        ("removexattr", _remove),
    )
    for how in ("", "l", "f")
}
