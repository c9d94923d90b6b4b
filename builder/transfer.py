"""Progress of a pull or push as one step: the same renderers as a build's."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

from builder.progress.choose import make_reporter
from builder.progress.events import VertexDone, VertexFailed, VertexProgress, VertexStarted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

_EVERY = 0.1  # seconds between reports of one item


class Bars:
    """A with-block around a transfer; `progress` may be called from several threads."""

    def __init__(self, verb: str, name: str, environ: Mapping[str, str], *, quiet: bool) -> None:
        """Choose the renderer; nothing is shown before the block begins."""
        self._name = f"{verb} {name}"
        self._reporter = make_reporter("quiet" if quiet else "auto", sys.stderr, environ)
        self._last: dict[str, float] = {}

    def __enter__(self) -> Self:
        """Begin."""
        self._reporter.emit(VertexStarted(0, self._name, time.monotonic()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """End well or badly."""
        now = time.monotonic()
        if value is None:
            self._reporter.emit(VertexDone(0, now))
        else:
            self._reporter.emit(VertexFailed(0, str(value), cancelled=False, time=now))
        self._reporter.close()

    def progress(self, item: str, current: int, total: int) -> None:
        """Take a transfer's state."""
        now = time.monotonic()
        if current != total and now - self._last.get(item, 0.0) < _EVERY:
            return
        self._last[item] = now
        self._reporter.emit(VertexProgress(0, item, current, total, now))

    def notice(self, text: str) -> None:
        """Ignore: the step's own name says what is waited for."""
