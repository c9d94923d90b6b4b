"""Snapshots as plain directories, one per stage of a build, changed in place by its steps.

For hosts where nothing can be mounted. Before and after a step the directory equals the merged
tree of some stack, which its `chain` file names; while a step runs there is none. What a step
changed is found by inode, change time and comparison with the tree.

The `chain` file says, too, in which boot it was written: nothing waits until a directory is on the
disk. As every step changes it, it is never sealed as the trees of overlays are.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Self

from builder.errors import SandboxError
from builder.sandbox.spec import PlainRoot, Recorded
from builder.snapshot.changes import Known, TreeLower, scan, write_changes
from builder.snapshot.directories import Claim, Directories
from builder.snapshot.materialize import materialize
from builder.snapshot.recorded import RecordedFiles
from builder.snapshot.seals import Boot
from builder.snapshot.seeds import Seeds
from builder.snapshot.snapshotter import Active
from cache.archive.entry import Kind
from cache.errors import StoreError, advice_on, reason_of
from cache.spec.manifest import MAX_LAYERS
from cache.spec.oci import chain_id
from cache.value import field, state

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from types import TracebackType

    from cache.archive.tree import Tree
    from cache.layers import LayerStore
    from cache.spec.digest import Digest
    from cache.spec.oci import Layer

    Merged = Callable[[Sequence[Layer]], Tree]

_CHAIN = "chain"
_OWNED = " owned"  # after the chain: owners and modes are the files' own
_ROOT = "root"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"snapshot directory: {reason_of(error)}"
        raise StoreError(msg, hint=advice_on(error)) from error


@state
class _Working:
    """A directory in use: the stack it holds, and what was known of it before its step."""

    claim: Claim
    layers: tuple[Layer, ...]
    known: Known = field(default_factory=Known)

    @property
    def chain(self) -> Digest:
        """What names the stack."""
        return chain_id([layer.diff_id for layer in self.layers])


class PlainSnapshotter:
    """The Snapshotter port on plain directories; safe for threads and beside other processes."""

    def __init__(
        self,
        root: str,
        store: LayerStore,
        *,
        merged: Merged,
        keep_owner: bool,
        boot: Boot | None = None,
    ) -> None:
        """Keep directories below `root`; `keep_owner` where owners can be changed.

        Without `boot` directories of any boot are believed.
        """
        self._boot = boot or Boot()
        self._store = store
        self._merged = merged
        self._keep_owner = keep_owner
        self._own = None if keep_owner else (os.geteuid(), os.getegid())
        self._directories = Directories.open(os.path.join(root, "plain"))
        self._active: dict[str, _Working] = {}
        self._shared: dict[Digest, Claim] = {}
        self._scanned: dict[str, dict[str, int]] = {}  # directories of idle trees, by name
        self._seeds = Seeds(store, merged, devices_only=keep_owner)

    def __enter__(self) -> Self:
        """Use for a with-block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Throw what is unfinished away; finished directories stay for the next build."""
        for key in list(self._active):
            self._drop(key)
        for claim in self._shared.values():
            if self._keep_owner:
                self._directories.remove(claim.name)
            os.close(claim.fd)
        self._directories.close()

    @property
    def base(self) -> str:
        """The directory that trees' names are relative to."""
        return self._directories.path

    @_disk()
    def lowers(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """The name of one directory that holds the whole stack, for reading only."""
        chain = chain_id([layer.diff_id for layer in layers])
        claim = self._shared.get(chain)
        if claim is None:
            claim = self._made(tuple(layers)).claim
            self._shared[chain] = claim
            if self._keep_owner:
                # Its owners may reach what they have open: it is no tree for other builds.
                os.unlink(_CHAIN, dir_fd=claim.fd)
        return (f"{claim.name}/{_ROOT}",)

    @contextlib.contextmanager
    def lent(self, layers: Sequence[Layer]) -> Iterator[tuple[str, ...]]:
        """A directory of its own, as nothing keeps changes apart; it goes afterwards."""
        with _disk():
            claim = self._made(tuple(layers)).claim
            os.unlink(_CHAIN, dir_fd=claim.fd)  # it stands for nothing from now on
        try:
            yield (f"{claim.name}/{_ROOT}",)
        finally:
            with _disk():
                self._directories.remove(claim.name)
            os.close(claim.fd)

    def recorded(self, layers: Sequence[Layer]) -> tuple[Recorded, ...]:
        """What files are meant to be: owners, modes and devices, or devices only."""
        return self._seeds.of(layers)

    @_disk()
    def prepare(self, layers: Sequence[Layer]) -> Active:
        """Begin a step: an unused directory of this stack or of its beginning, or a new one."""
        if len(layers) > MAX_LAYERS:
            msg = f"{len(layers)} layers are over the limit of {MAX_LAYERS} for a RUN step"
            raise SandboxError(msg, hint="join RUN instructions, or start from a flattened image")
        working = self._reused(tuple(layers)) or self._made(tuple(layers))
        self._active[working.claim.name] = working
        root = os.path.join(self._directories.path, working.claim.name, _ROOT)
        directories = working.known.directories
        if not directories:
            root_fd = self._open_root(working)
            directories = scan(root_fd).directories
            os.close(root_fd)
        working.known = Known(_tick(working.claim.fd), directories)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_CHAIN, dir_fd=working.claim.fd)  # from now on it is in flux
        links = _links(self._merged(layers)) if self._keep_owner else ()
        return Active(
            working.claim.name, working.chain, PlainRoot(root, links), self._seeds.of(layers)
        )

    @_disk()
    def diff(
        self,
        active: Active,
        stubs: Sequence[tuple[str, int]],
        recorded: Sequence[Recorded] = (),
    ) -> Layer:
        """Write the change as a layer, mount stubs removed first."""
        working = self._working(active)
        lower = TreeLower(self._merged(working.layers), working.layers, self._store)
        root_fd = self._open_root(working)
        try:
            files = RecordedFiles(recorded, self._own)
            with self._store.writer() as writer:
                now = write_changes(root_fd, lower, working.known, files, stubs, writer)
                working.known = Known(working.known.moment, now)
                return writer.commit()
        finally:
            os.close(root_fd)

    @_disk()
    def commit(self, active: Active, layer: Layer) -> None:
        """Let the directory stand for parent + layer."""
        working = self._active.pop(active.key)
        working.layers = (*working.layers, layer)
        self._note(working)
        self._scanned[working.claim.name] = working.known.directories
        os.close(working.claim.fd)

    @_disk()
    def discard(self, active: Active) -> None:
        """Throw a step's directory away; unknown is success."""
        self._drop(active.key)

    def sweep(self) -> int:
        """Delete what crashed processes left behind; return how many directories."""
        return self._directories.sweep(lambda name: name in self._active or self._is_whole(name))

    def _is_whole(self, name: str) -> bool:
        return os.path.exists(os.path.join(self._directories.path, name, _CHAIN))

    def _working(self, active: Active) -> _Working:
        working = self._active.get(active.key)
        if working is None:
            msg = f"snapshot {active.key} is not active"
            raise SandboxError(msg)
        return working

    def _reused(self, layers: tuple[Layer, ...]) -> _Working | None:
        """Take an idle directory that holds the stack, or most of its beginning."""
        chains = {self._note_of(layers[:count]): count for count in range(1, len(layers) + 1)}
        found: list[tuple[int, str]] = []
        for name in os.listdir(self._directories.fd):
            noted, mark = _noted(self._directories, name)
            if noted and not self._boot.believes(mark):
                self._throw(name)
            elif count := chains.get(noted):
                found.append((count, name))
        for count, name in sorted(found, reverse=True):
            claim = self._directories.lock(name)
            if claim is None:
                continue
            if chains.get(_noted(self._directories, name)[0]) == count:
                working = _Working(claim, layers[:count])
                if count == len(layers):
                    working.known = Known(0, self._scanned.pop(name, {}))
                return self._extended(working, layers)
            os.close(claim.fd)
        return None

    def _note_of(self, layers: Sequence[Layer]) -> str:
        """What is noted of a directory: its stack, and whether files are their owners'."""
        chain = str(chain_id([layer.diff_id for layer in layers]))
        return chain + _OWNED if self._keep_owner else chain

    def _throw(self, name: str) -> None:
        """Remove a directory that another boot left, unless somebody uses it now."""
        claim = self._directories.lock(name)
        if claim is None:
            return
        with claim:
            if not self._boot.believes(_noted(self._directories, name)[1]):
                self._directories.remove(name)

    def _note(self, working: _Working) -> None:
        fd = os.open(f"{_CHAIN}.new", _NOTE, 0o600, dir_fd=working.claim.fd)
        with open(fd, "w", encoding="ascii") as file:
            file.write(f"{self._note_of(working.layers)}\n{self._boot.name}")
        here = working.claim.fd
        os.rename(f"{_CHAIN}.new", _CHAIN, src_dir_fd=here, dst_dir_fd=here)

    def _made(self, layers: tuple[Layer, ...]) -> _Working:
        claim = self._directories.claim()
        try:
            os.mkdir(_ROOT, 0o755, dir_fd=claim.fd)
            return self._extended(_Working(claim, ()), layers)
        except BaseException:
            self._directories.remove(claim.name)
            os.close(claim.fd)
            raise

    def _extended(self, working: _Working, layers: tuple[Layer, ...]) -> _Working:
        """Bring a directory from the stack it holds to a longer one."""
        if len(working.layers) < len(layers) or not layers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_CHAIN, dir_fd=working.claim.fd)
            present = self._merged(working.layers) if working.layers else None
            root_fd = self._open_root(working)
            try:
                tree = self._merged(layers)
                keep = self._keep_owner
                materialize(root_fd, tree, layers, self._store, keep_owner=keep, present=present)
            finally:
                os.close(root_fd)
            working.layers = layers
            self._note(working)
        return working

    def _open_root(self, working: _Working) -> int:
        return os.open(_ROOT, _DIRECTORY, dir_fd=working.claim.fd)

    def _drop(self, key: str) -> None:
        working = self._active.pop(key, None)
        if working is None:
            return
        try:
            self._directories.remove(key)
        finally:
            os.close(working.claim.fd)


def _links(tree: Tree) -> tuple[tuple[str, str], ...]:
    """Every symbolic link of a tree."""
    entries = (node.entry for node in tree.walk())
    return tuple((e.path, e.linkname) for e in entries if e.kind is Kind.SYMLINK)


def drop_idle(root: str, kept: Collection[object], boot: Boot) -> None:
    """Delete the directories nobody uses, but those that hold a stack named in `kept`."""
    directories = Directories.open(os.path.join(root, "plain"))

    def is_kept(name: str) -> bool:
        noted, mark = _noted(directories, name)
        return noted.removesuffix(_OWNED) in kept and boot.believes(mark)

    try:
        directories.sweep(is_kept)
    finally:
        directories.close()


def _noted(directories: Directories, name: str) -> tuple[str, str]:
    """The chain that a directory is said to hold, empty while it is in flux, and since which boot."""
    try:
        with open(os.path.join(directories.path, name, _CHAIN), encoding="ascii") as file:
            noted, _, mark = file.read(200).partition("\n")
    except (OSError, UnicodeDecodeError):
        return "", ""
    return noted, mark


def _tick(directory_fd: int) -> int:
    """A moment of the file system's clock after which changes can be told from what was before."""
    fd = os.open("clock", _NOTE, 0o600, dir_fd=directory_fd)
    try:
        before = now = os.fstat(fd).st_ctime_ns
        while now == before:
            time.sleep(0.001)
            os.utime(fd)
            now = os.fstat(fd).st_ctime_ns
    finally:
        os.close(fd)
        os.unlink("clock", dir_fd=directory_fd)
    return before
