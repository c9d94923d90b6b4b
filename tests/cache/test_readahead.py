"""A stream that a thread of its own fills."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import ArchiveError
from cache.readahead import ReadAhead


@given(st.lists(st.binary(max_size=40), max_size=60), st.integers(1, 50))
def test_all_bytes_come_in_order(pieces, size):
    """However it is read, the bytes are those of the pieces, empty ones left out."""
    with ReadAhead(iter(pieces)) as stream:
        found = b"".join(iter(lambda: stream.read(size), b""))
        assert stream.read(size) == b""
    assert found == b"".join(pieces)


def test_everything_at_once():
    """A negative size reads to the end."""
    with ReadAhead(iter([b"ab", b"c"])) as stream:
        assert stream.read() == b"abc"


def test_failure_comes_after_what_came_before_it():
    """What the producer raises is raised where it is reached, and again after that."""

    def pieces():
        yield b"good"
        raise ArchiveError("damaged")

    with ReadAhead(pieces()) as stream:
        assert stream.read(10) == b"good"
        for _ in range(2):
            with pytest.raises(ArchiveError, match="damaged"):
                stream.read(10)


def test_closing_early_stops_the_producer():
    """Who leaves in the middle waits for the thread, which takes no more than a few pieces."""
    taken = []

    def pieces():
        for number in range(10**6):
            taken.append(number)
            yield b"x"

    before = threading.active_count()
    with ReadAhead(pieces()) as stream:
        stream.read(1)
    assert threading.active_count() == before
    assert len(taken) < 1000


def test_the_reader_is_told_of_every_piece():
    """The watcher is called in the thread that reads: progress belongs to its step."""
    seen = []
    with ReadAhead(iter([b"a", b"b"]), lambda: seen.append(threading.current_thread())) as stream:
        stream.read()
    assert set(seen) == {threading.current_thread()}
