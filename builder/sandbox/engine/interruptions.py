"""The processes of a step that need no tracer but for this: a signal must not end a notified call.

The kernel ends a call as interrupted if a signal comes before the supervisor heard of it, which
no call on a file is prepared for. So every process is traced, and stops for signals and births only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from typing import TYPE_CHECKING

from builder.sandbox.engine import registers
from builder.sandbox.engine.registers import Registers, ptrace

if TYPE_CHECKING:
    from collections.abc import Collection

    from builder.sandbox.engine.abi import Abi

_OPTIONS = (
    registers.O_EXITKILL
    | registers.O_TRACEFORK
    | registers.O_TRACEVFORK
    | registers.O_TRACECLONE
)  # fmt: skip
_BIRTHS, _STOP = frozenset({1, 2, 3}), 128
_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_ALL_CHILDREN = 0x40000000  # __WALL


class Interruptions:
    """Sees to it that calls by these names begin anew after a signal."""

    def __init__(self, abi: Abi, answered: Collection[str]) -> None:
        """Trace nothing yet."""
        self._numbers = {abi.numbers[name] for name in answered if name in abi.numbers}

    def begin(self, process: int) -> None:
        """Trace a process and its descendants; where that is forbidden, signals interrupt."""
        with contextlib.suppress(PermissionError):
            ptrace(registers.SEIZE, process, 0, _OPTIONS)

    def reap(self) -> dict[int, int]:
        """Let go on what has stopped; the status of what has ended."""
        ended: dict[int, int] = {}
        with contextlib.suppress(ChildProcessError):
            while True:
                task, status = os.waitpid(-1, os.WNOHANG | _ALL_CHILDREN)
                if not task:
                    break
                if not os.WIFSTOPPED(status):
                    ended[task] = status
                    continue
                with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                    self._stopped(task, os.WSTOPSIG(status), status >> 16)
        return ended

    def _stopped(self, task: int, number: int, event: int) -> None:
        if event in _BIRTHS:
            ptrace(registers.CONT, task)
        elif event == _STOP:
            ptrace(registers.LISTEN if number in _STOPPING else registers.CONT, task)
        else:
            with contextlib.suppress(struct.error, ValueError):  # another architecture's
                found = Registers.of(task)
                if found.interrupted and found.number in self._numbers:
                    found.begin_anew()
            ptrace(registers.CONT, task, 0, number)
