"""getdents64: the kernel lists directories itself; types of recorded devices are put right after it.

So is what the host has in /dev and a step has not. A step that has no devices pays a look at the
directory for a listing. Otherwise the task is
asked to stop when the call has returned, and the tracer calls correct().
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel, registers
from builder.sandbox.engine.step import CONTINUE
from builder.sandbox.engine.systemtrees import DEVICES
from builder.sandbox.engine.view import signed

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Handler, Step

_ENTRY = struct.Struct("<QqHB")  # inode, offset, length of the entry, type; the name follows
_LONGEST = (1 << 16) - 8  # an entry
_IS_DIRECTORY = 4  # DT_DIR
_SHOWN = DEVICES | {b".", b".."}


def _list(step: Step, request: Request) -> int:
    if step.stops and (step.records.devices or _is_dev(_directory(request))):
        step.returning[request.task] = request
        registers.ptrace(registers.INTERRUPT, request.task)
    return CONTINUE


def _directory(request: Request) -> os.stat_result | None:
    try:
        return os.stat(b"/proc/%d/fd/%d" % (request.task, signed(request.arguments[0])))
    except OSError:
        return None


def _is_dev(status: os.stat_result | None) -> bool:
    """Whether a directory is the host's /dev."""
    return status is not None and os.path.samestat(status, os.stat("/dev"))


def correct(step: Step, request: Request, size: int) -> None:
    """Put the types of devices into the `size` bytes that a task was given."""
    buffer = request.arguments[1]
    directory = _directory(request)
    if size <= 0 or directory is None:
        return
    device = directory.st_dev
    data = bytearray(kernel.read_exactly(request.task, buffer, size))
    changed = _is_dev(directory)
    if changed:
        _hide(data)
    at = 0
    while at + _ENTRY.size <= size:
        inode, _, length, _ = _ENTRY.unpack_from(data, at)
        if length <= _ENTRY.size:
            break  # not what the kernel wrote
        if (device, inode) in step.records.devices:
            record = step.records.make((device, inode))
            data[at + _ENTRY.size - 1] = stat.S_IFMT(record.mode) >> 12
            changed = True
        at += length
    if changed:
        kernel.write(request.task, buffer, bytes(data))


def _hide(data: bytearray) -> None:
    """Let entries of /dev that a step cannot open become room after the entry before them."""
    at = last = 0
    while at + _ENTRY.size <= len(data):
        inode, offset, length, _ = _ENTRY.unpack_from(data, at)
        if length <= _ENTRY.size:
            return
        name = bytes(data[at + _ENTRY.size : at + length]).partition(b"\0")[0]
        before = _ENTRY.unpack_from(data, last)
        if name in _SHOWN:
            last = at
        elif not at:  # nothing is before it, and to list nothing is to have come to the end
            _ENTRY.pack_into(data, at, inode, offset, length, _IS_DIRECTORY)
            data[_ENTRY.size : _ENTRY.size + 2] = b".\0"
        elif before[2] + length <= _LONGEST:
            _ENTRY.pack_into(data, last, before[0], offset, before[2] + length, before[3])
        else:
            last = at
        at += length


CALLS: dict[str, Handler] = {"getdents64": _list}
