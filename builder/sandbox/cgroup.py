"""A control group for each step, where this host lets us make one: version 2 or version 1 (C9).

Chosen by trying. Where our own group may be divided, the builder moves to a leaf of it first,
because version 2 wants no processes in a group whose children are limited. What a group cannot
do here is `missing`; sandbox.limits says what stands in for it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from typing import TYPE_CHECKING

from builder.errors import SandboxError
from builder.resources import PERIOD, Limits
from builder.sandbox.cgroupfs import KernelGroupFiles, read_hierarchies
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from builder.sandbox.cgroupfs import GroupFiles, Hierarchy

_PROCESSES = "cgroup.procs"
_ENABLED = "cgroup.subtree_control"
_REMOVE_TRIES = 100
_REMOVE_PAUSE = 0.01  # seconds; the kernel takes a moment to see that a process is gone
_MAX_SHARES, _MAX_WEIGHT = 262_142, 9_999

Setting = tuple[str, str]  # file, text


@value
class Place:
    """A group that the groups of steps are made in, for some controllers."""

    version: int
    directory: str
    controllers: tuple[str, ...]


@value
class StepGroup:
    """The group of one step: a directory in each tree that is used."""

    directories: tuple[str, ...]
    memory: str = ""  # the file that counts what was killed for want of memory
    version: int = 2


def controllers_of(limits: Limits) -> tuple[str, ...]:
    """The controllers that limits need."""
    wanted = {
        "memory": limits.memory,
        "cpu": limits.cpu_quota or limits.cpu_shares or limits.cpu_period,
        "cpuset": limits.cpuset_cpus or limits.cpuset_mems,
        "pids": limits.pids,
    }
    return tuple(name for name, asked in wanted.items() if asked)


def settings(limits: Limits, version: int, controller: str) -> tuple[Setting, ...]:
    """What to write into a group's files."""
    of_version = {1: _settings_1, 2: _settings_2}[version]
    return tuple((name, text) for name, text in of_version(limits, controller) if text)


def _settings_2(limits: Limits, controller: str) -> tuple[Setting, ...]:
    match controller:
        case "memory":
            swap = {0: "", -1: "max"}.get(
                limits.memory_swap, str(limits.memory_swap - limits.memory)
            )
            # The whole step dies: what is left without one of its processes is no result.
            return (
                ("memory.max", str(limits.memory)),
                ("memory.swap.max", swap),
                ("memory.oom.group", "1"),
            )
        case "cpu":
            period = limits.cpu_period or PERIOD
            quota = str(limits.cpu_quota or "max")
            shares = limits.cpu_shares
            weight = 1 + (shares - 2) * _MAX_WEIGHT // _MAX_SHARES if shares else ""
            return (("cpu.max", f"{quota} {period}"), ("cpu.weight", str(weight)))
        case "cpuset":
            return (("cpuset.cpus", limits.cpuset_cpus), ("cpuset.mems", limits.cpuset_mems))
        case _:
            return (("pids.max", str(limits.pids)),)


def _settings_1(limits: Limits, controller: str) -> tuple[Setting, ...]:
    match controller:
        case "memory":
            swap = limits.memory_swap
            return (
                ("memory.limit_in_bytes", str(limits.memory)),
                ("memory.memsw.limit_in_bytes", str(swap) if swap > 0 else ""),
            )
        case "cpu":
            return (
                ("cpu.cfs_period_us", str(limits.cpu_period or "")),
                ("cpu.cfs_quota_us", str(limits.cpu_quota or "")),
                ("cpu.shares", str(limits.cpu_shares or "")),
            )
        case "cpuset":
            return (("cpuset.cpus", limits.cpuset_cpus), ("cpuset.mems", limits.cpuset_mems))
        case _:
            return (("pids.max", str(limits.pids)),)


class Cgroups:
    """Makes the groups of steps. Found by trying; close it when no step runs any more."""

    def __init__(
        self,
        limits: Limits,
        files: GroupFiles | None = None,
        hierarchies: Sequence[Hierarchy] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Find where groups can be made; moves this process into a leaf where that is needed."""
        self._limits = limits
        self._files = files or KernelGroupFiles()
        self._sleep = sleep
        self._numbers = itertools.count(1)
        self._left: list[tuple[str, str]] = []  # (group we were in, leaf we moved to)
        trees = read_hierarchies() if hierarchies is None else hierarchies
        wanted = controllers_of(limits)
        self._places = [place for tree in trees if (place := self._place(tree, wanted))]
        offered = {name for place in self._places for name in place.controllers}
        self.missing = tuple(name for name in wanted if name not in offered)

    def _place(self, tree: Hierarchy, wanted: Sequence[str]) -> Place | None:
        if tree.version == 1:
            return self._old_place(tree, wanted)
        usable = self._words(f"{tree.own}/cgroup.controllers") & set(wanted)
        for directory in tree.upwards() if usable else ():
            if self._enable(tree, directory, usable) and self._try(directory):
                return Place(2, directory, tuple(sorted(usable)))
        return None

    def _old_place(self, tree: Hierarchy, wanted: Sequence[str]) -> Place | None:
        usable = tuple(name for name in wanted if name in tree.controllers)
        if not usable or not self._try(tree.own, cpuset="cpuset" in usable):
            return None
        return Place(1, tree.own, usable)

    def _words(self, path: str) -> set[str]:
        try:
            return set(self._files.read(path).split())
        except OSError:
            return set()

    def _try(self, directory: str, *, cpuset: bool = False) -> bool:
        """Whether a group can be made here and processes of ours be put into it."""
        probe = f"{directory}/pybuild-{os.getpid()}-probe"
        try:
            self._files.make(probe)
        except OSError:
            return False
        try:
            if cpuset:
                self._fill(probe, directory)
            return self._files.can_hold(probe)
        except OSError:
            return False
        finally:
            self._remove(probe)

    def _fill(self, directory: str, parent: str) -> None:
        """Give a new group of version 1 processors, which it has none of."""
        for file in ("cpuset.cpus", "cpuset.mems"):
            self._files.write(f"{directory}/{file}", self._files.read(f"{parent}/{file}"))

    def _enable(self, tree: Hierarchy, directory: str, usable: set[str]) -> bool:
        """Have the children of a group limited; leave the group for a leaf if it is our own."""
        lacking = usable - self._words(f"{directory}/{_ENABLED}")
        if not lacking:
            return True
        text = " ".join(f"+{name}" for name in sorted(lacking))
        with contextlib.suppress(OSError):
            self._files.write(f"{directory}/{_ENABLED}", text)
            return True
        # In a container all that runs there is of our own kind, and may be moved with us.
        return directory == tree.own and self._leave(directory, text, directory == tree.top)

    def _leave(self, directory: str, text: str, everybody: bool) -> bool:
        leaf = f"{directory}/pybuild-{os.getpid()}"
        try:
            self._files.make(leaf)
        except OSError:
            return False
        self._left.append((directory, leaf))
        try:
            self._files.write(f"{leaf}/{_PROCESSES}", "0")
            if everybody:
                self._move(directory, leaf)
            self._files.write(f"{directory}/{_ENABLED}", text)
        except OSError:
            self._return()  # others share our group: they would have to leave it too
            return False
        return True

    def _move(self, source: str, target: str) -> None:
        for word in self._words(f"{source}/{_PROCESSES}"):
            with contextlib.suppress(OSError):  # gone by now, or the kernel's own
                self._files.write(f"{target}/{_PROCESSES}", word)

    def _return(self) -> None:
        """Go back to the group we came from, if its children need not be limited for others."""
        while self._left:
            directory, leaf = self._left.pop()
            with contextlib.suppress(OSError):
                enabled = self._words(f"{directory}/{_ENABLED}")
                if enabled:
                    text = " ".join(f"-{name}" for name in sorted(enabled))
                    self._files.write(f"{directory}/{_ENABLED}", text)
                self._files.write(f"{directory}/{_PROCESSES}", "0")
                self._move(leaf, directory)
                self._files.remove(leaf)

    def close(self) -> None:
        """Go back to where we came from."""
        self._return()

    @contextlib.contextmanager
    def step(self) -> Iterator[StepGroup]:
        """Make the group of a step; it is killed and removed at the end.

        Raises:
            SandboxError: a limit is refused.
        """
        name = f"pybuild-{os.getpid()}-{next(self._numbers)}"
        made: list[str] = []
        memory, version = "", 2
        try:
            for place in self._places:
                directory = f"{place.directory}/{name}"
                self._make(place, directory, made)
                if "memory" in place.controllers:
                    counter = {1: "memory.oom_control", 2: "memory.events"}[place.version]
                    memory, version = f"{directory}/{counter}", place.version
            yield StepGroup(tuple(made), memory, version)
        finally:
            for directory in made:
                self._remove(directory)

    def _make(self, place: Place, directory: str, made: list[str]) -> None:
        try:
            self._files.make(directory)
            made.append(directory)
            if "cpuset" in place.controllers and place.version == 1:
                self._fill(directory, place.directory)
            for controller in place.controllers:
                for file, text in settings(self._limits, place.version, controller):
                    self._set(directory, file, text)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            msg = f"cannot limit a step: {reason}: {error.filename or directory}"
            raise SandboxError(msg, hint="ask for limits that this host has") from error

    def _set(self, directory: str, file: str, text: str) -> None:
        try:
            self._files.write(f"{directory}/{file}", text)
        except FileNotFoundError:
            # Not in every kernel, and only finer than what the other files say.
            if file not in {"memory.swap.max", "memory.memsw.limit_in_bytes", "memory.oom.group"}:
                raise

    def out_of_memory(self, group: StepGroup) -> bool:
        """Whether a process of the step was killed for want of memory."""
        if not group.memory:
            return False
        try:
            text = self._files.read(group.memory)
        except OSError:
            return False
        rows = (line.split() for line in text.splitlines())
        return any(len(row) == 2 and row[0] == "oom_kill" and row[1] != "0" for row in rows)  # noqa: PLR2004 - a pair

    def _remove(self, directory: str) -> None:
        for _ in range(_REMOVE_TRIES):
            self._kill(directory)
            try:
                self._files.remove(directory)
            except FileNotFoundError:
                return
            except OSError:
                self._sleep(_REMOVE_PAUSE)
            else:
                return

    def _kill(self, directory: str) -> None:
        """Kill what is left in a group; the sandbox has ended it, as a rule."""
        with contextlib.suppress(OSError):
            self._files.write(f"{directory}/cgroup.kill", "1")
            return
        for word in self._words(f"{directory}/{_PROCESSES}"):
            if word.isdigit() and int(word):
                with contextlib.suppress(OSError):
                    os.kill(int(word), signal.SIGKILL)
