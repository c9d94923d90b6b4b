"""Signals that end a build become an exception in the main thread, once."""

from __future__ import annotations

import contextlib
import signal

from builder.errors import CancelledBuildError
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


PATIENCE = 8.0  # seconds to tidy up in


@contextlib.contextmanager
def raised(patience: float = 0.0) -> Iterator[None]:
    """Raise CancelledBuildError for the first ending signal; a second one ends the process.

    With `patience` the kernel ends it that many seconds after the first, by SIGALRM: it may hang
    in writing to a pipe that nobody reads. The caller is then about to end.
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, patience)
        raise CancelledBuildError(number)

    before = {number: signal.signal(number, on_signal) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
