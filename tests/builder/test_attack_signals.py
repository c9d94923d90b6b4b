"""Signals at awkward moments end a build as a signal does, with nothing else said (S-R21)."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from builder import interrupt
from builder.cli import main
from builder.errors import CancelledBuildError
from builder.sandbox.trial import in_child
from cache.errors import PybuildError


def _soon(number):
    """Send this process a signal in a moment."""
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()


def test_a_signal_during_a_trial_is_that_signal():
    """S-R21: the child of a trial of the host ends, and the signal is what comes out."""
    before = time.monotonic()
    _soon(signal.SIGINT)
    with pytest.raises(CancelledBuildError), interrupt.raised():
        in_child(lambda: time.sleep(60))
    assert time.monotonic() - before < 30
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_handles_errors_does_not_handle_signals(monkeypatch, capsys, number):
    """S-R21: a signal while a key is computed or a base looked up is no error of that step."""

    def dispatch(_words):
        with interrupt.raised():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            except (PybuildError, Exception):  # noqa: BLE001 - what a step might do about any error
                return 0

    monkeypatch.setattr("builder.cli._dispatch", dispatch)
    assert main(["x"]) == 128 + number
    assert capsys.readouterr().err == "pybuild: error: interrupted\n"


def _process(context, state, stderr):
    """A build as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "builder", "--progress", "plain", str(context)],
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PYBUILD_ROOT": str(state)},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
    )


@pytest.fixture
def talkative(tmp_path):
    """A context whose build says more than a small pipe holds."""
    context = tmp_path / "context"
    context.mkdir()
    lines = [f"COPY Dockerfile /{'long' * 30}{number}" for number in range(60)]
    (context / "Dockerfile").write_text("\n".join(["FROM scratch", *lines, ""]))
    return context


def test_a_pipe_nobody_reads_does_not_keep_a_build(tmp_path, talkative):
    """S-R21: blocked in writing its progress, it still ends within ten seconds of a signal."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    process = _process(talkative, tmp_path / "state", write_end)
    os.close(write_end)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) in {-signal.SIGALRM, -signal.SIGTERM, 128 + signal.SIGTERM}
    os.close(read_end)


@pytest.mark.parametrize(("where", "status"), [("/dev/full", 1), ("closed", 128 + 13)])
def test_messages_nobody_can_have_end_as_any_error(tmp_path, talkative, where, status):
    """S-R21: the statuses of a full disk and of a closed pipe, not the interpreter's own."""
    if where == "closed":
        read_end, write_end = os.pipe()
        os.close(read_end)
    else:
        write_end = os.open(where, os.O_WRONLY)
    process = _process(talkative, tmp_path / "state", write_end)
    os.close(write_end)
    assert process.wait(60) == status


def _ended(words, context, state, redirection):
    """The status and messages of a command whose streams a shell redirected."""
    return subprocess.run(
        ["/bin/sh", "-c", f'"$0" -P -m builder "$@" {redirection}', sys.executable, *words],
        check=False,
        capture_output=True,
        text=True,
        cwd=context,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PYBUILD_ROOT": str(state)},
        timeout=60,
    )


def test_an_archive_for_a_closed_standard_output_is_an_error(tmp_path, talkative):
    """S-R21, R43: nothing can be written there, so the build does not say that it was."""
    done = _ended(["-o", "type=tar", "."], talkative, tmp_path / "state", ">&-")
    assert done.returncode == 1
    assert "cannot write to standard output: Bad file descriptor" in done.stderr
    assert "written" not in done.stderr


@pytest.mark.parametrize("words", [["version"], ["nosuchthing"], ["-o", "type=tar", "."]])
@pytest.mark.parametrize("redirection", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"])
def test_no_full_stream_ends_a_command_with_the_interpreters_status(
    tmp_path, talkative, words, redirection
):
    """S-R21: whatever cannot be written, the status is one of those that are documented."""
    done = _ended(words, talkative, tmp_path / "state", redirection)
    assert done.returncode in {0, 1, 2}
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("both", [">&1 2>&1", "2>/dev/null"])
def test_an_archive_whose_reader_has_enough_ends_as_by_that_signal(tmp_path, talkative, both):
    """S-R21: 128+13, as every program in a pipe whose reader left."""
    script = f'"$0" -P -m builder -o type=tar . {both}; echo $? >"$1"'
    told = tmp_path / "status"
    subprocess.run(
        ["/bin/sh", "-c", f"({script}) | head -c 20", sys.executable, str(told)],
        check=False,
        stdout=subprocess.DEVNULL,
        cwd=talkative,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PYBUILD_ROOT": str(tmp_path / "state")},
        timeout=60,
    )
    assert told.read_text().strip() == str(128 + signal.SIGPIPE)
