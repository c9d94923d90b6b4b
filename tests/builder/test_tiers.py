"""Which tier a build gets, and how trials answer (C1)."""

from __future__ import annotations

import errno
import os
import time

import pytest

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import host, syscalls, tiers
from builder.sandbox.host import Tier
from builder.sandbox.tiers import ORDER, Choice, choose, forget, require
from builder.sandbox.trial import Answer, attempt, in_child, try_tier


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


def changes_in(place):
    """A trial of which every tier works, with changes elsewhere."""
    return lambda _tier, _scratch: Answer(works=True, changes=place)


def test_the_best_that_works_is_chosen_and_remembered(tmp_path):
    """Trials go from the best tier down, and only once."""
    memos = Notes()
    trial, asked = trials(emulate=True)
    assert choose(str(tmp_path), memos, trial).tier is Tier.EMULATE
    assert asked[0] is Tier.USERNS
    assert asked[-1] is Tier.EMULATE
    before = list(asked)
    assert choose(str(tmp_path), memos, trial).tier is Tier.EMULATE
    assert asked == before


def test_a_forgotten_or_damaged_answer_is_tried_again(tmp_path):
    """An answer that turned out wrong is asked for anew."""
    memos = Notes()
    trial, asked = trials(userns=True)
    choose(str(tmp_path), memos, trial)
    forget(str(tmp_path), memos)
    assert choose(str(tmp_path), memos, trial).tier is Tier.USERNS
    for key in memos.rows:
        memos.rows[key] = b"\xff nonsense"
    assert choose(str(tmp_path), memos, trial).tier is Tier.USERNS
    assert asked == [Tier.USERNS] * 3


def test_without_any_the_best_and_the_least_explain(tmp_path):
    """Exit 3 names what both lack, such as a place where programs start, and who knows more."""
    trial, _ = trials()
    with pytest.raises(HostUnsupportedError, match="no userns; without it: no emulate") as caught:
        choose(str(tmp_path), Notes(), trial)
    assert caught.value.hint == "get userns; or: get emulate; `pybuild doctor` has the rest"


def test_where_changes_go_is_remembered_while_it_is_there(tmp_path):
    """Memory, or a volume as long as it is mounted; a blank in its name is no matter."""
    volume = tmp_path / "a volume"
    volume.mkdir()
    for place in ("memory", f"{volume}/pybuild-7"):
        memos = Notes()
        choose(str(tmp_path), memos, changes_in(place))
        assert choose(str(tmp_path), memos, trials()[0]) == Choice(Tier.USERNS, place)
    volume.rmdir()
    assert choose(str(tmp_path), memos, changes_in("memory")).changes == "memory"


def test_a_forced_tier_is_tried_once_and_says_what_failed(tmp_path):
    """--sandbox=userns on a host without it: the probe that failed, the way out, no other tier."""
    memos = Notes()
    trial, asked = trials(emulate=True)
    with pytest.raises(
        HostUnsupportedError, match="--sandbox=userns does not work here: no userns"
    ) as caught:
        require(Tier.USERNS, str(tmp_path), memos, trial)
    assert caught.value.hint == "get userns"
    assert require(Tier.EMULATE, str(tmp_path), memos, trial).tier is Tier.EMULATE
    assert require(Tier.EMULATE, str(tmp_path), memos, trial).tier is Tier.EMULATE
    assert asked == [Tier.USERNS, Tier.EMULATE]
    forget(str(tmp_path), memos)
    require(Tier.EMULATE, str(tmp_path), memos, trial)
    assert asked[-1] is Tier.EMULATE
    assert len(asked) == 3


def test_what_stands_in_the_way_for_a_moment_is_not_remembered(tmp_path):
    """A full disk makes no lesser sandbox of a host for the rest of its boot."""
    memos = Notes()
    asked = []

    def trial(tier, _scratch):
        asked.append(tier)
        return Answer(works=tier is Tier.EMULATE, reason="no space left", passing=True)

    for _ in range(2):
        assert choose(str(tmp_path), memos, trial).tier is Tier.EMULATE
    assert asked == [*ORDER, *ORDER]


@pytest.mark.parametrize(
    ("raised", "passing"),
    [
        (SandboxError("no inodes"), True),
        (OSError(errno.ENOSPC, "no space left"), True),
        (OSError(errno.EPERM, "not permitted"), False),
        (HostUnsupportedError("no mounts"), False),
    ],
)
def test_a_trial_tells_what_passes_from_what_stays(raised, passing):
    """No room and no answer pass, what is forbidden stays."""

    def fail():
        raise raised

    answer = attempt(fail)
    assert (answer.works, answer.passing) == (False, passing)
    assert attempt(lambda: os._exit(1)).passing


def test_a_setting_that_changes_is_noticed(tmp_path, monkeypatch):
    """Who follows the advice to set a sysctl, or to install newuidmap, need not start anew."""
    setting = tmp_path / "sysctl"
    memos = Notes()
    trial, asked = trials(userns=True)
    monkeypatch.setattr(tiers, "_SETTINGS", (str(setting),))
    for text in ("0", "1", "1"):
        setting.write_text(text)
        choose(str(tmp_path), memos, trial)
    assert len(asked) == 2
    monkeypatch.setattr(host, "_HELPER_DIRECTORIES", (str(tmp_path),))
    (tmp_path / "newuidmap").write_text("")
    (tmp_path / "newuidmap").chmod(0o4755)
    choose(str(tmp_path), memos, trial)
    assert len(asked) == 3


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


def test_a_trial_says_where_changes_go():
    """What it returns is part of its answer."""
    assert attempt(lambda: "memory") == Answer(works=True, changes="memory")


def test_a_child_may_write_much_and_say_nothing():
    """What it gives is read to the end; what is no JSON is nothing."""
    assert in_child(lambda: ["x" * 50_000]) == ["x" * 50_000]
    assert in_child(object) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
def test_a_state_directory_on_noexec_cannot_hold_plain_trees(tmp_path):
    """Programs of an step start from the state's file system: said before the first one."""
    syscalls.mount("tmpfs", str(tmp_path), "tmpfs", syscalls.MS_NOEXEC)
    try:
        for tier in (Tier.CHROOT, Tier.EMULATE):
            answer = try_tier(tier, str(tmp_path))
            assert not answer.works
            assert "noexec" in answer.reason
            assert "PYBUILD_ROOT" in answer.hint
        assert try_tier(Tier.USERNS, str(tmp_path)).works
    finally:
        syscalls.umount(str(tmp_path))


def test_this_machine_can_emulate(tmp_path):
    """Seccomp notifications and ptrace are there, and the trial leaves nothing behind."""
    assert try_tier(Tier.EMULATE, str(tmp_path)) == Answer(works=True)
    assert list(tmp_path.iterdir()) == []
