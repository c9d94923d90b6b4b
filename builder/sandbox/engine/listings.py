"""getdents64: the kernel lists directories itself; types of recorded devices are put right after it.

A step that has no devices pays one look at an empty set for a listing. Otherwise the task is
asked to stop when the call has returned, and the tracer calls correct().
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel, registers
from builder.sandbox.engine.step import CONTINUE
from builder.sandbox.engine.view import signed

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Handler, Step

_ENTRY = struct.Struct("<QqHB")  # inode, offset, length of the entry, type; the name follows


def _list(step: Step, request: Request) -> int:
    if step.records.devices and step.stops:
        step.returning[request.task] = request
        registers.ptrace(registers.INTERRUPT, request.task)
    return CONTINUE


def correct(step: Step, request: Request, size: int) -> None:
    """Put the types of devices into the `size` bytes that a task was given."""
    directory, buffer = request.arguments[:2]
    if size <= 0:
        return
    device = os.stat(b"/proc/%d/fd/%d" % (request.task, signed(directory))).st_dev
    data = bytearray(kernel.read_exactly(request.task, buffer, size))
    changed = False
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


CALLS: dict[str, Handler] = {"getdents64": _list}
