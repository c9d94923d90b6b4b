"""The processes of a step that nobody traces: all that descend from the supervisor.

The supervisor adopts orphans, so that nobody gets lost. Knows nothing of calls.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from builder.sandbox import lineage
from builder.sandbox.engine.kernel import fail

_NO_SUCH_PROCESS = 3
_MAX_STATUS = 1 << 16  # bytes of /proc/PID/status; groups make it long
_FIELDS = (b"Tgid:", b"Uid:", b"Gid:", b"Groups:", b"Umask:")


class Owner(NamedTuple):
    """Who a task is to the kernel: its process, ids (real, effective, saved, for files), umask."""

    process: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    umask: int

    @property
    def is_root(self) -> bool:
        """Whether its files and rights are root's."""
        return self.uids[3] == 0 and self.gids[3] == 0


def owner_of(task: int) -> Owner:
    """Who a task is.

    Raises:
        ProcessLookupError: it is gone.
    """
    try:
        with open(f"/proc/{task}/status", "rb", buffering=0) as stream:
            lines = (stream.read(_MAX_STATUS) or b"").splitlines()
    except OSError:
        fail(_NO_SUCH_PROCESS)
    found = {
        line.partition(b":")[0]: line.split()[1:] for line in lines if line.startswith(_FIELDS)
    }
    process, uids, gids, groups = (
        tuple(int(word) for word in found[name]) for name in (b"Tgid", b"Uid", b"Gid", b"Groups")
    )
    return Owner(process[0], uids, gids, groups, int(found[b"Umask"][0], 8))


class Descendants:
    """The processes of one step, for the supervisor's loop."""

    def __init__(self) -> None:
        """Nobody is there yet."""
        self._own = os.getpid()
        self._first = 0
        self.status: dict[int, int] = {}

    def begin(self, child: int) -> None:
        """Take in the first process; nothing has to be done to it."""
        self._first = child

    def reap(self) -> bool:
        """Reap whoever has ended; whether any are left."""
        while True:
            try:
                task, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if task == 0:
                return True
            self.ended(task, status)

    def ended(self, task: int, status: int) -> None:
        """Note how a process ended, or that it stopped for us."""
        if task == self._first and not os.WIFSTOPPED(status):
            self.status[task] = status

    def kill(self) -> None:
        """Kill what is left of the step."""
        lineage.kill_below(self._own)

    def are_ours(self, process: int) -> bool:
        """Whether a process or thread belongs to the step."""
        return process > 1 and lineage.is_below(process, self._own)

    def everybody(self) -> list[int]:
        """Every process of the step."""
        return lineage.below(self._own)
