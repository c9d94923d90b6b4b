"""Control groups of steps: where they are made, what is written, what stands in for them (C9)."""

from __future__ import annotations

import os

import pytest
from support.fake_cgroups import FakeGroups
from support.fake_sandbox import FakeSandbox, Program

from builder.errors import SandboxError
from builder.resources import Limits
from builder.sandbox.cgroup import Cgroups, controllers_of, settings
from builder.sandbox.cgroupfs import Hierarchy, hierarchies
from builder.sandbox.limited import LimitedSandbox, substitutes
from builder.sandbox.spec import Outcome, Overlay, Process, SandboxSpec

TOP = "/sys/fs/cgroup"
ALL = ("cpu", "cpuset", "memory", "pids")
SOME = Limits(memory=64 << 20, pids=20)
SPEC = SandboxSpec(Overlay("/", (), "/", "/"), Process(("x",), ()))


def groups_of(files, own, limits=SOME):
    return Cgroups(limits, files, [Hierarchy(2, TOP, own)], sleep=lambda _: None)


def test_a_tree_of_version_2_is_found_where_it_is_mounted():
    """C9: the group of /proc/self/cgroup below the mount of mountinfo."""
    mounts = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    assert hierarchies("0::/user.slice/a.scope\n", mounts) == (
        Hierarchy(2, TOP, f"{TOP}/user.slice/a.scope"),
    )


def test_trees_of_version_1_are_found_by_controller():
    """C9: each controller has its own tree; a mount below a root is relative to it."""
    mounts = (
        "40 30 0:30 /docker/a /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "42 30 0:32 / /mnt/a\\040b rw - cgroup cgroup rw,pids\n"
    )
    text = "3:memory:/docker/a/x\n2:cpu,cpuacct:/\n4:pids:/p\n5:freezer:/\n"
    memory, cpu, pids = hierarchies(text, mounts)
    assert (memory.version, memory.own) == (1, f"{TOP}/memory/x")
    assert (cpu.controllers, cpu.own) == (("cpu", "cpuacct"), f"{TOP}/cpu,cpuacct")
    assert pids.own == "/mnt/a b/p"


@pytest.mark.parametrize(
    ("groups", "mounts"),
    [
        ("0::/../x\n", "30 24 0:26 / /c rw - cgroup2 c rw\n"),
        ("0::/other\n", "30 24 0:26 /mine /c rw - cgroup2 c rw\n"),
        ("", ""),
        (":::::\n\n0:", "x - cgroup2\n - cgroup2 \n"),
        ("0::/\n", "30 24 0:26 / /c rw - tmpfs cgroup2 rw\n"),
    ],
)
def test_what_is_not_there_is_not_found(groups, mounts):
    """C9: groups outside our namespace, other mounts, and nonsense."""
    assert hierarchies(groups, mounts) == ()


def test_delegated_group_is_divided_after_moving_into_a_leaf():
    """C9: a scope of our own (systemd-run, a pod): no processes where children are limited."""
    own = f"{TOP}/run.scope"
    files = FakeGroups(TOP, ALL, writable=own, enabled=ALL, processes=[(own, 0)])
    files.add(own)
    cgroups = groups_of(files, own)
    assert cgroups.missing == ()
    assert files.where[0] == f"{own}/pybuild-{os.getpid()}"
    with cgroups.step() as group:
        (directory,) = group.directories
        assert directory.startswith(f"{own}/pybuild-")
        assert files.files[f"{directory}/memory.max"] == str(64 << 20)
        assert files.files[f"{directory}/pids.max"] == "20"
    assert files.killed[-1] == directory
    cgroups.close()
    assert files.where[0] == own
    assert set(files.groups) == {TOP, own}


def test_groups_go_beside_ours_when_we_share_it():
    """C9: a terminal's scope holds a shell too; its slice is ours and divided already."""
    slice_, own = f"{TOP}/app.slice", f"{TOP}/app.slice/terminal.scope"
    files = FakeGroups(TOP, ALL, writable=slice_, enabled=ALL, processes=[(own, 0), (own, 77)])
    files.add(slice_, enabled=("memory", "pids"))
    files.add(own)
    cgroups = groups_of(files, own)
    assert (cgroups.missing, files.where[0]) == ((), own)
    with cgroups.step() as group:
        assert os.path.dirname(group.directories[0]) == slice_


def test_in_a_container_what_shares_our_group_moves_along():
    """C9: the top of a namespace of groups holds the container's first process, too."""
    files = FakeGroups(TOP, ALL, processes=[(TOP, 0), (TOP, 1)], root="elsewhere")
    cgroups = groups_of(files, TOP)
    assert cgroups.missing == ()
    assert files.where[1] == files.where[0] == f"{TOP}/pybuild-{os.getpid()}"
    cgroups.close()
    assert set(files.where.values()) == {TOP}
    assert set(files.groups) == {TOP}


def test_a_group_that_takes_no_process_of_ours_is_no_use():
    """C9: who may move a process is decided by what lies between there and here."""
    files = FakeGroups(TOP, ALL, processes=[(TOP, 0)])
    files.closed.add(f"{TOP}/pybuild-{os.getpid()}-probe")
    assert groups_of(files, TOP).missing == ("memory", "pids")
    assert set(files.groups) == {TOP}


def test_a_group_we_may_not_write_is_no_use():
    """C9: an ordinary user without delegation has none of the controllers."""
    own = f"{TOP}/session.scope"
    files = FakeGroups(TOP, ALL, writable="/nowhere", enabled=ALL, processes=[(own, 0)])
    files.add(own)
    assert groups_of(files, own).missing == ("memory", "pids")


def test_a_controller_the_host_does_not_give_is_missing():
    """C9: what is left is used."""
    files = FakeGroups(TOP, ("pids",), processes=[(TOP, 0)])
    cgroups = groups_of(files, TOP)
    assert cgroups.missing == ("memory",)
    with cgroups.step() as group:
        assert f"{group.directories[0]}/pids.max" in files.files


def test_a_refused_limit_is_an_error_and_leaves_nothing():
    """C9: the kernel says no; the group is gone."""
    files = FakeGroups(TOP, ALL, processes=[(TOP, 0)])
    cgroups = groups_of(files, TOP, Limits(cpuset_cpus="9"))
    files.groups["x"] = set()
    write = files.write

    def refuse(path, text):
        if path.endswith("cpuset.cpus"):
            raise OSError(34, "Numerical result out of range", path)
        write(path, text)

    files.write = refuse
    with pytest.raises(SandboxError, match="cannot limit a step: numerical"), cgroups.step():
        pass
    assert set(files.groups) == {TOP, "x"}


def test_values_are_the_kernels():
    """R23: docker's units become those of either version."""
    limits = Limits(64, -1, 50_000, 100_000, 1024, "0-1", "0", 9)
    assert controllers_of(limits) == ("memory", "cpu", "cpuset", "pids")
    assert settings(limits, 2, "memory") == (
        ("memory.max", "64"),
        ("memory.swap.max", "max"),
        ("memory.oom.group", "1"),
    )
    assert settings(limits, 2, "cpu") == (("cpu.max", "50000 100000"), ("cpu.weight", "39"))
    assert settings(limits, 1, "cpu") == (
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.shares", "1024"),
    )
    assert settings(Limits(memory=64, memory_swap=96), 2, "memory")[1] == ("memory.swap.max", "32")
    assert settings(Limits(memory=64, memory_swap=96), 1, "memory")[1][1] == "96"


def test_what_stands_in_is_said_once():
    """C9: one warning names what is approximate and what is absent."""
    limits = Limits(64 << 20, pids=5, cpu_quota=1, cpuset_cpus="0,2", cpuset_mems="0")
    instead = substitutes(limits, ("memory", "cpu", "cpuset", "pids"))
    assert instead.ulimits == (("data", 64 << 20, 64 << 20), ("nproc", 5, 5))
    assert instead.processors == (0, 2)
    assert len(instead.told) == 5
    assert substitutes(limits, ()).told == ()


class Recording(FakeSandbox):
    """Keeps what it was given; runs out of memory on demand."""

    def __init__(self, files, counter):
        super().__init__({("x",): Program()})
        self._files, self._counter, self.spec = files, counter, None

    def run(self, spec, output):
        self.spec = spec
        self._files.files[f"{spec.cgroups[0]}/memory.events"] = self._counter
        return Outcome(0)


@pytest.mark.parametrize(("counter", "expected"), [("oom 2\noom_kill 0\n", 0), ("oom_kill 1\n", 1)])
def test_a_step_that_ran_out_of_memory_failed(counter, expected):
    """C9: even if its shell carried on, since limits are no part of the cache key (K11)."""
    files = FakeGroups(TOP, ALL, processes=[(TOP, 0)])
    inner = Recording(files, counter)
    sandbox = LimitedSandbox(inner, SOME, groups_of(files, TOP))
    outcome = sandbox.run(SPEC, lambda *_: None)
    assert (outcome.exit_code, outcome.memory_limit) == (137 * expected, expected * (64 << 20))
    assert sandbox.warning == ""
    assert inner.spec.ulimits == ()
