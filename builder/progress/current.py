"""Whose transfer this is: progress of downloads and compression goes to the step that waits for it."""

from __future__ import annotations

import contextlib
import threading

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Sink = Callable[[str, int, int], None]


class CurrentProgress:
    """A progress callback that forwards to the sink of the calling thread, if it has one."""

    def __init__(self) -> None:
        """Forward to nobody."""
        self._local = threading.local()

    def __call__(self, item: str, current: int, total: int) -> None:
        """Report `current` of `total` bytes of an item."""
        sink: Sink | None = getattr(self._local, "sink", None)
        if sink is not None:
            sink(item, current, total)

    @contextlib.contextmanager
    def to(self, sink: Sink) -> Iterator[None]:
        """Forward what this thread does inside the block."""
        before = getattr(self._local, "sink", None)
        self._local.sink = sink
        try:
            yield
        finally:
            self._local.sink = before
