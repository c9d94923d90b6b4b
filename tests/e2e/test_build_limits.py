"""--memory, --cpus, --pids-limit: real control groups where there are any, a warning elsewhere (C9)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from builder.resources import Limits
from builder.sandbox.cgroup import Cgroups

GREEDY = (
    """awk 'BEGIN { s = "xxxxxxxx"; while (length(s) < 400000000) s = s s; print length(s) }'"""
)


def can_limit():
    """Whether groups can be made for what is limited here."""
    if os.geteuid():
        return False
    cgroups = Cgroups(Limits(memory=64 << 20, pids=9))
    cgroups.close()
    return not cgroups.missing


needs_groups = pytest.mark.skipif(not can_limit(), reason="needs control groups that can be made")

_STEP = re.compile(r"/pybuild-(\d+)-\d+\Z")  # of a builder's process


def groups_left():
    """Groups of steps that were not removed, of builders that are gone; others' builds go on."""
    steps = ((path, _STEP.search(path)) for path, _, _ in os.walk("/sys/fs/cgroup"))
    return [path for path, found in steps if found and not Path("/proc", found[1]).exists()]


@needs_groups
@pytest.mark.parametrize("flags", [(), ("--runtime", "runc")], ids=["ours", "runc"])
def test_a_step_that_wants_too_much_memory_is_killed_and_named(root_pybuild, busybox, flags):
    """C9: the error says what was wrong, with the line; nothing is left, nothing is cached."""
    if flags and not Path("/usr/sbin/runc").exists():
        pytest.skip("needs runc")
    pybuild = root_pybuild.with_state(f"memory{len(flags)}")
    context = pybuild.context(
        f"memory{len(flags)}", f"FROM {busybox}\nRUN true\nRUN {GREEDY} || true\n"
    )
    result = pybuild.run(*flags, "--memory", "32m", context)
    assert result.code == 1
    assert "RUN was killed: out of memory, limit 32m" in result.err
    assert ">>> RUN awk" in result.err
    assert groups_left() == []
    assert pybuild.good("--memory", "2g", context).ending("DONE")[-1].startswith("RUN awk")


@needs_groups
def test_limits_are_no_part_of_the_cache_key(root_pybuild, busybox):
    """K11: memory, processors and processes are not; ulimits and shm-size are (K10)."""
    pybuild = root_pybuild.with_state("keys")
    context = pybuild.context("keys", f"FROM {busybox}\nRUN echo once\n")
    pybuild.good(context)
    limits = (
        "--memory",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "50",
        "--resource",
        "cpu-shares=9",
    )
    assert pybuild.good(*limits, context).ending("CACHED") == ["RUN echo once"]
    assert pybuild.good("--ulimit", "nofile=99", context).ending("DONE") == ["RUN echo once"]
    assert pybuild.good("--shm-size", "1m", context).ending("DONE") == ["RUN echo once"]


@needs_groups
def test_processes_and_processors_are_limited(root_pybuild, busybox):
    """C9: a fork bomb stays within its step; only the processors named are used."""
    pybuild = root_pybuild.with_state("pids")
    bomb = "i=0; while [ $i -lt 60 ]; do sleep 9 & i=$((i+1)); done; echo all"
    context = pybuild.context("pids", f"FROM {busybox}\nRUN {bomb}\n")
    result = pybuild.run("--pids-limit", "30", context)
    assert result.code == 1
    assert "can't fork" in result.err
    seen = pybuild.good(
        "run", "--cpuset-cpus", "0", busybox, "grep", "Cpus_allowed_list", "/proc/self/status"
    )
    assert seen.out.split() == ["Cpus_allowed_list:", "0"]
    assert groups_left() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs an ordinary user beside root")
def test_without_groups_one_warning_says_what_a_limit_is_worth(user_pybuild, busybox):
    """C9: which limits are approximate and which absent; the step still runs, and is kept small."""
    pybuild = user_pybuild.with_state("warned")
    context = pybuild.context("warned", f"FROM {busybox}\nRUN ! {GREEDY}\n")
    result = pybuild.good("--memory", "32m", "--cpus", "1", "--pids-limit", "90", context)
    if "warning: no control group" not in result.err:
        pytest.skip("this user may make control groups")
    assert result.err.count("warning: no control group can be used here") == 1
    for said in (
        "memory 32m is for each process",
        "pids-limit 90",
        "processor time have no effect",
    ):
        assert said in result.err
    assert "systemd-run" in result.err
