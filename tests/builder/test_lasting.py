"""Supervisors that serve one step after another: what they keep, and what they must not."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from support import busybox_root

from builder.sandbox import trial
from builder.sandbox.engine import supervisor
from builder.sandbox.launch import LaunchedSandbox
from builder.sandbox.spec import PlainRoot, Process, SandboxSpec

STARTS = {"emulate": LaunchedSandbox.start_plain, "chroot": LaunchedSandbox.start_chroot}
SUPERVISOR = "grep TracerPid: /proc/$$/status"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its root")


class Steps:
    """Steps in one tree."""

    def __init__(self, sandbox, tree):
        self.sandbox = sandbox
        self.tree = tree

    def run(self, script, **settings):
        """Run a shell's script: status and output."""
        output = {1: b"", 2: b""}

        def collect(stream, data):
            output[stream] += data

        spec = SandboxSpec(
            root=PlainRoot(str(self.tree)),
            process=Process(("/bin/busybox", "sh", "-c", script), (("PATH", "/bin"),)),
            **settings,
        )
        outcome = self.sandbox.run(spec, collect)
        return outcome.exit_code, output[1].decode(), output[2].decode()

    def supervisor(self, **settings):
        """The process that serves a step."""
        code, said, _ = self.run(SUPERVISOR, **settings)
        assert code == 0
        return int(said.split()[1])


@pytest.fixture(params=STARTS)
def steps(request, tmp_path):
    """A sandbox and a tree with busybox."""
    tree, scratch = tmp_path / "tree", tmp_path / "scratch"
    for directory in (tree / "bin", tree / "proc", tree / "tmp", scratch):
        directory.mkdir(parents=True)
    tmp_path.chmod(0o711)
    shutil.copy(busybox_root.BUSYBOX, tree / "bin/busybox")
    for name in ("grep", "ls", "sleep", "id", "cat"):
        (tree / "bin" / name).symlink_to("busybox")
    sandbox = STARTS[request.param](str(scratch))
    yield Steps(sandbox, tree)
    sandbox.close()


def test_steps_in_turn_have_one_supervisor(steps):
    """No Python is forked for the second step."""
    first = steps.supervisor()
    assert [steps.supervisor() for _ in range(3)] == [first] * 3


def test_nothing_stays_open_between_steps(steps):
    """The files of a step, its root among them, are closed when it has ended."""
    supervisor = steps.supervisor()
    files = Path(f"/proc/{supervisor}/fd")
    steps.run("exec 3</bin/busybox; ls -R /bin >/dev/null; cat /proc/self/status")
    few = sorted(os.readlink(file) for file in files.iterdir())
    steps.run("ls -R /bin; sleep 0.01 & exit 3")
    assert sorted(os.readlink(file) for file in files.iterdir()) == few
    assert not [name for name in few if str(steps.tree) in name]
    assert steps.supervisor() == supervisor


def test_a_step_meets_nothing_of_the_one_before(steps):
    """Ids, umask, directory, streams and status are its own."""
    supervisor = steps.supervisor()
    assert steps.run("umask 077; cd /tmp; echo a; exit 4") == (4, "a\n", "")
    said = steps.run("umask; pwd; id -u; ls /proc/self/fd >/dev/null; echo e >&2")
    assert said == (0, "0022\n/\n0\n", "e\n")
    assert steps.run("kill -9 $$")[0] == 137
    assert steps.run("lost")[0] == 127
    assert steps.supervisor() == supervisor


def test_a_supervisor_that_was_killed_is_replaced(steps):
    """While it waits for a step, or serves one."""
    supervisor = steps.supervisor()
    os.kill(supervisor, signal.SIGKILL)
    time.sleep(0.2)
    another = steps.supervisor()
    assert another != supervisor
    timer = threading.Timer(0.3, lambda: os.kill(another, signal.SIGKILL))
    timer.start()
    assert steps.run("sleep 20")[0] == 137
    assert steps.supervisor() not in {supervisor, another}


def test_a_cancelled_step_ends_with_its_supervisor(steps):
    """The next one gets another."""
    supervisor = steps.supervisor()
    timer = threading.Timer(0.3, steps.sandbox.cancel)
    timer.start()
    assert steps.run("sleep 20")[0] == 137
    assert steps.supervisor() != supervisor


def test_who_changed_what_another_step_would_meet_does_not_last(steps):
    """Processors are those of one step only."""
    processors = tuple(sorted(os.sched_getaffinity(0)))
    supervisor = steps.supervisor(processors=processors[:1])
    assert steps.supervisor() != supervisor
    said = steps.run("grep Cpus_allowed_list /proc/$$/status")[1]
    assert len(said.split()[1]) == len(f"{processors[0]}-{processors[-1]}")


def test_who_may_wait_for_another_step():
    """One with the rights it began with, of little growth, and without a child that lives."""

    def asked():
        rights, memory = supervisor._rights(), supervisor._memory()
        found = [
            supervisor._is_free(rights, memory),
            supervisor._is_free((), memory),
            supervisor._is_free(rights, memory - supervisor._MOST_GROWTH),
        ]
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        found.append(supervisor._is_free(rights, memory))
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        found.append(supervisor._is_free(rights, memory))
        return found

    assert trial.in_child(asked) == [True, False, False, False, True]


def test_steps_side_by_side_have_a_supervisor_each(steps):
    """Of which a few wait for further steps, the rest ends."""
    found = []
    threads = [
        threading.Thread(
            target=lambda: found.append(steps.run(f"{SUPERVISOR}; sleep 0.5")[1].split()[1])
        )
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 5
    deadline = time.monotonic() + 10
    while alive(found) != 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(found) == 2
    assert str(steps.supervisor()) in found


def alive(pids):
    """How many of the processes there are."""
    return sum(Path(f"/proc/{pid}").exists() for pid in pids)
