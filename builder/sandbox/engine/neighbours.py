"""Calls on other processes where nobody traces: within the step, and as if nobody else were there.

Who belongs to the step is told by descent; what is allowed is the kernel's to do.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from builder.sandbox.engine.descendants import owner_of
from builder.sandbox.engine.kernel import fail
from builder.sandbox.engine.step import CONTINUE
from builder.sandbox.engine.view import signed

if TYPE_CHECKING:
    from builder.sandbox.engine.descendants import Descendants
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Handler, Step

_EVERYONE = -1
_TRACE_ME = 0


class Neighbours:
    """Handlers of one step."""

    def __init__(self, tasks: Descendants) -> None:
        """Know who belongs to the step."""
        self._tasks = tasks

    def calls(self) -> dict[str, Handler]:
        """Calls on other processes: within the step, and as if nobody else were there."""
        one: tuple[tuple[str, int], ...] = (
            *(("tkill", 0), ("tgkill", 0), ("rt_sigqueueinfo", 0), ("rt_tgsigqueueinfo", 0)),
            *(("pidfd_open", 0), ("process_vm_readv", 0), ("process_vm_writev", 0)),
            ("prlimit64", 0),
        )
        found: dict[str, Handler] = {name: self._one(position) for name, position in one}
        return found | {"kill": self._kill, "ptrace": self._trace}

    def _one(self, position: int) -> Handler:
        def handle(_step: Step, request: Request) -> int:
            target = signed(request.arguments[position])
            if target and target != request.task and not self._tasks.are_ours(target):
                fail(errno.ESRCH)
            return CONTINUE

        return handle

    def _trace(self, _step: Step, request: Request) -> int:
        if signed(request.arguments[0]) != _TRACE_ME and not self._tasks.are_ours(
            signed(request.arguments[1])
        ):
            fail(errno.ESRCH)
        return CONTINUE

    def _kill(self, _step: Step, request: Request) -> int:
        target, number = (signed(argument) for argument in request.arguments[:2])
        if target == _EVERYONE:
            own = owner_of(request.task).process
            for process in self._tasks.everybody():
                if process != own:
                    os.kill(process, number)
            return 0
        if target > 0 and not self._tasks.are_ours(target):
            fail(errno.ESRCH)
        if target < 0 and not self._is_our_group(-target):
            fail(errno.ESRCH)
        return CONTINUE

    def _is_our_group(self, group: int) -> bool:
        for process in self._tasks.everybody():
            try:
                if os.getpgid(process) == group:
                    return True
            except ProcessLookupError:
                continue
        return False
