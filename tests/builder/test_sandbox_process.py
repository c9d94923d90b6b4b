"""Real steps: what the process is, sees and leaves behind, as root and as an ordinary user."""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support import sandbox_accounts

from cache.value import replace


@pytest.fixture(scope="module", params=["root", "forked", "ordinary"])
def bench(request):
    with sandbox_accounts.bench(request.param) as made:
        yield made


def test_exit_codes_and_streams(bench):
    """Statuses, signals and both streams arrive; stdin is at its end (R02, R04)."""
    results = bench.evaluate(
        "[run(sh(t)) for t in ('echo out; echo err >&2; exit 7', 'kill -9 $$', 'cat; umask')]"
    )
    assert results == [(7, "out\n", "err\n", ()), (137, "", "", ()), (0, "0022\n", "", ())]


def test_programs_that_cannot_run(bench):
    """Not found is 127, not executable 126, each with a message on stderr."""
    bench.tree("odd", {"bin/text": "no program", "bin/lost": "#!/nowhere\n"})
    results = bench.evaluate(
        "[run(step(a, lowers=('odd', 'busybox')))[:3] for a in"
        " ('nope', '/nope', '/etc/passwd', '/etc', 'text', 'lost')]"
    )
    assert results == [
        (127, "", 'exec: "nope": executable file not found in $PATH\n'),
        (127, "", 'exec: "/nope": no such file or directory\n'),
        (126, "", 'exec: "/etc/passwd": permission denied\n'),
        (126, "", 'exec: "/etc": permission denied\n'),
        (126, "", 'exec: "text": exec format error\n'),
        (127, "", 'exec: "lost": executable file not found in $PATH\n'),
    ]


def test_only_the_standard_streams_are_open(bench):
    """Nothing of the builder is left open, in parallel and with mounts too (D02)."""
    results = bench.evaluate(
        "run_all([step('/bin/ls', '/proc/self/fd', mounts=(MemoryFile('/s', b'x'),))] * 1 +"
        " [step('/bin/ls', '/proc/self/fd') for _ in range(3)])"
    )
    assert [r[:2] for r in results] == [(0, "0\n1\n2\n3\n")] * 4


def test_the_builder_is_not_visible(bench):
    """Environment, arguments, memory, files and root of the builder are out of reach (D05, D22)."""
    text = (
        "cat /proc/1/environ /proc/$PPID/environ /proc/*/cmdline; env; ls /proc/1/root/ /proc/1/cwd/;"
        "cat /proc/1/mem; readlink /proc/1/exe; cat /proc/self/environ | tr '\\\\0' '\\\\n'"
    )
    result = bench.evaluate(f'run(sh("{text}"))', CANARY="xyzzy-canary")
    assert "xyzzy" not in result[1]
    assert str(bench.state) not in result[1]
    assert "sandbox_driver" not in result[1]
    assert result[2].count("ermission denied") >= 4


def test_processes_outside_cannot_be_reached(bench):
    """Only the step's own processes exist for it; killing everything spares the builder (D06)."""
    results = bench.evaluate(
        "[run(sh('ls -d /proc/[0-9]* | wc -l; kill -9 1; kill -INT 1; kill -STOP 1; kill -9 -1'"
        "';echo still')), run(step('/bin/echo', 'next'))]"
    )
    assert results[0][0] == 0
    assert int(results[0][1].split()[0]) <= 5
    assert results[1][:2] == (0, "next\n")


def test_no_controlling_terminal(bench):
    """Even with the caller's terminal as stdin there is no /dev/tty (D07)."""
    ours, theirs = pty.openpty()
    command = bench.command("run(sh('tty; echo x > /dev/tty', interactive=True))")
    try:
        done = subprocess.run(
            command,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd="/",
            env=bench.account.environment(),
            start_new_session=True,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "/dev/tty: No such device or address" in done.stdout


def test_privileges(bench):
    """Docker's capabilities, a filter, no no_new_privs; none for others than root (D12)."""
    command = 'grep -E "^(Cap|NoNew|Seccomp:)" /proc/self/status | tr -d "\\\\t"'
    as_root, as_bob = bench.evaluate(
        f"[run(sh('{command}', user=u))[1].split() for u in ('', 'bob')]"
    )
    few, none = "00000000a80425fb", "0" * 16
    rest = ["NoNewPrivs:0", "Seccomp:2"]
    assert as_root == [
        f"CapInh:{none}", f"CapPrm:{few}", f"CapEff:{few}", f"CapBnd:{few}", f"CapAmb:{none}", *rest,
    ]  # fmt: skip
    assert as_bob == [
        f"CapInh:{none}", f"CapPrm:{none}", f"CapEff:{none}", f"CapBnd:{few}", f"CapAmb:{none}", *rest,
    ]  # fmt: skip


def test_the_filter_holds(bench):
    """Mounting, new namespaces and host names are refused (D11, D25)."""
    result = bench.evaluate(
        "run(sh('unshare -r true; unshare -m true; mount -t tmpfs x /tmp; hostname x; umount /proc;"
        "mknod /d b 8 0; nsenter -t 1 -m true; reboot -f; date -s 2000-01-01; chroot / echo ok'))"
    )
    assert result[1].endswith("ok\n")
    assert result[2].count("ermi") >= 8


def test_ids_are_those_of_the_image(bench):
    """USER gives exactly the image's ids; the caller's groups never show (D13, I06, R05)."""
    text = "echo $(id -u):$(id -g):$(id -G):$HOME"
    results = bench.evaluate(
        f"[run(sh('{text}', user=u))[1].strip() for u in"
        " ('', 'bob', 'bob:wheel', '1000:0', '1042:1043', '65534')]"
    )
    assert results == [
        "0:0:0 10:/root",
        "1000:1000:1000 10 20:/home/bob",
        "1000:10:10:/home/bob",
        "1000:0:0:/home/bob",
        "1042:1043:1043:/",
        "65534:65534:65534:/",
    ]


def test_ids_that_cannot_be_are_errors(bench):
    """Unknown names and unmapped numbers end the step before it begins (D14)."""
    results = bench.evaluate(
        "[run(sh('id', user=u))[:3] for u in ('zoe', '4294967295', '0x0', '-1')]"
    )
    assert results[0] == (
        "error",
        "SandboxError",
        "unable to find user zoe: no matching entries in passwd file",
    )
    assert {result[:2] for result in results} == {("error", "SandboxError")}


def test_account_files_that_are_no_files(bench):
    """Links out, devices, fifos and directories as passwd neither block nor are read (E12)."""
    host_only = bench.state / "canary"
    host_only.write_text("bob:x:4711:0::/:\n")
    bench.tree("link", links={"etc/passwd": str(host_only)})
    bench.tree("zero", links={"etc/passwd": "/dev/zero"})
    bench.tree("loop", links={"etc/passwd": "passwd"})
    bench.tree("dir", directories=["etc/passwd"])
    fifo = bench.base / bench.tree("fifo", directories=["etc"]) / "etc" / "passwd"
    os.mkfifo(fifo)
    results = bench.evaluate(
        "[run(sh('true', user='bob', lowers=(name, 'busybox')))[2] for name in"
        " ('link', 'zero', 'loop', 'dir', 'fifo')]"
    )
    assert set(results) == {"unable to find user bob: no matching entries in passwd file"}


def test_a_huge_account_file_is_refused(bench):
    """More than 10 MiB of passwd is an error, not memory (E11)."""
    bench.tree("huge", {"etc/passwd": ""})
    os.truncate(bench.base / "huge" / "etc" / "passwd", 2 << 30)
    result = bench.evaluate("run(sh('true', lowers=('huge', 'busybox')))")
    assert "larger than" in result[2]


def test_background_processes_end_with_the_step(bench):
    """A step ends with its main process, whatever still holds its streams (D23)."""
    start = time.monotonic()
    result = bench.evaluate(
        "run(sh('sleep 98761 & (setsid sleep 98761 &) ; trap \"\" HUP TERM; echo hi'))"
    )
    assert result[:2] == (0, "hi\n")
    assert time.monotonic() - start < 5
    assert sandbox_accounts.processes("98761") == {}


def test_much_output_arrives_whole(bench):
    """Megabytes on both streams arrive in order (D23)."""
    result = bench.evaluate(
        "[len(s) for s in run(sh('yes abc | head -c 3000000; yes x | head -c 1000000 >&2'))[1:3]]"
    )
    assert result == [3000000, 1000000]


def test_cancel_kills_within_two_seconds(bench):
    """Cancelled steps return 137, and the next one runs (F8)."""
    result, seconds = bench.evaluate(
        "cancel_after(sh('trap \"\" TERM INT; sleep 98762 & sleep 98762'), 0.3)"
    )
    assert result[0] == 137
    assert seconds < 2
    assert sandbox_accounts.processes("98762") == {}


def test_a_killed_builder_leaves_no_process(bench):
    """SIGKILL of the builder ends launcher, init and every descendant (R01, F16)."""
    expression = "run(sh('(setsid sleep 98763 &); sleep 98763'))"
    builder = subprocess.Popen(bench.command(expression), cwd="/", env=bench.account.environment())
    deadline = time.monotonic() + 10
    while len(sandbox_accounts.processes("sleep\x0098763")) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(sandbox_accounts.processes("sleep\x0098763")) == 2
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    deadline = time.monotonic() + 5
    while sandbox_accounts.processes("98763") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sandbox_accounts.processes("98763") == {}


def test_steps_run_side_by_side(bench):
    """Four sleeping steps take the time of one."""
    start = time.monotonic()
    results = bench.evaluate("run_all([sh(f'sleep 1; echo {i}') for i in range(4)])")
    assert [result[1] for result in results] == ["0\n", "1\n", "2\n", "3\n"]
    assert time.monotonic() - start < 3.5


def test_the_interpreter_cannot_be_reached_through_proc(bench):
    """Scripts run by /proc/self/exe and writes to any /proc/PID/exe find no host file (D04)."""
    bench.tree("exe", {"bin/evil": "#!/proc/self/exe\n"}, {"bin/self": "/proc/self/exe"})
    probe = (
        "for p in /proc/[0-9]*; do (echo x >> $p/exe) 2>/dev/null && readlink $p/exe; done;"
        "readlink /proc/self/exe"
    )
    results = bench.evaluate(
        "[run(step(a, lowers=('exe', 'busybox'))) for a in ('/bin/evil', '/bin/self')] +"
        f"[run(sh('{probe}'))]"
    )
    assert [result[0] for result in results[:2]] == [126, 126]
    assert results[2][1] == "/bin/busybox\n"


def test_a_python_of_the_users_own_is_not_changed(bench):
    """An interpreter the step's root owns survives every way to its file (D04)."""
    python = bench.account.directory("own") / "python"
    shutil.copy(Path(bench.account.python).resolve(), python)
    os.chown(python, bench.account.uid, bench.account.gid)
    library = subprocess.run(
        bench.account.command(["-c", "import sys; print(sys.base_prefix)"]),
        capture_output=True,
        text=True,
        check=True,
    )
    before = hashlib.sha256(python.read_bytes()).digest()
    bench.tree(
        "overwrite",
        {
            "bin/first": "#!/proc/self/exe\n",
            "bin/loop": "#!/bin/sh\n"
            "for i in $(seq 30); do for p in /proc/[0-9]*; do"
            " (echo x >> $p/exe; echo x >> $p/fd/4; echo x > $p/map_files/*) 2>/dev/null;"
            " done; (exec /bin/first) & done; wait\n",
        },
    )
    own = replace(bench, account=replace(bench.account, python=str(python)))
    results = own.evaluate(
        "run_all([run and step(a, lowers=('overwrite', 'busybox')) for a in"
        " ('/bin/first', '/bin/loop', '/bin/loop')])",
        PYTHONHOME=library.stdout.strip(),
    )
    assert results[0][0] == 126
    assert hashlib.sha256(python.read_bytes()).digest() == before


def test_a_masked_proc_is_shared_instead(bench):
    """Where the kernel refuses a fresh /proc the outer one stands in, still closed (D27)."""
    prefix = ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /proc/timer_list && exec "$@"']
    result = bench.evaluate(
        "run(sh('readlink /proc/self/exe; cat /proc/*/environ | grep -c xyzzy; echo x >"
        " /proc/sys/kernel/core_pattern; cat /proc/keys; kill -9 -1; pwd', cwd='/tmp'))",
        prefix=[*prefix, "sh"],
        CANARY="xyzzy-canary",
    )
    assert result[1] == "/bin/busybox\n0\n/tmp\n"
    assert "Read-only" in result[2]


def test_what_a_step_costs(bench):
    """Twenty steps of nothing stay far below the budget, thrice that where Python is forked (F11)."""
    times = sorted(bench.evaluate("time_steps([step('/bin/true') for _ in range(20)])"))
    assert times[0] < (
        90 if bench.forked else 30
    )  # the least disturbed one: the machine may be busy
