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

# What the kernel leaves in the work directory of an overlay whose upper was taken away: removed
# name by name when there is nothing else, which spares listing each of them.
_WORK = "work"  # the kernel's own directory in the one it is given is called that, too
_OWN = f"{_WORK}/{_WORK}"
_UPPER = "upper"
_USUAL_FILE = f"{_OWN}/incompat/volatile/dirty"
_USUAL = (f"{_OWN}/incompat/volatile", f"{_OWN}/incompat", _OWN, _WORK)


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

    def take(self, source: Directories, name: str) -> None:
        """Remove a directory of another place soon, or at once where it cannot be moved."""
        claim = self._directories.claim()
        try:
            to = f"{claim.name}/taken"
            os.rename(name, to, src_dir_fd=source.fd, dst_dir_fd=self._directories.fd)
        except OSError:  # another file system, or one that moves no directories
            source.remove(name)
        finally:
            self.remove(claim)

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
                if not _remove_usual(self._directories.fd, claim):
                    self._directories.remove(claim.name)
            os.close(claim.fd)


def _remove_usual(parent_fd: int, claim: Claim) -> bool:
    """Remove what a step leaves whose changes were kept; False when it is anything else.

    The paths lead through the kernel's own directories, which no step can get at.
    """
    try:
        os.unlink(_USUAL_FILE, dir_fd=claim.fd)
        for name in _USUAL:
            os.rmdir(name, dir_fd=claim.fd)
        with contextlib.suppress(FileNotFoundError):  # moved away, or left empty
            os.rmdir(_UPPER, dir_fd=claim.fd)
        os.rmdir(claim.name, dir_fd=parent_fd)
    except OSError:
        return False
    return True
