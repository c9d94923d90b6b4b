"""Jobs in a line: side by side, and yet as if one came after the other."""

import threading

import pytest

from builder.snapshot.line import AT_ONCE, Line
from cache.errors import ArchiveError, StoreError

_LONG = 30.0  # seconds that nothing here takes


def test_in_order():
    """What the jobs give comes in their order, whichever was done first."""
    later = threading.Event()

    def job(turn):
        if turn.number == 0:
            assert later.wait(_LONG)
        if turn.number == 1:
            later.set()
        return turn.number * 2

    assert Line(job, 7).run() == [0, 2, 4, 6, 8, 10, 12]


def test_waiting_for_all_before():
    """A job that waits goes on when all before it are done, not only the last."""
    done = []

    def job(turn):
        if turn.number == AT_ONCE - 1:
            turn.wait()
            assert sorted(done) == list(range(turn.number))
        done.append(turn.number)

    for _ in range(50):
        done.clear()
        Line(job, 9).run()
        assert sorted(done) == list(range(9))


def test_the_first_error_is_raised():
    """Of several errors that of the first job is raised, though another was first in time."""
    failed = threading.Event()

    def job(turn):
        if turn.number == 1:
            failed.set()
            raise ArchiveError("second")
        assert failed.wait(_LONG)
        raise ArchiveError("first")

    with pytest.raises(ArchiveError, match="first"):
        Line(job, 2).run()


def test_an_error_ends_those_behind():
    """A job whose predecessor failed ends when it looks or waits, and no other one begins."""
    begun = []

    def job(turn):
        begun.append(turn.number)
        if turn.number == 0:
            raise ArchiveError("no")
        if turn.number == 1:
            turn.wait()
        while True:
            turn.check()

    with pytest.raises(ArchiveError, match="no"):
        Line(job, 9).run()
    assert len(begun) <= AT_ONCE


def test_an_error_behind_ends_nothing_before():
    """Jobs before a failed one are done all the same."""
    failed = threading.Event()
    done = []

    def job(turn):
        if turn.number == 1:
            failed.set()
            raise StoreError("no")
        assert failed.wait(_LONG)
        turn.check()
        turn.wait()
        done.append(turn.number)

    with pytest.raises(StoreError, match="no"):
        Line(job, 2).run()
    assert done == [0]


def test_one_at_a_time():
    """One job at once needs no thread and nothing to wait for."""
    me = threading.get_ident()

    def job(turn):
        turn.wait()
        return threading.get_ident() == me

    assert Line(job, 4).run(1) == [True] * 4
    assert Line(job, 1).run() == [True]
    assert Line(job, 0).run() == []
