"""Who descends from whom among processes, and the end of everybody below one.

For steps without a PID namespace, whose orphans come to a subreaper. Reads /proc only; knows
nothing of steps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from builder.sandbox import syscalls

_PR_SET_CHILD_SUBREAPER = 36
_PARENT = 1  # field 4 of /proc/PID/stat, counted from the state (field 3)
_A_WHILE = 0.002  # seconds for those who were killed to end
_DEEPEST = 1 << 16  # generations; more than a kernel has processes by default


def adopt_orphans() -> None:
    """Have orphans below the calling process become its children."""
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def parent_of(process: int) -> int:
    """The parent of a process, or of the process that a thread is of; 0 when it is gone."""
    try:
        with open(f"/proc/{process}/stat", "rb", buffering=0) as stream:
            return int(stream.read(4096).rpartition(b")")[2].split(maxsplit=2)[_PARENT])
    except (OSError, ValueError, IndexError):
        return 0


def is_below(process: int, ancestor: int) -> bool:
    """Whether a process descends from another one."""
    here = process
    for _ in range(_DEEPEST):
        here = parent_of(here)
        if here == ancestor:
            return True
        if here <= 1:
            return False
    return False


def below(ancestor: int) -> list[int]:
    """Every process that descends from one, as far as one look can tell."""
    children: dict[int, list[int]] = {}
    for process in _all():
        children.setdefault(parent_of(process), []).append(process)
    found = list(children.get(ancestor, ()))
    for process in found:  # grows while it is gone through
        found += children.get(process, ())
    return found


def children_of(process: int) -> list[int]:
    """The children of a process, those who ended and were not reaped included."""
    return [child for child in _all() if parent_of(child) == process]


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def kill(process: int) -> None:
    """Kill a process that may be gone."""
    _send(process, signal.SIGKILL)


def kill_below(ancestor: int) -> None:
    """Kill every process that descends from one; its death gives the next look what it missed.

    All are stopped before the first dies, so that none can fork faster than they are found.
    """
    stopped: set[int] = set()
    while new := set(below(ancestor)) - stopped:
        stopped |= new
        for process in new:
            _send(process, signal.SIGSTOP)
    for process in stopped:
        _send(process, signal.SIGKILL)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


def end_children() -> None:
    """Kill all that descends from the calling process, which adopts orphans, and reap it."""
    own = os.getpid()
    with contextlib.suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                kill_below(own)
                time.sleep(_A_WHILE)
