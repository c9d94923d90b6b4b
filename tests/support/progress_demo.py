"""Play an invented build to a renderer: `python tests/support/progress_demo.py tty [speed]`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from builder.progress import events
from builder.progress.choose import make_reporter
from builder.progress.summary import CountingReporter, Counts, Summary, summary_text
from cache.spec.digest import Digest

if TYPE_CHECKING:
    from builder.progress.events import Reporter

_NAMES = (
    "[internal] load build definition from Dockerfile",
    "[internal] load metadata for docker.io/library/python:3.12-slim",
    "[internal] load build context",
    "[base 1/3] FROM docker.io/library/python:3.12-slim@sha256:" + "ab" * 32,
    "[base 2/3] WORKDIR /app",
    "[build 2/4] RUN pip install --no-cache-dir -r requirements.txt",
    "[build 3/4] COPY src/ ./src/",
    "[build 4/4] RUN make 日本語のパス test",
    "[final 3/3] COPY --from=build /app /app",
)


def play(reporter: Reporter, speed: float, *, fail: bool) -> None:
    """Emit the events of a small parallel build."""
    clock = time.monotonic

    def sleep(seconds: float) -> None:
        time.sleep(seconds / speed)

    def start(i: int) -> None:
        reporter.emit(events.VertexStarted(i, _NAMES[i], clock()))

    def done(i: int) -> None:
        reporter.emit(events.VertexDone(i, clock()))

    start(0)
    sleep(0.2)
    done(0)
    start(1)
    start(2)
    sleep(0.4)
    done(1)
    start(3)
    for step in range(1, 11):
        for item, total in (
            ("sha256:0123456789ab", 29_000_000),
            ("sha256:ba9876543210", 3_500_000),
        ):
            current = min(total, step * 2_900_000)
            reporter.emit(events.VertexProgress(3, item, current, total, clock()))
        reporter.emit(events.VertexProgress(2, "context", step * 120_000, 0, clock()))
        sleep(0.2)
    done(2)
    done(3)
    reporter.emit(events.VertexCached(4, _NAMES[4], clock()))
    start(5)
    start(6)
    start(7)
    for number in range(30):
        line = f"\x1b[32mCollecting\x1b[0m package-{number}\tfrom an index with a long name {'x' * 90}\n"
        reporter.emit(events.VertexLog(5, 1, line.encode(), clock()))
        reporter.emit(
            events.VertexLog(7, 2, b"\x1b]0;title\x07\x1b[2Jcc -O2 -c \xff.c\r\n", clock())
        )
        sleep(0.1)
    reporter.emit(events.Warned('stage name "Build" should be lower case (line 3)'))
    done(6)
    if fail:
        text = 'process "/bin/sh -c make test" did not complete successfully: exit code: 2'
        reporter.emit(events.VertexFailed(7, text, cancelled=False, time=clock()))
        reporter.emit(events.VertexFailed(5, "", cancelled=True, time=clock()))
        return
    done(5)
    done(7)
    start(8)
    sleep(0.3)
    done(8)


def main() -> None:
    """Run the demonstration."""
    kind = sys.argv[1] if len(sys.argv) > 1 else "auto"
    speed = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    reporter = CountingReporter(make_reporter(kind, sys.stderr, os.environ))
    began = time.monotonic()
    try:
        play(reporter, speed, fail="fail" in sys.argv)
    finally:
        reporter.close()
    counts: Counts = reporter.counts
    digest = Digest.of(b"")
    names = ("example/app:latest", "example/app:1.2")
    summary = Summary(names, digest, 45_678_901, 6, counts, time.monotonic() - began, ("app.tar",))
    sys.stderr.write(summary_text(summary) + "\n")


if __name__ == "__main__":
    main()
