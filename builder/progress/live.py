"""The terminal renderer: puts the picture on the screen, a few times a second, in place.

The only importer of rich, which measures cells, cuts lines and knows the terminal's colours.
Moving the cursor is ours, because a resized terminal has rewrapped what was drawn before.
"""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from builder.progress.picture import ASCII, LOG_LINES, UNICODE, Line, Picture
from builder.progress.sink import Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TextIO

    from builder.progress.events import Event

_INTERVAL = 0.1  # seconds between drawings
_MAX_WIDTH = 120  # cells; on wider terminals the right column would be too far away
_MIN_LEFT = 10  # cells of a line's left part that its right part must leave
_MAX_LOG_LINES = 100
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
# Synchronised output: terminals that know it show a drawing at once; others ignore it. Without
# automatic wrapping a character of unexpected width cannot push the drawing a row down.
_BEGIN, _END = "\x1b[?2026h\x1b[?7l", "\x1b[?7h\x1b[?2026l"


class LiveReporter:
    """A Reporter that redraws one region of a terminal from a thread of its own.

    The thread starts with the first event, so a process that must enter a namespace while
    single-threaded does so before. Keep everything else off the terminal until close.
    """

    def __init__(
        self, stream: TextIO, environ: Mapping[str, str], clock: Callable[[], float]
    ) -> None:
        """Draw on a stream that is a terminal; `clock` is the one event times come from."""
        self._clock = clock
        self._sink = Sink(stream)
        self._stream = stream
        unicode = "utf" in (getattr(stream, "encoding", None) or "").lower()
        self._picture = Picture(marks=UNICODE if unicode else ASCII, log_lines=_log_lines(environ))
        self._paint = _Paint(environ, unicode=unicode)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._dirty = True
        self._thread: threading.Thread | None = None
        self._closed = False
        self._drawn: list[int] = []  # cells of each line on the screen

    def emit(self, event: Event, /) -> None:
        """Fold the event in; it is drawn with the next drawing."""
        with self._lock:
            self._picture.take(event)
            self._dirty = True
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Draw everything a last time, collapsed, and give the cursor back; idempotent."""
        with self._lock:
            closed, self._closed = self._closed, True
            thread = self._thread
        self._stop.set()
        if thread is None or closed:
            return
        thread.join()
        with self._lock:
            width, _ = self._size()
            lines = self._picture.final(self._clock())
            self._draw(lines, width, end=_SHOW)

    def _run(self) -> None:
        self._sink.write(_HIDE)
        while not self._stop.wait(_INTERVAL):
            with self._lock:
                if not (self._dirty or self._picture.is_moving):
                    continue
                self._dirty = False
                width, height = self._size()
                # One row stays free: the cursor rests below the last line.
                lines = self._picture.lines(self._clock(), max(height - 1, 1))
                self._draw(lines, width)

    def _draw(self, lines: Sequence[Line], width: int, end: str = "") -> None:
        usable = max(min(width - 1, _MAX_WIDTH), 1)
        painted = self._paint.lines(lines, usable)
        up = sum(max(-(-cells // width), 1) for cells in self._drawn)
        move = f"\r\x1b[{up}A" if up else "\r"
        body = "".join(f"{text}\x1b[K\r\n" for text, _ in painted)
        self._drawn = [cells for _, cells in painted]
        self._sink.write(f"{_BEGIN}{move}{body}\x1b[J{_END}{end}")

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError, AttributeError):
            return 80, 24
        return size.columns or 80, size.lines or 24


class _Paint:
    """Lines of a picture as escape sequences of the terminal's colours."""

    def __init__(self, environ: Mapping[str, str], *, unicode: bool) -> None:
        self._ellipsis = "…" if unicode else "~"
        self._unicode = unicode
        self._buffer = io.StringIO()
        self._before: dict[tuple[Line, int], tuple[str, int]] = {}
        self._console = Console(
            file=self._buffer,
            force_terminal=True,
            no_color=bool(environ.get("NO_COLOR")),
            _environ=environ,
            width=10_000,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )

    def lines(self, lines: Sequence[Line], width: int) -> list[tuple[str, int]]:
        """Paint a drawing; lines that were in the one before are not painted again."""
        before = self._before
        self._before = {
            (line, width): before.get((line, width)) or self.line(line, width) for line in lines
        }
        return [self._before[line, width] for line in lines]

    def line(self, line: Line, width: int) -> tuple[str, int]:
        """Cut a line to a width in cells; gives its escape sequences and its cells."""
        left = Text.assemble(*((self._shown(span.text), span.style) for span in line.left))
        right = Text.assemble(*((self._shown(span.text), span.style) for span in line.right))
        if right.cell_len + _MIN_LEFT > width:
            right = Text()
        room = width - right.cell_len - (1 if right else 0)
        self._cut(left, room)
        if right:
            left.append(" " * (width - left.cell_len - right.cell_len))
            left.append_text(right)
        if not left.plain:
            return "", 0
        self._console.print(left, end="", soft_wrap=True)
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text, left.cell_len

    def _shown(self, text: str) -> str:
        """Spell out what the terminal's encoding lacks, before widths are counted."""
        return text if self._unicode else text.encode("ascii", "backslashreplace").decode()

    def _cut(self, text: Text, width: int) -> None:
        if text.cell_len <= width:
            return
        if len(text.plain) > width:
            text.truncate(width)  # quickly most of the way
        while text.plain and text.cell_len + cell_len(self._ellipsis) > width:
            text.right_crop(1)
        text.append(self._ellipsis)


def _log_lines(environ: Mapping[str, str]) -> int:
    text = environ.get("BUILDKIT_TTY_LOG_LINES", "")
    if text.isascii() and text.isdigit() and len(text) <= 3:  # noqa: PLR2004 - more is no number of lines
        return min(int(text), _MAX_LOG_LINES)
    return LOG_LINES
