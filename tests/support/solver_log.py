"""A StepLog for handlers that are called without a solver."""

from __future__ import annotations


class SilentLog:
    """Takes everything and keeps nothing."""

    def output(self, stream, data):
        """Output."""

    def flush(self):
        """The end of it."""

    def progress(self, item, current, total):
        """A transfer."""

    def tail(self):
        """No lines."""
        return ()
