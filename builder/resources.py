"""Limits of a step's memory, processors and processes, as data: no part of any cache key (K11).

Knows neither flags nor cgroups.
"""

from __future__ import annotations

from cache.value import value

PERIOD = 100_000  # microseconds; the kernel's own default
GATEWAY = "10.0.2.2"  # what a step whose network is apart has for one
_UNITS = ((1 << 40, "t"), (1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"))


@value
class Limits:
    """Zero and "" mean not limited. `memory_swap` is memory and swap together, -1 for any.

    Processor time is `cpu_quota` microseconds in each `cpu_period`; shares are docker's, where
    1024 is what everybody has.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    cpu_shares: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0


NO_LIMITS = Limits()


def size_text(size: int) -> str:
    """A number of bytes as flags have it: 64m."""
    for unit, letter in _UNITS:
        if size and size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


def numbers(text: str) -> tuple[int, ...]:
    """The numbers of a list such as `0-2,5`, which was checked.

    >>> numbers("0-2,5")
    (0, 1, 2, 5)
    """
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))
