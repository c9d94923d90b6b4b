"""A sandbox whose steps may use only so much: each in a control group of its own (C9).

Wraps any other. Where groups cannot do it, resource limits of each process stand in, and
`warning` says which limits are only approximate or not there at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.resources import numbers, size_text
from builder.sandbox.cgroup import Cgroups
from builder.sandbox.limits import at_most
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.resources import Limits
    from builder.sandbox.spec import Outcome, Sandbox, SandboxSpec

_KILLED = 137
_ADVICE = "start pybuild with systemd-run --user --scope -p Delegate=yes"


@value
class Substitutes:
    """What stands in for limits that no group enforces, and how that is told."""

    ulimits: tuple[tuple[str, int, int], ...] = ()
    processors: tuple[int, ...] = ()
    told: tuple[str, ...] = ()


def substitutes(limits: Limits, missing: tuple[str, ...]) -> Substitutes:
    """Stand in for what controllers that are missing would do."""
    ulimits: list[tuple[str, int, int]] = []
    processors: tuple[int, ...] = ()
    told = []
    if "memory" in missing:
        ulimits.append(at_most("data", limits.memory))
        told.append(f"memory {size_text(limits.memory)} is for each process, not for the step")
    if "pids" in missing:
        ulimits.append(at_most("nproc", limits.pids))
        told.append(f"pids-limit {limits.pids} counts the processes of all steps of a user")
    if "cpu" in missing:
        told.append("limits of processor time have no effect")
    if "cpuset" in missing:
        if limits.cpuset_cpus:
            processors = numbers(limits.cpuset_cpus)
            told.append(f"cpuset-cpus {limits.cpuset_cpus} can be undone by the step")
        if limits.cpuset_mems:
            told.append("cpuset-mems has no effect")
    return Substitutes(tuple(ulimits), processors, tuple(told))


class LimitedSandbox:
    """Runs steps within limits (implements Sandbox)."""

    def __init__(self, inner: Sandbox, limits: Limits, cgroups: Cgroups | None = None) -> None:
        """Wrap a sandbox; finds out what this host can do."""
        self._inner = inner
        self._limits = limits
        self._cgroups = cgroups or Cgroups(limits)
        self._instead = substitutes(limits, self._cgroups.missing)

    @property
    def warning(self) -> str:
        """What the limits are not, in one line; "" where they are what was asked for."""
        told = self._instead.told
        if not told:
            return ""
        return f"no control group can be used here: {'; '.join(told)} ({_ADVICE} to have them)"

    def run(self, spec: SandboxSpec, output: Callable[[int, bytes], None]) -> Outcome:
        """Run one step; one that ran out of memory has failed, whatever its status."""
        with self._cgroups.step() as group:
            limited = replace(
                spec,
                cgroups=group.directories,
                ulimits=spec.ulimits + self._unless_given(spec),
                processors=self._instead.processors,
            )
            outcome = self._inner.run(limited, output)
            if self._cgroups.out_of_memory(group):
                code = outcome.exit_code or _KILLED
                outcome = replace(outcome, exit_code=code, memory_limit=self._limits.memory)
        return outcome

    def _unless_given(self, spec: SandboxSpec) -> tuple[tuple[str, int, int], ...]:
        """Leave what an --ulimit says alone; a process may not raise its limits."""
        given = {name for name, _, _ in spec.ulimits}
        return tuple(limit for limit in self._instead.ulimits if limit[0] not in given)

    def cancel(self) -> None:
        """Kill every running step."""
        self._inner.cancel()

    def close(self) -> None:
        """End the sandbox."""
        self._inner.close()
        self._cgroups.close()
