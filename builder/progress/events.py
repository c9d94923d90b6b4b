"""What a build tells: frozen events and the port they go to."""

from __future__ import annotations

from cache.hints import Protocol
from cache.value import value


@value
class VertexStarted:
    """A step began. `id` is unique in the build; `name` is shown; `time` is seconds (monotonic)."""

    id: int
    name: str
    time: float


@value
class VertexCached:
    """A step was answered from the cache (it may not have been started)."""

    id: int
    name: str
    time: float


@value
class VertexLog:
    """Output of a running step: `stream` is 1 or 2, `data` raw bytes as they came."""

    id: int
    stream: int
    data: bytes
    time: float


@value
class VertexProgress:
    """A transfer inside a step: `current` of `total` bytes (total 0 when unknown)."""

    id: int
    item: str
    current: int
    total: int
    time: float


@value
class VertexDone:
    """A step ended well."""

    id: int
    time: float


@value
class VertexFailed:
    """A step failed or, with `cancelled`, was stopped because another failed."""

    id: int
    message: str
    cancelled: bool
    time: float


@value
class Warned:
    """Something the user should know that does not stop the build."""

    message: str


StepEvent = VertexStarted | VertexCached | VertexLog | VertexProgress | VertexDone | VertexFailed
Event = StepEvent | Warned


class Reporter(Protocol):
    """Where events go. Called from several threads; an implementation locks for itself.

    Every started id ends in exactly one of done, failed, cached.
    """

    def emit(self, event: Event, /) -> None:
        """Take one event."""

    def close(self) -> None:
        """Flush and restore the terminal; idempotent."""
