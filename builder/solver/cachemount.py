"""Directories behind RUN --mount=type=cache: named by a hash of their identity, locked by flock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

from cache.spec.digest import framed
from frontend.graph import CacheMount, Sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PRIVATE_COPIES = 1024
_POLL_SECONDS = 0.02


class CacheMounts:
    """The cache mounts of a state directory, under `root/mounts`.

    An id is never a path (C05). `locked` users wait for each other, `private` ones get a
    directory nobody uses now, `shared` ones share (M11). Locks die with their holder.
    """

    def __init__(self, root: str, is_cancelled: Callable[[], bool]) -> None:
        """Make the directory on first use only; waiting for a lock ends when cancelled."""
        self._root = f"{root}/mounts"
        self._is_cancelled = is_cancelled

    @contextlib.contextmanager
    def directory(
        self, mount: CacheMount, origin: str, fill: Callable[[int], None]
    ) -> Iterator[str]:
        """Hold a cache directory; `fill(fd)` gives a new one its first content.

        `origin` identifies what `fill` writes ("" for nothing).
        """
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        parts = (mount.id, origin, f"{mount.uid}:{mount.gid}:{mount.mode:o}")
        name = framed(
            "pybuild.cachemount.v1", [part.encode("utf-8", "surrogateescape") for part in parts]
        ).hex
        match mount.sharing:
            case Sharing.SHARED:
                with self._locked(name, fcntl.LOCK_SH):
                    yield self._made(name, mount, fill)
            case Sharing.LOCKED:
                with self._locked(name, fcntl.LOCK_EX):
                    yield self._made(name, mount, fill)
            case Sharing.PRIVATE:
                with self._free(name) as free:
                    yield self._made(free, mount, fill)

    def _made(self, name: str, mount: CacheMount, fill: Callable[[int], None]) -> str:
        path = f"{self._root}/{name}"
        if not os.path.lexists(path):
            with self._locked(f"{name}.make", fcntl.LOCK_EX):
                if not os.path.lexists(path):
                    self._make(path, mount, fill)
        return path

    def _make(self, path: str, mount: CacheMount, fill: Callable[[int], None]) -> None:
        fresh = f"{path}.{os.getpid()}.{threading.get_native_id()}.new"
        os.mkdir(fresh, 0o700)
        directory = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fill(directory)
            os.fchown(directory, mount.uid, mount.gid)
            os.fchmod(directory, mount.mode)
        finally:
            os.close(directory)
        os.rename(fresh, path)

    @contextlib.contextmanager
    def _free(self, name: str) -> Iterator[str]:
        for number in range(_PRIVATE_COPIES):
            candidate = name if number == 0 else f"{name}-{number}"
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(self._locked(candidate, fcntl.LOCK_EX, patient=False))
                except BlockingIOError:
                    continue
                yield candidate
                return

    @contextlib.contextmanager
    def _locked(self, name: str, how: int, *, patient: bool = True) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(f"{self._root}/{name}.lock", flags, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(lock, how | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not patient or self._is_cancelled():
                        raise
                time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(lock)
