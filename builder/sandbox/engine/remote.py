"""Calls that only a task itself can make, made by it while it waits for the engine's answer.

The tracer's side of it is waited for here, so that nothing else happens meanwhile. Knows nothing
of paths.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

from builder.sandbox.engine import registers
from builder.sandbox.engine.kernel import fail
from builder.sandbox.engine.registers import Registers, ptrace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ALL_CHILDREN = 0x40000000  # __WALL
_STOPPED = 0x7F  # the low byte of a stop's status
_CALL_STOP = 0x80 | 5  # SIGTRAP as PTRACE_O_TRACESYSGOOD marks it
_GONE = 3  # ESRCH
_MASK_SIZE = 8


class Borrowed:
    """A task on its way back from a call, which it will make again unless told otherwise."""

    def __init__(self, task: int, ended: Callable[[int, int], None], *, anew: bool) -> None:
        """`ended` is told if the task ends meanwhile, `anew` says that it repeats its call."""
        self._task = task
        self._ended = ended
        self._anew = anew
        self.registers = Registers.of(task)

    def call(self, number: int, *arguments: int) -> int:
        """What a call returns that the task makes now; none that the engine answers."""
        self.registers.call_now(number, *arguments, anew=self._anew)
        stops = 0
        while stops < 2:  # noqa: PLR2004 - at its begin and at its end
            ptrace(registers.SYSCALL, self._task)
            stops += wait(self._task, self._ended) == _CALL_STOP
        result = Registers.of(self._task).result
        self.registers.store()
        return result


@contextlib.contextmanager
def borrowed(
    task: int,
    release: Callable[[], None],
    ended: Callable[[int, int], None],
    *,
    anew: bool,
) -> Iterator[Borrowed]:
    """A task that waits for an answer, which `release` gives; with `anew` it is to call again.

    Raises:
        ProcessLookupError: it was killed meanwhile.
    """
    ptrace(registers.INTERRUPT, task)
    release()
    wait(task, ended)
    mask = ctypes.c_uint64(0)
    ptrace(registers.GETSIGMASK, task, _MASK_SIZE, ctypes.addressof(mask))
    everything = ctypes.c_uint64((1 << 64) - 1)
    ptrace(registers.SETSIGMASK, task, _MASK_SIZE, ctypes.addressof(everything))
    try:
        yield Borrowed(task, ended, anew=anew)
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile
            ptrace(registers.SETSIGMASK, task, _MASK_SIZE, ctypes.addressof(mask))
            ptrace(registers.CONT, task)


def wait(task: int, ended: Callable[[int, int], None]) -> int:
    """Wait until a task stops; the signal it stops by.

    Raises:
        ProcessLookupError: it ended instead.
    """
    _, status = os.waitpid(task, _ALL_CHILDREN)
    if status & 0xFF != _STOPPED:
        ended(task, status)
        fail(_GONE)
    return status >> 8 & 0xFF
