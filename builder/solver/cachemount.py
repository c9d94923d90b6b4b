"""Directories behind RUN --mount=type=cache: named by a hash of their identity, locked by flock."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import threading
import time

from cache.hints import TYPE_CHECKING
from cache.spec.digest import framed
from cache.value import value
from frontend.graph import CacheMount, ExecOp, Sharing

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from frontend.graph import Graph

_COPIES = 1024  # directories of one cache at most; more users at a time than that is a mistake
_POLL_SECONDS = 0.02
_NO_IDS = (errno.EPERM, errno.EINVAL)  # none to give: they are recorded for each step
_LIFE_SIZE = 32  # hex digits


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
        self,
        root: str,
        is_cancelled: Callable[[], bool],
        renewed: Container[str] = (),
        owners: Callable[[], str] = str,
    ) -> None:
        """Make the directory on first use only; waiting for a lock ends when cancelled.

        Caches whose id is in `renewed` begin anew, once for this object. `owners` says whose ids
        the files have: what one kind of sandbox leaves, another may not be able to enter.
        """
        self._root = f"{root}/mounts"
        self._is_cancelled = is_cancelled
        self._renewed = renewed
        self._owners = owners
        self._begun: set[str] = set()
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
        parts = [mount.id, use.origin, owner, *filter(None, [self._owners()])]
        base = _hashed(parts)
        with self._lock, self._locked(f"{base}.life", fcntl.LOCK_EX):
            life = self._life(base)
            name = _hashed([*parts, life]) if life else base
            if mount.id not in self._renewed or base in self._begun:
                return name
            self._begun.add(base)
            self._remove(name)
            return _hashed([*parts, self._begin(base)])

    def _life(self, base: str) -> str:
        """Which of its lives a cache is in, "" for the first."""
        try:
            with open(f"{self._root}/{base}.life", encoding="ascii") as file:
                return file.read(_LIFE_SIZE)
        except FileNotFoundError:
            return ""

    def _begin(self, base: str) -> str:
        """Begin another life: those who use the cache now keep what they have."""
        life = os.urandom(_LIFE_SIZE // 2).hex()
        fresh = f"{self._root}/{base}.life.new"
        with open(fresh, "w", encoding="ascii") as file:
            file.write(life)
        os.rename(fresh, f"{self._root}/{base}.life")
        return life

    def _remove(self, name: str) -> None:
        """Remove the directories of a life that nobody uses now."""
        from cache.archive.rooted import remove_tree  # noqa: PLC0415 - hardly ever

        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for number in range(_COPIES):
                candidate = name if number == 0 else f"{name}-{number}"
                if not os.path.lexists(f"{self._root}/{candidate}"):
                    return
                with (
                    contextlib.suppress(BlockingIOError),
                    self._locked(candidate, fcntl.LOCK_EX, patient=False),
                ):
                    remove_tree(root, candidate)
        finally:
            os.close(root)

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
                try:
                    os.fchown(directory, use.mount.uid, use.mount.gid)
                except OSError as error:
                    if error.errno not in _NO_IDS:
                        raise
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


def renewed_ids(graph: Graph, *, everything: bool) -> frozenset[str]:
    """The ids of caches that steps mount which run although cached: those begin anew (T99)."""
    return frozenset(
        mount.id
        for vertex in graph.vertices
        if isinstance(vertex.op, ExecOp) and (everything or vertex.fresh)
        for mount in vertex.op.mounts
        if isinstance(mount, CacheMount)
    )


def _hashed(parts: Sequence[str]) -> str:
    encoded = [part.encode("utf-8", "surrogateescape") for part in parts]
    return framed("pybuild.cachemount.v2", encoded).hex
