"""Progress as JSON, one object a line (O74): for programs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from builder.progress import events
from builder.progress.sink import Sink
from cache.spec.digest import Digest
from cache.spec.oci import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from builder.progress.events import Event, StepEvent

_NANOSECOND = 1_000_000_000


class JsonReporter:
    """A Reporter that prints what docker's `--progress=rawjson` prints.

    Event times are monotonic; the first one is tied to the wall clock, read once.
    """

    def __init__(self, stream: TextIO, wall: Callable[[], float] = time.time) -> None:
        """Print to a text stream."""
        self._sink = Sink(stream)
        self._wall = wall
        self._lock = threading.Lock()
        self._offset: float | None = None
        self._vertices: dict[int, dict[str, object]] = {}
        self._transfers: dict[tuple[int, str], str] = {}

    def emit(self, event: Event, /) -> None:
        """Print one object."""
        with self._lock:
            if isinstance(event, events.Warned):
                short = _text(event.message)
                self._put({"warnings": [{"vertex": "", "level": 1, "short": short}]})
            else:
                self._put(self._document(event))

    def close(self) -> None:
        """Nothing is held back."""

    def _put(self, document: dict[str, object]) -> None:
        self._sink.write(canonical_json(document).decode() + "\n")

    def _document(self, event: StepEvent) -> dict[str, object]:
        stamp = self._stamp(event.time)
        match event:
            case events.VertexLog():
                from base64 import b64encode  # noqa: PLC0415 - for this renderer only

                log = {
                    "vertex": _vertex(event.id),
                    "stream": event.stream,
                    "data": b64encode(event.data).decode(),
                    "timestamp": stamp,
                }
                return {"logs": [log]}
            case events.VertexProgress():
                return {"statuses": [self._status(event, stamp)]}
            case _:
                return {"vertexes": [self._changed(event, stamp)]}

    def _changed(
        self,
        event: events.VertexStarted | events.VertexCached | events.VertexDone | events.VertexFailed,
        stamp: str,
    ) -> dict[str, object]:
        vertex = self._vertices.setdefault(event.id, {"digest": _vertex(event.id), "name": ""})
        vertex.setdefault("started", stamp)
        match event:
            case events.VertexStarted():
                vertex["name"] = _text(event.name)
                return vertex
            case events.VertexCached():
                vertex["name"] = _text(event.name)
                vertex["cached"] = True
            case events.VertexFailed():
                vertex["error"] = "context canceled" if event.cancelled else _text(event.message)
            case events.VertexDone():
                pass
        vertex["completed"] = stamp
        self._transfers = {k: v for k, v in self._transfers.items() if k[0] != event.id}
        return self._vertices.pop(event.id)

    def _status(self, event: events.VertexProgress, stamp: str) -> dict[str, object]:
        started = self._transfers.setdefault((event.id, event.item), stamp)
        status: dict[str, object] = {
            "id": _text(event.item),
            "vertex": _vertex(event.id),
            "name": _text(event.item),
            "total": event.total,
            "current": event.current,
            "timestamp": stamp,
            "started": started,
        }
        if 0 < event.total <= event.current:
            status["completed"] = stamp
        return status

    def _stamp(self, moment: float) -> str:
        if self._offset is None:
            self._offset = self._wall() - moment
        nanoseconds = max(round((moment + self._offset) * _NANOSECOND), 0)
        seconds, fraction = divmod(nanoseconds, _NANOSECOND)
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{fraction:09}Z"


def _vertex(number: int) -> str:
    """A name for a vertex in the form readers of this format expect."""
    return str(Digest.of(f"vertex {number}".encode()))


def _text(text: str) -> str:
    """Text JSON can carry: lone surrogates spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()
