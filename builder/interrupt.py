"""Signals that end a build become an exception in the main thread, once."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from builder.errors import CancelledBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise CancelledBuildError for the first ending signal; a second one ends the process."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_DFL)
        raise CancelledBuildError(number)

    before = {number: signal.signal(number, on_signal) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
