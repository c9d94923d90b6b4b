"""Signals at awkward moments end a build as a signal does, with nothing else said (S-R21)."""

from __future__ import annotations

import os
import signal
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
