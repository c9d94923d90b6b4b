"""Directories behind RUN --mount=type=cache: named by a hash of their identity, locked by flock."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
import time
from typing import TYPE_CHECKING

from cache.spec.digest import framed
from cache.value import value
from frontend.graph import CacheMount, Sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_COPIES = 1024  # directories of one cache at most; more users at a time than that is a mistake
_POLL_SECONDS = 0.02
_GENERATION_SIZE = 64


@value
class CacheUse:
    """A cache mount of a step. `fill(fd)` gives a new one its first content.

    `origin` identifies what `fill` writes ("" for nothing).
    """

    mount: CacheMount
    origin: str
    fill: Callable[[int], None]


class CacheMounts:
    """The cache mounts of a state directory, under `root/mounts`.

    An id is never a path (C05). Like the reference: `shared` users join one another, `private`
    ones take a directory nobody uses or make one, `locked` ones wait until one is free (M11).
    Locks die with their holder. The first use in a step decides for the whole step.
    """

    def __init__(
        self, root: str, is_cancelled: Callable[[], bool], *, use_cache: bool = True
    ) -> None:
        """Make the directory on first use only; waiting for a lock ends when cancelled.

        Without `use_cache` a cache with an owner or a mode begins anew (T99).
        """
        self._root = f"{root}/mounts"
        self._is_cancelled = is_cancelled
        self._use_cache = use_cache
        self._renewed: set[str] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def hold(self, uses: Sequence[CacheUse]) -> Iterator[tuple[str, ...]]:
        """Hold the directories of a step's caches, in order; equal ones are one directory."""
        if not uses:
            yield ()
            return
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        names = [self._name(use) for use in uses]
        first: dict[str, CacheUse] = {}
        for name, use in zip(names, uses, strict=True):
            first.setdefault(name, use)
        with contextlib.ExitStack() as stack:
            # In one order for all steps, so that no two wait for each other.
            paths = {
                name: stack.enter_context(self._held(name, first[name])) for name in sorted(first)
            }
            yield tuple(paths[name] for name in names)

    def _name(self, use: CacheUse) -> str:
        mount = use.mount
        owner = f"{mount.uid}:{mount.gid}:{mount.mode:o}" if mount.owned else ""
        parts = [mount.id, use.origin, owner]
        name = _hashed(parts)
        return _hashed([*parts, self._generation(name)]) if mount.owned else name

    def _generation(self, name: str) -> str:
        """Which of its lives an owned cache is in; a build without cache begins another."""
        path = f"{self._root}/{name}.life"
        with self._lock, self._locked(f"{name}.life", fcntl.LOCK_EX):
            if not self._use_cache and name not in self._renewed:
                self._renewed.add(name)
                fresh = f"{path}.{os.getpid()}.new"
                with open(fresh, "w", encoding="ascii") as file:
                    file.write(os.urandom(16).hex())
                os.rename(fresh, path)
            try:
                with open(path, encoding="ascii") as file:
                    return file.read(_GENERATION_SIZE)
            except FileNotFoundError:
                return ""

    @contextlib.contextmanager
    def _held(self, name: str, use: CacheUse) -> Iterator[str]:
        how = fcntl.LOCK_SH if use.mount.sharing is Sharing.SHARED else fcntl.LOCK_EX
        with contextlib.ExitStack() as stack:
            while True:
                free = self._free(name, how, use.mount.sharing, stack)
                if free:
                    break
                if self._is_cancelled():
                    raise InterruptedError
                time.sleep(_POLL_SECONDS)
            yield self._made(free, use)

    def _free(self, name: str, how: int, sharing: Sharing, stack: contextlib.ExitStack) -> str:
        """Lock the first directory that can be had and give its name; "" when it is to wait."""
        for number in itertools.count():
            candidate = name if number == 0 else f"{name}-{number}"
            exists = os.path.lexists(f"{self._root}/{candidate}")
            if number and sharing is Sharing.LOCKED and not exists:
                return ""
            with contextlib.suppress(BlockingIOError):
                stack.enter_context(self._locked(candidate, how, patient=False))
                return candidate
            if number == _COPIES:
                break
        return ""

    def _made(self, name: str, use: CacheUse) -> str:
        path = f"{self._root}/{name}"
        if not os.path.lexists(path):
            with self._locked(f"{name}.make", fcntl.LOCK_EX):
                if not os.path.lexists(path):
                    self._make(path, use)
        return path

    def _make(self, path: str, use: CacheUse) -> None:
        fresh = f"{path}.{os.getpid()}.{threading.get_native_id()}.new"
        os.mkdir(fresh, 0o700)
        directory = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(directory, 0o755)
            if use.mount.owned:
                os.fchown(directory, use.mount.uid, use.mount.gid)
                os.fchmod(directory, use.mount.mode)
            else:
                use.fill(directory)
        finally:
            os.close(directory)
        os.rename(fresh, path)

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


def _hashed(parts: Sequence[str]) -> str:
    encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
    return framed("pybuild.cachemount.v2", encoded).hex
