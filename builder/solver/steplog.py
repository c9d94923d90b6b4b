"""A running step's output on its way to the reporter: secrets masked, the last lines kept."""

from __future__ import annotations

import threading
import time
from collections import deque

from builder.progress.events import VertexLog, VertexProgress
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.progress.events import Reporter

TAIL_LINES = 10
_MAX_LINE = 4096  # bytes kept of one line for the tail
_PROGRESS_SECONDS = 0.1
_SHORTEST_SECRET = 4  # bytes; shorter values would mask ordinary text
_MASK = b"****"


class ReportedLog:
    """StepLog of one vertex."""

    def __init__(self, vertex_id: int, reporter: Reporter, secrets: Sequence[bytes] = ()) -> None:
        """Mask every occurrence of `secrets`, longest first."""
        self.id = vertex_id
        self._reporter = reporter
        wanted = {s.strip() for s in secrets if len(s.strip()) >= _SHORTEST_SECRET}
        self._secrets = sorted(wanted, key=len, reverse=True)
        self._held: dict[int, bytes] = {1: b"", 2: b""}
        self._partial: dict[int, bytes] = {1: b"", 2: b""}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lock = threading.Lock()
        self._last_progress = 0.0

    def output(self, stream: int, data: bytes) -> None:
        """Take raw output; empty data is the stream's end and flushes what is held back."""
        with self._lock:
            shown = self._masked(stream, data)
            if shown:
                self._keep(stream, shown)
                self._reporter.emit(VertexLog(self.id, stream, shown, time.monotonic()))

    def flush(self) -> None:
        """Show what was held back in case it began a secret."""
        for stream in (1, 2):
            self.output(stream, b"")

    def progress(self, item: str, current: int, total: int) -> None:
        """Take a transfer's state; at most ten reports a second besides the last."""
        now = time.monotonic()
        if current != total and now - self._last_progress < _PROGRESS_SECONDS:
            return
        self._last_progress = now
        self._reporter.emit(VertexProgress(self.id, item, current, total, now))

    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first."""
        with self._lock:
            rest = [p.decode("utf-8", "replace") for p in self._partial.values() if p]
            return (*self._tail, *rest)[-TAIL_LINES:]

    def _masked(self, stream: int, data: bytes) -> bytes:
        """Replace secrets; hold back an end that may be the beginning of one."""
        if not self._secrets:
            return data
        text = self._held[stream] + data
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        held = self._prefix_length(text) if data else 0
        self._held[stream] = text[len(text) - held :]
        return text[: len(text) - held]

    def _prefix_length(self, text: bytes) -> int:
        """How much of the end is the beginning of a secret; looks only where one can begin."""
        longest = 0
        for secret in self._secrets:
            at = text.find(secret[:1], max(0, len(text) - len(secret) + 1))
            while at >= 0 and not secret.startswith(text[at:]):
                at = text.find(secret[:1], at + 1)
            longest = max(longest, len(text) - at if at >= 0 else 0)
        return longest

    def _keep(self, stream: int, data: bytes) -> None:
        lines = (self._partial[stream] + data).split(b"\n")
        self._partial[stream] = lines.pop()[-_MAX_LINE:]
        for line in lines[-TAIL_LINES:]:
            self._tail.append(line[:_MAX_LINE].decode("utf-8", "replace").rstrip("\r"))
