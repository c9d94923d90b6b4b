"""The flags that limit a step, and that they are no part of a key (R23, K11)."""

from __future__ import annotations

import pytest

from builder.errors import UsageError
from builder.limitvalues import parse_limits
from builder.options import parse_build
from builder.resources import NO_LIMITS, Limits, numbers, size_text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-m", "64m"], Limits(memory=64 << 20)),
        (["--memory=1g", "--memory-swap", "-1"], Limits(memory=1 << 30, memory_swap=-1)),
        (["--cpus", "1.5"], Limits(cpu_quota=150_000, cpu_period=100_000)),
        (["--cpu-quota", "20000"], Limits(cpu_quota=20_000)),
        (["--cpu-period", "50000", "-c", "512"], Limits(cpu_period=50_000, cpu_shares=512)),
        (
            ["--cpuset-cpus", "0-2,5", "--cpuset-mems=0"],
            Limits(cpuset_cpus="0-2,5", cpuset_mems="0"),
        ),
        (["--pids-limit", "100"], Limits(pids=100)),
        (["--pids-limit", "-1"], NO_LIMITS),
        (
            ["--resource", "memory=64m", "--resource", "cpu-shares=2"],
            Limits(64 << 20, cpu_shares=2),
        ),
        (["--resource", "memory=64m", "--memory", "128m"], Limits(128 << 20)),
        (["--memory", ""], NO_LIMITS),
        ([], NO_LIMITS),
    ],
)
def test_flags_become_limits(words, expected):
    """R23: docker's units and names, by --resource and by flags of their own."""
    assert parse_build([*words, "."], {}).limits == expected


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("memory", "5m"),
        ("memory", "lots"),
        ("memory-swap", "1g"),
        ("cpus", "-1"),
        ("cpus", "0.001"),
        ("cpu-period", "10"),
        ("cpu-shares", "1"),
        ("cpuset-cpus", "3-1"),
        ("cpuset-cpus", "0,"),
        ("cpuset-cpus", "0-99999"),
        ("pids-limit", "many"),
        ("resource", "memory"),
        ("resource", "disk=1"),
    ],
)
def test_nonsense_is_refused(flag, text):
    """R23: an unknown resource or what is no such number."""
    with pytest.raises(UsageError):
        parse_limits([(flag, text)])


@pytest.mark.parametrize(
    "given",
    [
        [("cpus", "1"), ("cpu-quota", "5000")],
        [("memory", "64m"), ("memory-swap", "32m")],
    ],
)
def test_what_contradicts_is_refused(given):
    """R23: two ways to say the same, swap below memory."""
    with pytest.raises(UsageError):
        parse_limits(given)


def test_texts():
    """Sizes as flags have them, lists of processors as numbers."""
    assert [size_text(n) for n in (64 << 20, 1 << 30, 1000)] == ["64m", "1g", "1000"]
    assert numbers("0-2,5,1") == (0, 1, 2, 5)
