"""What a build may change about a step: its limits, its shared memory, what keeps it in."""

from __future__ import annotations

import pytest
from support import sandbox_accounts

EVERYTHING = 0x1FFFFFFFF  # at least these bits: the capabilities of Linux 3.5


@pytest.fixture(scope="module", params=["root", "ordinary"])
def bench(request):
    with sandbox_accounts.bench(request.param) as made:
        yield made


def test_limits_are_the_processes(bench):
    """Soft and hard limits are those asked for, by docker's names (K10, T102)."""
    text = "ulimit -n; ulimit -Hn; ulimit -c; ulimit -t"
    asked = "(('nofile', 100, 200), ('core', 0, 0), ('cpu', 50, 60))"
    assert bench.evaluate(f"run(sh({text!r}, ulimits={asked}))[:2]") == (0, "100\n200\n0\n50\n")


def test_a_limit_above_the_hosts_is_an_error(bench):
    """What the kernel does not allow is said by name, with what it allows (K10)."""
    kind, name, message, _ = bench.evaluate("run(sh('true', ulimits=(('nofile', 10, 2**40),)))")
    assert (kind, name) == ("error", "SandboxError")
    assert message.startswith(
        f"cannot set up the process: ulimit nofile=10:{2**40}, where the host"
    )


def test_shared_memory_has_its_size(bench):
    """/dev/shm is 64 MiB or what was asked for (T102)."""
    text = "df -k /dev/shm | awk 'NR==2{print $2}'"
    assert bench.evaluate(f"run(sh({text!r}))[1]") == "65536\n"
    assert bench.evaluate(f"run(sh({text!r}, shm_size=1 << 27))[1]") == "131072\n"


@pytest.mark.parametrize("user", ["", "1000:1000"])
def test_insecure_steps_have_everything(bench, user):
    """An insecure step has all capabilities, whoever it is, nothing masked or forbidden (R21, F3)."""
    text = (
        "grep -e CapEff -e CapAmb -e Seccomp: /proc/self/status; mount -t tmpfs x /tmp && echo ok"
    )
    code, out, err, _ = bench.evaluate(f"run(sh({text!r}, insecure=True, user={user!r}))")
    fields = dict(line.split() for line in out.splitlines()[:3])
    assert (code, err, out.splitlines()[-1]) == (0, "", "ok")
    assert fields["Seccomp:"] == "2"  # a filter that forbids nothing: devices it makes are recorded
    for name in ("CapEff:", "CapAmb:"):
        assert int(fields[name], 16) & EVERYTHING == EVERYTHING


def test_other_steps_have_not(bench):
    """A step beside an insecure one is kept in as ever (R09)."""
    text = "mount -t tmpfs x /tmp 2>/dev/null || echo refused"
    assert bench.evaluate(f"run(sh({text!r}))[1]") == "refused\n"
