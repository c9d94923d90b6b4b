"""Builds that are stopped or killed in the middle of a step, in one place of each kind (F8, F16)."""

from __future__ import annotations

import os
import signal

import pytest
from support import bases
from support.environments import ENVIRONMENTS
from support.step_layers import members

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")

STEPS = """\
RUN mkdir /d && chown 3:4 /d && rm /etc/group
RUN --mount=type=secret,id=go test -s /run/secrets/go || { echo half > /half; sleep 9876543; }; \\
    echo done > /d/done && chown 5:6 /d
"""
# Starts the command, sends a signal once there is a process with that argument, and waits for it.
# Prints how it ended, how many of those are there two seconds later, and whether the mounts whose
# lines have a word are as before.
STOP = """\
import os, subprocess, sys, time
def found():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline").read().split(chr(0))
        except OSError:
            continue
        if "9876543" in words:
            yield pid
def wait(seconds, wanted):
    limit = time.monotonic() + seconds
    while bool(list(found())) != wanted and time.monotonic() < limit:
        time.sleep(0.02)
def mounts():
    return [line for line in open("/proc/self/mountinfo") if sys.argv[2] in line]
before = mounts()
child = subprocess.Popen(sys.argv[3:], stderr=subprocess.DEVNULL)
wait(60, True)
os.kill(child.pid, int(sys.argv[1]))
code = child.wait()
wait(2, False)
print(code, len(list(found())), mounts() == before)
"""


@pytest.fixture(scope="module")
def context(workspace):
    """A context whose second step sleeps unless a secret says go."""
    context = bases.busybox_context(workspace / "endings")
    with (context / "Dockerfile").open("a") as file:
        file.write(STEPS)
    (context / "go").write_text("go")
    (context / "stay").write_text("")
    return context


@pytest.fixture(scope="module")
def expected(root_pybuild, workspace, context):
    """The layers of a build that nobody stops."""
    output = workspace / "endings-expected"
    flags = ("--sandbox", "userns", "-o", f"type=oci,tar=false,dest={output}")
    root_pybuild.good(*flags, "--secret", f"id=go,src={context / 'go'}", context)
    return members(output)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
@pytest.mark.parametrize("name", ["1", "2a", "3", "4", "5"])
def test_nothing_is_left_and_the_next_build_is_right(name, number, code, host, context, expected):
    """No process two seconds later, no mount, no poisoned cache, no half-written layer."""
    here = host(ENVIRONMENTS[name])
    seen = here.add(context)
    python = here.pybuild.python
    where = "" if here.environment.pod else here.home  # on the machine others mount, too
    command = (python, "-P", "-m", "builder", "--secret", f"id=go,src={seen / 'stay'}", seen)
    done = here.run_python("-c", STOP, int(number), where, *command)
    assert done.stdout.split() == [str(code), "0", "True"], done.stderr
    output = f"type=oci,tar=false,dest={here.seen / 'out'}"
    here.good("--secret", f"id=go,src={seen / 'go'}", "-o", output, seen)
    assert members(here.home / "out") == expected
    here.good("prune", "--all")
    assert here.left() == []
