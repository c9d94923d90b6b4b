"""What a step's supervisor waits for: calls that are to be answered, and that a task did something."""

from __future__ import annotations

import contextlib
import os
import select
from typing import TYPE_CHECKING, Protocol

from builder.sandbox.engine import kernel

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request

_EVENT = 1  # POLLIN


class Incoming(Protocol):
    """Where calls come from."""

    def next(self) -> Request | None:
        """Wait for a call; None when something happened to tasks instead."""


class Polled:
    """Every call, one by one (implements Incoming)."""

    def __init__(self, listener: int, signals: int) -> None:
        """Take notifications from `listener`, and from `signals` what tells of tasks."""
        self._listener = listener
        self._signals = signals
        self._poll = select.poll()
        self._poll.register(listener, _EVENT)
        self._poll.register(signals, _EVENT)

    def next(self) -> Request | None:
        """Wait for a call; None when something happened to tasks instead."""
        while True:
            ready = dict(self._poll.poll())
            if self._signals in ready:
                drain(self._signals)
                return None
            if ready.get(self._listener, 0) & _EVENT:
                request = kernel.receive(self._listener)
                if request is not None:
                    return request
            elif self._listener in ready:
                self._poll.unregister(self._listener)  # nobody is left to ask


def drain(fd: int) -> None:
    """Read away what signals told."""
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 4096)
