"""Resource limits of a step by docker's names (K10, T102). Knows no Dockerfile and no namespace."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from builder.sandbox.spec import SandboxSpec

# Names that Python has no constant for have the kernel's number.
_NUMBERS = {
    "core": resource.RLIMIT_CORE,
    "cpu": resource.RLIMIT_CPU,
    "data": resource.RLIMIT_DATA,
    "fsize": resource.RLIMIT_FSIZE,
    "locks": 10,
    "memlock": resource.RLIMIT_MEMLOCK,
    "msgqueue": resource.RLIMIT_MSGQUEUE,
    "nice": resource.RLIMIT_NICE,
    "nofile": resource.RLIMIT_NOFILE,
    "nproc": resource.RLIMIT_NPROC,
    "rss": resource.RLIMIT_RSS,
    "rtprio": resource.RLIMIT_RTPRIO,
    "rttime": resource.RLIMIT_RTTIME,
    "sigpending": resource.RLIMIT_SIGPENDING,
    "stack": resource.RLIMIT_STACK,
}
NAMES = tuple(_NUMBERS)
# No core file fits into one byte, and for a limit of 1 (not of 0) the kernel starts no program of
# the host's either that is registered for cores.
_NO_CORE = 1


def enter(spec: SandboxSpec) -> None:
    """Put the calling process, and so all it starts, where a step's limits hold.

    Before the root changes: the groups have names in the host's tree only.

    Raises:
        OSError: naming the group.
    """
    for directory in spec.cgroups:
        fd = os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)
    if spec.processors:
        os.sched_setaffinity(0, spec.processors)


def at_most(name: str, amount: int) -> tuple[str, int, int]:
    """A limit for apply() that is no higher than what the calling process may set."""
    allowed = resource.getrlimit(_NUMBERS[name])[1]
    amount = amount if allowed < 0 else min(amount, allowed)
    return (name, amount, amount)


def usual() -> tuple[int, int, int]:
    """The limit of a step that asks for none, with the kernel's number instead of a name."""
    name, soft, hard = at_most("core", _NO_CORE)
    return _NUMBERS[name], soft, hard


def apply(limits: Iterable[tuple[str, int, int]]) -> None:
    """Set limits of the calling process, given as (name, soft, hard); no core unless asked for.

    Raises:
        OSError: naming the limit, mostly because the hard one is above the caller's own.
    """
    wanted = list(limits)
    if all(name != "core" for name, _, _ in wanted):
        wanted.append(at_most("core", _NO_CORE))
    for name, soft, hard in wanted:
        try:
            resource.setrlimit(_NUMBERS[name], (soft, hard))
        except ValueError as error:  # what Python makes of EPERM and EINVAL
            allowed = resource.getrlimit(_NUMBERS[name])[1]
            shown = "unlimited" if allowed < 0 else str(allowed)
            what = f"ulimit {name}={soft}:{hard}, where the host allows {shown}"
            raise OSError(1, "not permitted", what) from error
