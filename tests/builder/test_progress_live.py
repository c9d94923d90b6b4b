"""The terminal view: what it shows, that it fits, and that the terminal is whole afterwards."""

from __future__ import annotations

import io
import os
import re
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from builder.progress.events import (
    VertexCached,
    VertexDone,
    VertexFailed,
    VertexLog,
    VertexProgress,
    VertexStarted,
    Warned,
)
from builder.progress.live import LiveReporter, _Paint
from builder.progress.picture import ASCII, Line, Picture, Span

SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def text_of(lines: list[Line]) -> list[str]:
    """Lines without styles, the right part after a bar."""
    return [
        "".join(s.text for s in line.left)
        + (" | " + "".join(s.text for s in line.right) if line.right else "")
        for line in lines
    ]


def picture(*events, **options) -> Picture:
    """A picture of events."""
    made = Picture(marks=ASCII, **options)
    for event in events:
        made.take(event)
    return made


def test_the_view_while_building():
    """Header, finished steps in a line, cached ones marked, running ones with log and bars (O75)."""
    made = picture(
        VertexStarted(1, "load", 0.0),
        VertexDone(1, 0.25),
        VertexCached(2, "WORKDIR /x", 0.3),
        VertexStarted(3, "RUN make", 0.4),
        *(VertexLog(3, 1, b"\x1b[31mline %d\x1b[0m\n" % i, 1.0) for i in range(9)),
        VertexProgress(3, "sha256:ab", 500, 1000, 1.0),
        VertexProgress(3, "sha256:cd", 1000, 1000, 1.0),
        VertexProgress(3, "other", 77, 0, 1.0),
        Warned("careful"),
    )
    assert text_of(made.lines(2.0, 40)) == [
        "[+] Building 2.0s (2/3)",
        " + load | 0.2s",
        " + WORKDIR /x | CACHED",
        " | RUN make | 1.6s",
        *(f"   | line {i}" for i in range(3, 9)),
        "   > 1 complete",
        "   > sha256:ab | ============............     500B / 1.0kB     50%",
        "   > other | 77B",
        " ! careful",
    ]


def test_the_view_afterwards():
    """Details are gone; failures keep their message, everything is listed."""
    made = picture(
        VertexStarted(1, "RUN a", 0.0),
        VertexLog(1, 1, b"noise\n", 0.1),
        VertexStarted(2, "RUN b", 0.0),
        VertexFailed(1, "exit code: 2", cancelled=False, time=1.0),
        VertexFailed(2, "", cancelled=True, time=1.5),
    )
    assert text_of(made.final(2.0)) == [
        "[+] Failed 2.0s (2/2)",
        " x RUN a | ERROR 1.0s",
        "   exit code: 2",
        " - RUN b | CANCELED",
    ]
    assert not made.is_moving


def test_what_was_interrupted_was_not_built():
    """The head line of a build that ended with cancelled steps says so."""
    made = picture(
        VertexStarted(1, "RUN a", 0.0),
        VertexFailed(1, "", cancelled=True, time=1.5),
    )
    assert text_of(made.final(2.0))[0] == "[+] Stopped 2.0s (1/1)"


def test_a_small_terminal_shows_what_runs():
    """Running steps are shown before finished ones, which are counted instead."""
    events = [VertexCached(i, f"step {i}", 0.0) for i in range(50)]
    events += [VertexStarted(100, "busy", 0.0), VertexLog(100, 1, b"a\nb\nc\n", 0.0)]
    lines = text_of(picture(*events).lines(1.0, 8))
    assert len(lines) == 8
    assert " + step 49 | CACHED" in lines
    assert "   ... 48 earlier steps" in lines
    assert lines[-4:] == [" - busy | 1.0s", "   | a", "   | b", "   | c"]


EVENTS = st.lists(
    st.one_of(
        st.builds(VertexStarted, st.integers(0, 9), st.text(max_size=30), st.just(0.0)),
        st.builds(VertexCached, st.integers(0, 9), st.text(max_size=30), st.just(0.0)),
        st.builds(VertexLog, st.integers(0, 9), st.just(1), st.binary(max_size=40), st.just(0.0)),
        st.builds(
            VertexProgress,
            st.integers(0, 9),
            st.text(max_size=9),
            st.integers(0, 2**62),
            st.integers(0, 2**62),
            st.just(0.0),
        ),
        st.builds(VertexDone, st.integers(0, 9), st.just(1.0)),
        st.builds(
            VertexFailed, st.integers(0, 9), st.text(max_size=9), st.booleans(), st.just(1.0)
        ),
        st.builds(Warned, st.text(max_size=30)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(EVENTS, st.integers(1, 30), st.integers(1, 90))
def test_the_view_always_fits(events, height, width):
    """Never more lines than rows nor cells than columns, and no foreign control character."""
    made = Picture()
    for event in events:
        made.take(event)
    paint = _Paint({"TERM": "xterm-256color"}, unicode=True)
    lines = made.lines(2.0, height)
    assert len(lines) <= height
    for line in [*lines, *made.final(3.0)]:
        painted, cells = paint.line(line, width)
        plain = SEQUENCE.sub("", painted)
        assert cell_len(plain) == cells <= width
        assert not re.search("[\x00-\x1f\x7f-\x9f]", plain)


def test_cut_lines_keep_their_right_part():
    """Long names are cut with an ellipsis, the time stays; wide characters count twice."""
    paint = _Paint({}, unicode=True)
    for name in ("x" * 100, "日本語" * 30):
        painted, cells = paint.line(Line((Span(name),), (Span("1.0s"),)), 40)
        plain = SEQUENCE.sub("", painted)
        assert cells == cell_len(plain) == 40
        assert "…" in plain
        assert plain.endswith(" 1.0s")


def test_without_unicode_everything_is_ascii():
    """Names are spelled out before they are cut, so that the right part stays visible."""
    paint = _Paint({}, unicode=False)
    painted, cells = paint.line(Line((Span("日本語" * 30),), (Span("1.0s"),)), 40)
    assert painted.isascii()
    assert cells == 40
    assert "~ " in painted


def test_no_color_means_no_colour():
    """NO_COLOR leaves no colour sequence."""
    line = Line((Span("a", "red"),), (Span("b", "bold green"),))
    assert "\x1b[31m" in _Paint({"TERM": "xterm"}, unicode=True).line(line, 40)[0]
    painted, _ = _Paint({"TERM": "xterm", "NO_COLOR": "1"}, unicode=True).line(line, 40)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", painted)


def test_the_terminal_is_left_whole():
    """The cursor comes back with close, which may be called twice; events from many threads."""
    stream = io.StringIO()
    reporter = LiveReporter(stream, {"TERM": "xterm"}, time.monotonic)

    def work(start: int) -> None:
        for i in range(start, start + 20):
            reporter.emit(VertexStarted(i, f"step {i}", time.monotonic()))
            reporter.emit(VertexLog(i, 1, b"\x1b[?1049h\x1bcevil\n", time.monotonic()))
            reporter.emit(VertexDone(i, time.monotonic()))

    threads = [threading.Thread(target=work, args=(n * 100,)) for n in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.25)
    for thread in threads:
        thread.join()
    reporter.close()
    length = len(stream.getvalue())
    reporter.close()
    reporter.emit(VertexStarted(999, "late", 0.0))
    said = stream.getvalue()
    assert len(said) == length
    assert said.startswith("\x1b[?25l")
    assert said.endswith("\x1b[?25h")
    assert "1049" not in said
    assert "(60/60)" in said.rpartition("\x1b[?2026h")[2]
    assert "progress" not in {thread.name for thread in threading.enumerate()}


def test_a_build_that_says_nothing_draws_nothing():
    """Without events the terminal is not touched."""
    stream = io.StringIO()
    LiveReporter(stream, {}, time.monotonic).close()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("text", "count"), [("2", 2), ("0", 0), ("x", 6), ("", 6)])
def test_the_number_of_log_lines_can_be_set(text, count):
    """BUILDKIT_TTY_LOG_LINES says how many lines of output a step shows (O75)."""
    environ = {"BUILDKIT_TTY_LOG_LINES": text}
    reporter = LiveReporter(io.StringIO(), environ, time.monotonic)
    reporter._picture.take(VertexStarted(1, "x", 0.0))
    for i in range(9):
        reporter._picture.take(VertexLog(1, 1, b"line %d\n" % i, 0.0))
    assert len(reporter._picture.lines(0.0, 50)) == 2 + count


def test_a_resized_terminal_is_redrawn_from_the_right_row():
    """After a resize the rows the old lines now take are counted (rewrapped lines included)."""
    reader, writer = os.openpty()
    try:
        with open(os.dup(writer), "w", encoding="utf-8") as stream:
            reporter = LiveReporter(stream, {"TERM": "xterm"}, lambda: 1.0)
            reporter._drawn = [79, 10]
            reporter._draw([], 40)
        assert b"\x1b[3A" in os.read(reader, 4096)
    finally:
        os.close(reader)
        os.close(writer)
