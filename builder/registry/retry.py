"""Trying again: how long to wait, and when to stop.

Owns back-off and Retry-After. Asks an error whether it is temporary; knows no HTTP library.
"""

from __future__ import annotations

import os
import re
import time

from builder.errors import RegistryError
from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from builder.registry.settings import RegistryConfig

    T = TypeVar("T")

LONGEST_WAIT = 60.0  # seconds of Retry-After that are honoured
_MAX_BACKOFF = 20.0  # seconds
TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})


def _chance() -> float:
    # From 0 to 1, for jitter; the random module is slow to import.
    return int.from_bytes(os.urandom(2), "big") / 0xFFFF


class TemporaryError(RegistryError):
    """A failure that may pass; `wait` is what the other side asked for in seconds."""

    def __init__(
        self, message: str, *, status: int = 0, wait: float = 0.0, hint: str | None = None
    ) -> None:
        """Keep the wait beside what every registry error has."""
        super().__init__(message, status=status, temporary=True, hint=hint)
        self.wait = wait


@value
class Retry:
    """A policy with its clock, so that tests need not sleep."""

    attempts: int
    backoff: float
    patience: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = _chance

    @classmethod
    def of(cls, config: RegistryConfig) -> Retry:
        """The policy the settings describe."""
        return cls(config.attempts, config.backoff, config.patience)

    def delay(self, attempt: int, asked: float) -> float:
        """Seconds to wait after failure number `attempt` (from 0): jittered, never under asked."""
        ceiling = min(_MAX_BACKOFF, self.backoff * 2.0 ** min(attempt, 16))
        return max(asked, ceiling * (0.5 + self.chance() / 2))

    def pause(self, attempt: int, error: RegistryError) -> None:
        """Wait before trying again.

        Raises:
            RegistryError: the failure itself when it is final or the wait asked for is too long.
        """
        asked = error.wait if isinstance(error, TemporaryError) else 0.0
        if not error.temporary or attempt + 1 >= self.attempts:
            raise error
        if asked > LONGEST_WAIT:
            msg = f"{error.message}; asked to wait {asked:.0f} s, more than {LONGEST_WAIT:.0f} s"
            raise RegistryError(msg, status=error.status, hint="try again later") from error
        self.sleep(self.delay(attempt, asked))

    def run(self, operation: Callable[[], T]) -> T:
        """Call until it succeeds, fails for good, or tries or patience run out."""
        start = self.clock()
        attempt = 0
        while True:
            try:
                return operation()
            except RegistryError as error:
                if self.clock() - start > self.patience:
                    raise
                self.pause(attempt, error)
            attempt += 1


def retry_after(text: str | None, now: Callable[[], float] = time.time) -> float:
    """Read a Retry-After header (RFC 9110, 10.2.3); what makes no sense counts as absent."""
    if not text:
        return 0.0
    text = text.strip()
    if re.fullmatch(r"[0-9]{1,12}", text):
        return float(text)
    if len(text) > len("Sunday, 06-Nov-94 08:49:37 GMT.."):
        return 0.0
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - email is slow to import

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now())
    except (ValueError, TypeError, OverflowError):
        return 0.0
