"""What every Sandbox must do, as checks over a factory of a fresh one.

A factory gives (sandbox, step) where step(name) is a specification of one of PROGRAMS. The
checks are plain functions, so that they can also run in a child that has entered a namespace.
"""

from __future__ import annotations

import threading
import time

import pytest

from builder.errors import SandboxError

PROGRAMS = {  # what step(name) must do
    "talk": 'prints "out\\n" on 1 and "err\\n" on 2, ends with 0',
    "fail": "ends with 7",
    "lost": "names a program that does not exist",
    "sleep": 'prints "up\\n", then runs until it is cancelled',
    "empty": "has an empty argv or ends with an error of set-up",
}


class Collected:
    """An output callback that remembers."""

    def __init__(self):
        self.streams = {1: b"", 2: b""}
        self.started = threading.Event()

    def __call__(self, stream, data):
        self.streams[stream] += data
        self.started.set()


def check_output_and_status(make):
    """Output arrives by stream before run() returns; the status is the program's."""
    sandbox, step = make()
    output = Collected()
    outcome = sandbox.run(step("talk"), output)
    assert output.streams == {1: b"out\n", 2: b"err\n"}
    assert (outcome.exit_code, outcome.stubs) == (0, ())
    assert sandbox.run(step("fail"), Collected()).exit_code == 7
    assert sandbox.run(step("lost"), Collected()).exit_code == 127
    sandbox.close()


def check_parallel_runs(make):
    """run() may be called from several threads at once."""
    sandbox, step = make()
    outputs = [Collected() for _ in range(4)]
    specs = [step("talk") for _ in outputs]
    threads = [
        threading.Thread(target=sandbox.run, args=pair) for pair in zip(specs, outputs, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [output.streams[1] for output in outputs] == [b"out\n"] * 4
    sandbox.close()


def _sleeping(sandbox, spec):
    output, outcomes = Collected(), []
    thread = threading.Thread(target=lambda: outcomes.append(sandbox.run(spec, output)))
    thread.start()
    assert output.started.wait(10)
    return thread, outcomes


def check_cancel(make):
    """cancel() ends running steps with 137 within two seconds; later steps run."""
    sandbox, step = make()
    thread, outcomes = _sleeping(sandbox, step("sleep"))
    start = time.monotonic()
    sandbox.cancel()
    thread.join(2)
    assert not thread.is_alive()
    assert time.monotonic() - start < 2
    assert outcomes[0].exit_code == 137
    assert sandbox.run(step("fail"), Collected()).exit_code == 7
    sandbox.close()


def check_close(make):
    """close() ends everything, may be repeated, and nothing runs afterwards."""
    sandbox, step = make()
    spec = step("fail")
    sandbox.run(step("talk"), Collected())
    sandbox.close()
    sandbox.close()
    sandbox.cancel()
    with pytest.raises(SandboxError):
        sandbox.run(spec, Collected())


def check_close_while_running(make):
    """close() is also a cancel: what runs returns 137."""
    sandbox, step = make()
    thread, outcomes = _sleeping(sandbox, step("sleep"))
    sandbox.close()
    thread.join(2)
    assert outcomes[0].exit_code == 137


def check_set_up_errors(make):
    """What cannot be set up is a SandboxError, and the next step runs."""
    sandbox, step = make()
    with pytest.raises(SandboxError):
        sandbox.run(step("empty"), Collected())
    assert sandbox.run(step("fail"), Collected()).exit_code == 7
    sandbox.close()


CHECKS = {
    check.__name__: check
    for check in (
        check_output_and_status,
        check_parallel_runs,
        check_cancel,
        check_close,
        check_close_while_running,
        check_set_up_errors,
    )
}
