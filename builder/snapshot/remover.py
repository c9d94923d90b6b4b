"""Removal beside the work: what a step leaves behind is deleted while the next one runs.

What is not removed when the process dies is swept by the next one: nothing names it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from typing import TYPE_CHECKING

from cache.errors import PybuildError

if TYPE_CHECKING:
    from builder.snapshot.directories import Claim, Directories


class Remover:
    """Removes claimed directories in a thread of its own, one after the other."""

    def __init__(self, directories: Directories) -> None:
        """Remove from `directories`; no thread is started before there is something to do."""
        self._directories = directories
        self._queue: queue.SimpleQueue[Claim | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def remove(self, claim: Claim) -> None:
        """Remove a directory soon and end its claim then."""
        self._queue.put(claim)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="remover")
                self._thread.start()

    def finish(self) -> None:
        """Wait until everything is removed; more can be removed afterwards."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _run(self) -> None:
        while (claim := self._queue.get()) is not None:
            with contextlib.suppress(OSError, PybuildError):  # swept later then
                self._directories.remove(claim.name)
            os.close(claim.fd)
