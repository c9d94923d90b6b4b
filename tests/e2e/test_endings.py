"""How steps end, alike in every kind of sandbox that an account can have (R02, D23)."""

from __future__ import annotations

import os
import time

import pytest
from support.running import running

# Only root can change its root.
KINDS = [
    *(("root", kind) for kind in ("userns", "single", "chroot", "emulate") if os.geteuid() == 0),
    *(("user", kind) for kind in ("userns", "single", "emulate")),
]

pytestmark = pytest.mark.parametrize(("pybuild", "kind"), KINDS, indirect=["pybuild"])


def test_what_a_step_leaves_running_ends_with_it(pybuild, busybox, kind):
    """Background processes do not hold the build up, nor outlive it (D23)."""
    first, second, third = (f"{os.getpid()}{number}" for number in (1, 2, 3))
    text = f"RUN sleep {first} & (sleep {second} &) ; setsid sleep {third} & echo started\n"
    started = time.monotonic()
    pybuild.good("--sandbox", kind, pybuild.context("left", f"FROM {busybox}\n{text}"))
    assert time.monotonic() - started < 60
    for number in (first, second, third):
        assert not running("sleep", number)


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 7", 7), ("kill -9 $$", 137), ("nonexistent", 127), ("/etc", 126), ("false", 1)],
)
def test_endings_are_told(pybuild, busybox, kind, command, code):
    """Exit codes are those that shells and runtimes give (R02)."""
    context = pybuild.context("ends", f"FROM {busybox}\nRUN {command}\n")
    done = pybuild.run("--sandbox", kind, "--progress", "plain", context)
    assert done.code == 1
    assert f"exit code: {code}" in done.err
    assert "Dockerfile:2" in done.err
