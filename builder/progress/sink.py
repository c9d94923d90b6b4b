"""A text stream that may go away: the reader of our progress closing early is no build failure."""

from __future__ import annotations

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO


class Sink:
    """Writes text and flushes; falls silent for good once the other end is gone."""

    def __init__(self, stream: TextIO) -> None:
        """Write to a text stream that someone else owns and closes."""
        self._stream = stream
        self._gone = False

    def write(self, text: str) -> None:
        """Write and flush; an encoding that lacks a character gets it spelled out."""
        if self._gone:
            return
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                safe = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
                self._stream.write(safe)
            self._stream.flush()
        except (OSError, ValueError):
            # Closed pipe, lost terminal or closed file: progress has no one to talk to any more,
            # and the build's own result is reported by exit status.
            self._gone = True
