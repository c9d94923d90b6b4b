"""No progress at all (O72)."""

from __future__ import annotations

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.progress.events import Event


class QuietReporter:
    """A Reporter that says nothing."""

    def emit(self, event: Event, /) -> None:
        """Ignore."""

    def close(self) -> None:
        """Nothing to flush."""
