"""A reporter that is chosen late: a build in which every step hits never loads the terminal one."""

from __future__ import annotations

import threading

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.progress.events import Event, Reporter


class DeferredReporter:
    """Keeps events until `begin`, then passes them on; never begun, a cheap one shows them at the end."""

    def __init__(self, make: Callable[[], Reporter], make_cheap: Callable[[], Reporter]) -> None:
        """`make` may start threads; it is called by `begin` only."""
        self._make = make
        self._make_cheap = make_cheap
        self._kept: list[Event] = []
        self._inner: Reporter | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Show from now on; idempotent."""
        with self._lock:
            if self._inner is None:
                self._show(self._make())

    def emit(self, event: Event, /) -> None:
        """Keep or pass on."""
        with self._lock:
            if self._inner is None:
                self._kept.append(event)
                return
            inner = self._inner
        inner.emit(event)

    def close(self) -> None:
        """Show what was kept and close; idempotent."""
        with self._lock:
            if self._inner is None:
                self._show(self._make_cheap())
            inner = self._inner
        if inner is not None:
            inner.close()

    def _show(self, reporter: Reporter) -> None:
        self._inner = reporter
        for event in self._kept:
            reporter.emit(event)
        self._kept.clear()
