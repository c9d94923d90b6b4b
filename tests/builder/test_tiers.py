"""Which tier a build gets, and how trials answer (C1)."""

from __future__ import annotations

import os
import time

import pytest

from builder.errors import HostUnsupportedError
from builder.sandbox.host import Tier
from builder.sandbox.tiers import choose, forget
from builder.sandbox.trial import Answer, attempt, try_tier


class Notes:
    """Memos in memory."""

    def __init__(self):
        self.rows = {}

    def get(self, domain, key):
        """Look up."""
        return self.rows.get((domain, key))

    def put(self, domain, key, value):
        """Remember."""
        self.rows[domain, key] = value


def trials(**works):
    """A trial that answers from a table and keeps what it was asked."""
    asked = []

    def trial(tier, _scratch):
        asked.append(tier)
        return Answer(works=works.get(str(tier), False), reason=f"no {tier}", hint=f"get {tier}")

    return trial, asked


def test_the_best_that_works_is_chosen_and_remembered(tmp_path):
    """Trials go from the best tier down, and only once."""
    memos = Notes()
    trial, asked = trials(emulate=True)
    assert choose(str(tmp_path), memos, trial) is Tier.EMULATE
    assert asked[0] is Tier.USERNS
    assert asked[-1] is Tier.EMULATE
    before = list(asked)
    assert choose(str(tmp_path), memos, trial) is Tier.EMULATE
    assert asked == before


def test_a_forgotten_or_damaged_answer_is_tried_again(tmp_path):
    """An answer that turned out wrong is asked for anew."""
    memos = Notes()
    trial, asked = trials(userns=True)
    choose(str(tmp_path), memos, trial)
    forget(str(tmp_path), memos)
    assert choose(str(tmp_path), memos, trial) is Tier.USERNS
    for key in memos.rows:
        memos.rows[key] = b"\xff nonsense"
    assert choose(str(tmp_path), memos, trial) is Tier.USERNS
    assert asked == [Tier.USERNS] * 3


def test_without_any_the_best_one_explains(tmp_path):
    """Exit 3 names what the best tier lacks, and who knows more."""
    trial, _ = trials()
    with pytest.raises(HostUnsupportedError, match="no userns") as caught:
        choose(str(tmp_path), Notes(), trial)
    assert caught.value.hint == "get userns; `pybuild doctor` has the rest"


def test_a_trial_happens_in_another_process(tmp_path):
    """What it does to itself is gone with it."""
    here = os.getpid()

    def note():
        (tmp_path / "pid").write_text(str(os.getpid()))
        os.chdir("/")

    before = os.getcwd()
    assert attempt(note) == Answer(works=True)
    assert (tmp_path / "pid").read_text() != str(here)
    assert os.getcwd() == before


def test_what_a_trial_raises_is_its_answer():
    """Errors of ours keep their hint, those of the kernel their text, others are shown as they are."""

    def ours():
        raise HostUnsupportedError("no such thing", hint="get it")

    def kernels():
        os.stat("/nonexistent")

    def bug():
        raise KeyError("x")

    assert attempt(ours) == Answer(works=False, reason="no such thing", hint="get it")
    assert attempt(kernels).reason == "no such file or directory"
    assert "KeyError" in attempt(bug).reason


def test_a_trial_that_dies_or_hangs_is_no(monkeypatch):
    """Killed without a word, or waiting for ever: the answer is no, soon."""
    assert not attempt(lambda: os.kill(os.getpid(), 9)).works
    monkeypatch.setattr("builder.sandbox.trial._PATIENCE", 200)
    started = time.monotonic()
    assert not attempt(lambda: time.sleep(60)).works
    assert time.monotonic() - started < 10


def test_this_machine_can_emulate(tmp_path):
    """Seccomp notifications and ptrace are there, and the trial leaves nothing behind."""
    assert try_tier(Tier.EMULATE, str(tmp_path)) == Answer(works=True)
    assert list(tmp_path.iterdir()) == []
