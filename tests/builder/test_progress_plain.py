"""Lines for logs and pipes, JSON lines, and the words they share."""

from __future__ import annotations

import base64
import io
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import UsageError
from builder.progress.choose import make_reporter
from builder.progress.events import (
    VertexCached,
    VertexDone,
    VertexFailed,
    VertexLog,
    VertexProgress,
    VertexStarted,
    Warned,
)
from builder.progress.jsonlines import JsonReporter
from builder.progress.plain import PlainReporter
from builder.progress.quiet import QuietReporter
from builder.progress.summary import (
    CountingReporter,
    Counts,
    Summary,
    failure_text,
    summary_text,
)
from builder.progress.text import LineSplitter, harmless, human_seconds, human_size
from cache.spec.digest import Digest


def plain(*events) -> str:
    """What the plain renderer prints for events."""
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    for event in events:
        reporter.emit(event)
    reporter.close()
    reporter.close()
    return stream.getvalue()


def test_a_step_has_a_name_its_log_and_an_end():
    """`#N name`, `#N seconds text`, `#N DONE` (O73)."""
    text = plain(
        VertexStarted(7, "[1/2] RUN make", 10.0),
        VertexLog(7, 1, b"one\ntwo", 10.1234),
        VertexLog(7, 2, b"err\n", 10.5),
        VertexLog(7, 1, b" and a half\n\n", 11.0),
        VertexDone(7, 12.34),
        VertexStarted(8, "[2/2] COPY", 12.4),
        VertexCached(8, "[2/2] COPY", 12.5),
    )
    assert text == (
        "#1 [1/2] RUN make\n"
        "#1 0.123 one\n"
        "#1 0.500 err\n"
        "#1 1.000 two and a half\n"
        "#1 1.000\n"
        "#1 DONE 2.3s\n"
        "\n"
        "#2 [2/2] COPY\n"
        "#2 CACHED\n"
    )


def test_parallel_steps_take_turns():
    """A step keeps the floor; others wait until it ends, or take it after a while (O73)."""
    text = plain(
        VertexStarted(1, "a", 0.0),
        VertexStarted(2, "b", 0.0),
        VertexLog(2, 1, b"b1\n", 0.1),
        VertexLog(1, 1, b"a1\n", 0.2),
        VertexLog(1, 1, b"a2\n", 3.2),
        VertexDone(2, 3.3),
        VertexDone(1, 3.4),
    )
    assert text == (
        "#1 a\n#1 0.200 a1\n#1 3.200 a2\n#1 ...\n\n#2 b\n#2 0.100 b1\n#2 DONE 3.3s\n"
        "\n#1 a\n#1 DONE 3.4s\n"
    )


def test_a_flood_takes_the_floor():
    """A waiting step's lines are held up to a number, then printed."""
    flood = b"x\n" * 1500
    text = plain(
        VertexStarted(1, "a", 0.0), VertexStarted(2, "b", 0.0), VertexLog(2, 1, flood, 0.0)
    )
    assert text.startswith("#1 a\n#1 ...\n\n#2 b\n#2 0.000 x\n")


def test_failures_cancellations_and_warnings_are_said():
    """ERROR with its message, CANCELED, WARN; an unfinished line comes before the end (O73)."""
    text = plain(
        VertexStarted(1, "a", 0.0),
        VertexLog(1, 2, b"no newline", 1.0),
        Warned("mind\nthis"),
        VertexFailed(1, "exit code: 2", cancelled=False, time=2.0),
        VertexStarted(2, "b", 2.0),
        VertexFailed(2, "", cancelled=True, time=2.0),
    )
    assert text == (
        "#1 a\nWARN: mind this\n#1 2.000 no newline\n#1 ERROR: exit code: 2\n\n#2 b\n#2 CANCELED\n"
    )


def test_transfers_are_said_when_done_and_now_and_then():
    """Not every chunk is a line (O73)."""
    text = plain(
        VertexStarted(1, "pull", 0.0),
        VertexProgress(1, "sha256:ab", 0, 2_000_000, 0.0),
        VertexProgress(1, "sha256:ab", 1_000_000, 2_000_000, 1.0),
        VertexProgress(1, "sha256:ab", 1_500_000, 2_000_000, 5.5),
        VertexProgress(1, "sha256:ab", 2_000_000, 2_000_000, 6.0),
        VertexProgress(1, "sha256:ab", 2_000_000, 2_000_000, 6.1),
        VertexDone(1, 6.2),
    )
    assert text == (
        "#1 pull\n#1 sha256:ab 1.5MB / 2.0MB 5.5s\n#1 sha256:ab 2.0MB / 2.0MB 6.0s done\n"
        "#1 DONE 6.2s\n"
    )


def test_a_gone_reader_is_no_failure():
    """A closed pipe or file silences progress and nothing else."""
    stream = io.StringIO()
    reporter = PlainReporter(stream)
    stream.close()
    reporter.emit(VertexStarted(1, "a", 0.0))
    reporter.close()


def test_an_ascii_stream_gets_spelled_out_text():
    """What the stream's encoding lacks is spelled out."""
    raw = io.BytesIO()
    reporter = PlainReporter(io.TextIOWrapper(raw, encoding="ascii"))
    reporter.emit(VertexStarted(1, "naïve", 0.0))
    assert raw.getvalue() == b"#1 na\\xefve\n"


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=20)), max_size=30))
def test_every_line_of_every_step_is_printed(logs):
    """Whatever steps say and however it is mixed, each step's lines all come, in order."""
    events = [VertexStarted(i, f"step{i}", 0.0) for i in range(4)]
    events += [VertexLog(i, 1, data, float(n)) for n, (i, data) in enumerate(logs)]
    events += [VertexDone(i, 100.0) for i in range(4)]
    lines = plain(*events).split("\n")
    for i in range(4):
        splitter = LineSplitter()
        said = splitter.feed(b"".join(data for j, data in logs if j == i)) + splitter.finish()
        shown = [line for line in lines if line.startswith(f"#{i + 1} ")]
        times = [line for line in shown if line.split(" ")[1].count(".") == 1]
        logged = [line for line in times if line.split(" ")[1].replace(".", "").isdigit()]
        assert len(logged) == len(said)
        assert shown[-1] == f"#{i + 1} DONE 100.0s"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\x1b[31mred\x1b[0m\ttab", "red\ttab"),
        (b"\x1b]0;title\x07x\x1b]8;;http://a\x1b\\link", "xlink"),
        (b"\x1b[2J\x1b[Hx\x1b7\x1b(B", "x"),
        (b"\x1bPdcs\x1b\\x\x1b_apc\x1b\\", "x"),
        (b"\x1b]unterminated", "\\x1b]unterminated"),
        (b"\x00\x07\x08\x7f", "\\x00\\x07\\x08\\x7f"),
        ("\x9b31m".encode(), "\\x9b31m"),
        (b"\xff\xfe ok", "\\xff\\xfe ok"),
        ("a\u202eb\u2028c\ufeff".encode(), "a\\u202eb\\u2028c\\ufeff"),
        (b"10%\r50%\r100%\r", "100%"),
        ("日本語 é".encode(), "日本語 é"),
    ],
)
def test_log_bytes_become_harmless_text(data, shown):
    """Colours and cursor movements go, other control characters are spelled out."""
    splitter = LineSplitter()
    assert splitter.feed(data + b"\n") == [shown]
    assert splitter.finish() == []


@given(st.binary(max_size=200))
def test_no_control_character_survives(data):
    """Whatever a step prints, a terminal gets printable text and tabs."""
    splitter = LineSplitter()
    for line in splitter.feed(data) + splitter.finish():
        assert not any(ord(c) < 0x20 and c != "\t" for c in line)
        assert not any(0x7F <= ord(c) < 0xA0 for c in line)
        line.encode()


@given(st.text(max_size=50))
def test_harmless_text_is_left_alone_twice(text):
    """Making text harmless again changes nothing."""
    assert harmless(harmless(text)) == harmless(text)


def test_an_endless_line_is_cut_in_pieces():
    """A line without an end does not collect in memory."""
    splitter = LineSplitter()
    pieces = splitter.feed(b"x" * 100_000)
    assert len(pieces) == 6
    assert sum(map(len, pieces)) + len(splitter.finish()[0]) == 100_000


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"), (999, "999B"), (1000, "1.0kB"), (999_949, "999.9kB"), (999_950, "1.0MB"),
        (45_678_901, "45.7MB"), (10**18, "1.0EB"), (10**22, "10000.0EB"),
    ],
)  # fmt: skip
def test_sizes_are_short(count, text):
    """Bytes in decimal units with one digit."""
    assert human_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0s"),
        (0.04, "0.0s"),
        (59.94, "59.9s"),
        (59.96, "1m00s"),
        (3599.6, "1h00m"),
        (7380, "2h03m"),
    ],
)
def test_durations_are_short(seconds, text):
    """Seconds with a tenth, then minutes, then hours."""
    assert human_seconds(seconds) == text


def json_lines(*events) -> list[dict]:
    """What the JSON renderer prints, decoded."""
    stream = io.StringIO()
    reporter = JsonReporter(stream, wall=lambda: 1_700_000_000.0)
    for event in events:
        reporter.emit(event)
    reporter.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_raw_json_has_dockers_shape():
    """vertexes, logs, statuses and warnings with times of the wall clock (O74)."""
    started, log, status, done, cached, failed, warned = json_lines(
        VertexStarted(1, "a\udcff", 5.0),
        VertexLog(1, 2, b"\xffx", 5.5),
        VertexProgress(1, "blob", 3, 3, 5.75),
        VertexDone(1, 6.0),
        VertexCached(2, "b", 7.0),
        VertexFailed(3, "boom", cancelled=False, time=8.0),
        Warned("careful"),
    )
    (vertex,) = started["vertexes"]
    assert vertex["name"] == "a\\udcff"
    assert vertex["started"] == "2023-11-14T22:13:20.000000000Z"
    assert "completed" not in vertex
    assert base64.b64decode(log["logs"][0]["data"]) == b"\xffx"
    assert log["logs"][0] | {"data": ""} == {
        "vertex": vertex["digest"],
        "stream": 2,
        "data": "",
        "timestamp": "2023-11-14T22:13:20.500000000Z",
    }
    assert status["statuses"][0]["completed"] == status["statuses"][0]["timestamp"]
    assert done["vertexes"][0] == vertex | {"completed": "2023-11-14T22:13:21.000000000Z"}
    assert cached["vertexes"][0]["cached"] is True
    assert failed["vertexes"][0]["error"] == "boom"
    assert warned["warnings"][0]["short"] == "careful"
    Digest.parse(vertex["digest"])


def test_summary_says_names_digest_size_counts():
    """The closing lines are complete and escape what images chose."""
    digest = Digest.of(b"")
    summary = Summary(
        ("a:1", "b\x1b[2J:2"), digest, 1_500_000, 1, Counts(1, 3), 61, ("x.tar",), ("r/b:2",)
    )
    assert summary_text(summary) == (
        f"built a:1 in 1m01s (1 step run, 3 cached)\n  also     b:2\n  manifest {digest}\n"
        "  size     1.5MB in 1 layer\n  written  x.tar\n  pushed   r/b:2"
    )
    assert (
        summary_text(Summary((), None, 0, 0, Counts(), 0))
        == "built in 0.0s (0 steps run, 0 cached)"
    )
    assert failure_text("RUN x", ["a", "b\x07"]) == "------\n > RUN x:\na\nb\\x07\n------"


def test_counting_passes_events_on_from_threads():
    """Ends are counted, each event reaches the inner reporter."""
    stream = io.StringIO()
    reporter = CountingReporter(PlainReporter(stream))

    def work(start: int) -> None:
        for i in range(start, start + 50):
            reporter.emit(VertexStarted(i, "x", 0.0))
            reporter.emit(VertexDone(i, 0.0))

    threads = [threading.Thread(target=work, args=(n * 100,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reporter.emit(VertexCached(1000, "x", 0.0))
    reporter.emit(VertexFailed(1001, "", cancelled=True, time=0.0))
    reporter.close()
    assert reporter.counts == Counts(200, 1, 1)
    assert stream.getvalue().count("DONE") == 200


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("kind", "stream", "environ", "expected"),
    [
        ("auto", io.StringIO(), {"TERM": "xterm"}, "PlainReporter"),
        ("auto", Terminal(), {"TERM": "xterm"}, "LiveReporter"),
        ("auto", Terminal(), {"TERM": "dumb"}, "PlainReporter"),
        ("auto", Terminal(), {}, "PlainReporter"),
        ("auto", Terminal(), {"TERM": "xterm", "CI": "true"}, "PlainReporter"),
        ("auto", Terminal(), {"TERM": "xterm", "CI": "false"}, "LiveReporter"),
        ("plain", Terminal(), {}, "PlainReporter"),
        ("rawjson", Terminal(), {}, "JsonReporter"),
        ("tty", io.StringIO(), {}, "LiveReporter"),
        ("quiet", Terminal(), {}, "QuietReporter"),
        ("none", Terminal(), {}, "QuietReporter"),
    ],
)
def test_auto_is_live_on_a_person_s_terminal(kind, stream, environ, expected):
    """Auto is tty on a terminal that is not dumb and not CI's (O75)."""
    reporter = make_reporter(kind, stream, environ)
    assert type(reporter).__name__ == expected
    reporter.close()


def test_unknown_renderers_are_named():
    """A renderer that does not exist is a usage error; quiet says nothing (O72)."""
    with pytest.raises(UsageError, match="'fancy'"):
        make_reporter("fancy", io.StringIO(), {})
    QuietReporter().emit(Warned("x"))
