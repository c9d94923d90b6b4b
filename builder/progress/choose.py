"""Which renderer a build gets. The terminal one is imported only when it is chosen."""

from __future__ import annotations

import time

from builder.errors import UsageError
from builder.progress.plain import PlainReporter
from builder.progress.quiet import QuietReporter
from cache.hints import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Literal, TextIO

    from builder.progress.events import Reporter

    Kind = Literal["auto", "plain", "tty", "rawjson", "quiet"]

KINDS: tuple[Kind, ...] = ("auto", "plain", "tty", "rawjson", "quiet")


def make_reporter(
    kind: str,
    stream: TextIO,
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.monotonic,
) -> Reporter:
    """Make the renderer named; `auto` is `tty` on a terminal a person may look at, else `plain`.

    `clock` is the one event times come from.

    Raises:
        UsageError: no renderer has that name.
    """
    match _chosen(kind, stream, environ):
        case "plain":
            return PlainReporter(stream)
        case "quiet":
            return QuietReporter()
        case "rawjson":
            from builder.progress.jsonlines import JsonReporter  # noqa: PLC0415 - rarely chosen

            return JsonReporter(stream)
        case "tty":
            from builder.progress.live import LiveReporter  # noqa: PLC0415 - rich loads slowly

            return LiveReporter(stream, environ, clock)
        case never:
            assert_never(never)


def _chosen(
    kind: str, stream: TextIO, environ: Mapping[str, str]
) -> Literal["plain", "tty", "rawjson", "quiet"]:
    explicit: dict[str, Literal["plain", "tty", "rawjson", "quiet"]] = {
        "plain": "plain",
        "tty": "tty",
        "rawjson": "rawjson",
        "quiet": "quiet",
        "none": "quiet",
    }
    if kind in explicit:
        return explicit[kind]
    if kind != "auto":
        msg = f"unknown progress renderer {kind[:40]!r}"
        raise UsageError(msg, hint=f"choose one of {', '.join(KINDS)}")
    if not stream.isatty() or environ.get("TERM", "dumb") in {"dumb", "unknown", ""}:
        return "plain"
    return "plain" if environ.get("CI", "") not in {"", "0", "false"} else "tty"
