"""Snapshots as overlayfs directories: committed trees are lowers, an active one is an upper.

Owns `<root>/snapshots/<name>` (committed) and `<root>/active/<name>/{upper,work}`. It mounts
nothing: mounts are data for the sandbox. It must run as root of the user namespace that owns
the state directory, since a tree's files belong to many ids.

Where active snapshots lie on another file system, because that of the trees takes no upper
directory, an upper cannot become a tree: it goes, and the next step has its layer extracted.
"""

from __future__ import annotations

import contextlib
import os
from threading import Lock
from typing import TYPE_CHECKING, Self

from builder.errors import SandboxError
from builder.sandbox.spec import Overlay
from builder.snapshot import attributes, places
from builder.snapshot.directories import Claim, Directories
from builder.snapshot.extraction import Stack
from builder.snapshot.latewriter import LateWriter
from builder.snapshot.line import AT_ONCE, Line, Turn
from builder.snapshot.lower import EmptyLower, StackedLower
from builder.snapshot.recorded import RecordedFiles, RecordedLower
from builder.snapshot.remover import Remover
from builder.snapshot.seals import Boot, Seals
from builder.snapshot.seeds import DeviceLayers, Seeds
from builder.snapshot.snapshotter import Active
from builder.snapshot.stubs import remove_stubs
from builder.snapshot.upper import write_upper
from builder.snapshot.whole import can_hide, whole_chain, whole_until
from cache.errors import StoreError, advice_on, reason_of
from cache.spec.digest import Digest
from cache.spec.manifest import MAX_LAYERS
from cache.spec.oci import chain_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from builder.sandbox.spec import Recorded
    from builder.snapshot.lower import LowerDir
    from builder.snapshot.names import SnapshotNames
    from cache.archive.tree import Tree
    from cache.layers import ArrivingLayers
    from cache.spec.oci import Layer

    Merged = Callable[[Sequence[Layer]], Tree]

_EMPTY = "empty"  # the lower of an empty stack; overlayfs needs at least one
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS = (_EMPTY, places.NAME)
_SCRATCH = chain_id(())
# The tar without entries, which is what a step leaves that changes nothing: it needs no tree.
_NOTHING = Digest.of(bytes(1024))


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    """Turn what the disk says into an error of ours."""
    try:
        yield
    except OSError as error:
        msg = f"snapshot directory: {reason_of(error)}"
        raise StoreError(msg, hint=advice_on(error)) from error


class OverlaySnapshotter:
    """The Snapshotter port on overlayfs; safe for threads and beside other processes."""

    def __init__(
        self,
        root: str,
        store: ArrivingLayers,
        names: SnapshotNames,
        *,
        merged: Merged | None = None,
        keep_owner: bool = True,
        boot: Boot | None = None,
    ) -> None:
        """Open the state below `root`; `keep_owner` is off where only one id is mapped.

        `merged` gives the merged index of a stack, which extraction needs of the layers below;
        by default it is made anew each time. Without `boot` trees of any boot are believed.
        """
        self._merged = merged or self._merge
        self._store = store
        self._keep_owner = keep_owner
        self._seeds = Seeds(store, self._merged, devices_only=keep_owner)
        self._devices = DeviceLayers(store)
        self._trees = Directories.open(os.path.join(root, "snapshots"))
        self._actives = Directories.open(os.path.join(root, "active"))
        self._remover = Remover(self._actives)
        self._names = Seals(names, self._trees, boot or Boot(), self._remover.take)
        self._apart = os.fstat(self._trees.fd).st_dev != os.fstat(self._actives.fd).st_dev
        self._hides = not self._apart or can_hide(self._trees.fd)
        self._guard = Lock()
        self._extracting: dict[Digest, Lock] = {}
        self._held: dict[str, Claim] = {}
        self._read: dict[Digest, str] = {}  # names of trees, as the record of a chain gave them
        self._stack: tuple[tuple[Layer, ...], tuple[Digest, ...]] = ((), ())  # asked about last
        self._absent: set[bytes] = set()  # what committed trees were seen to lack
        self._has_places = False
        self._nothing: Layer | None = None  # the layer without entries, once one was written

    def __enter__(self) -> Self:
        """Use for a with-block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Throw active snapshots away and close the state directories."""
        for key in list(self._held):
            self._drop(key)
        self._remover.finish()
        self._names.finish()
        self._trees.close()
        self._actives.close()

    @property
    def base(self) -> str:
        """The absolute directory that committed trees' names are relative to."""
        return self._trees.path

    @_disk()
    def lowers(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """Names of the committed trees of a stack, topmost first; missing ones are extracted.

        A layer without entries has none.

        Raises:
            ArchiveError: a layer is malformed. DigestMismatchError: it is not what it says.
        """
        layers = _with_entries(layers)
        if not layers:
            return (self._empty(),)
        if len(layers) > MAX_LAYERS:
            msg = f"{len(layers)} layers are over the limit of {MAX_LAYERS} for a RUN step"
            raise SandboxError(msg, hint="join RUN instructions, or start from a flattened image")
        stack = Stack(self._store, layers, self._merged)
        start = 0 if self._hides else whole_until(self._store, layers)
        trees: list[tuple[int, Digest, bool]] = []
        for count, chain in enumerate(self._chains(layers)):
            if count + 1 >= start:
                is_whole = count + 1 == start
                trees.append((count, whole_chain(chain) if is_whole else chain, is_whole))
        names = [self._known(chain) for _, chain, _ in trees]
        missing = [place for place, name in enumerate(names) if name is None]
        if missing:
            self._store.expect([layers[trees[place][0]] for place in missing])

            def extract(turn: Turn) -> str:
                count, chain, is_whole = trees[missing[turn.number]]
                return self._extract(chain, stack, count, turn, whole=is_whole)

            made = Line(extract, len(missing)).run(1 if start else AT_ONCE)
            for place, name in zip(missing, made, strict=True):
                names[place] = name
        self._names.settle()
        return tuple(name for name in reversed(names) if name is not None)

    def lent(self, layers: Sequence[Layer]) -> contextlib.nullcontext[tuple[str, ...]]:
        """The same trees: the overlay mounted of them keeps changes apart."""
        return contextlib.nullcontext(self.lowers(layers))

    def recorded(self, layers: Sequence[Layer]) -> tuple[Recorded, ...]:
        """What files are meant to be: owners and devices, or devices only."""
        if self._keep_owner and not self._devices.any(layers):
            return ()
        return self._seeds.of(layers)

    @_disk()
    def prepare(self, layers: Sequence[Layer]) -> Active:
        """Begin a writable snapshot on a stack."""
        lowers = self.lowers(layers)
        claim = self._actives.claim()
        self._held[claim.name] = claim
        try:
            os.mkdir("work", dir_fd=claim.fd)
            os.mkdir("upper", dir_fd=claim.fd)
            _copy_root(self._trees.fd, lowers[0], claim.fd)
        except BaseException:
            self._drop(claim.name)
            raise
        place = os.path.join(self._actives.path, claim.name)
        overlay = Overlay(
            base=self._trees.path,
            lowers=lowers,
            upper=os.path.join(place, "upper"),
            work=os.path.join(place, "work"),
            beneath=() if self._apart or len(lowers) >= MAX_LAYERS else (self._places(),),
        )
        stacked = _with_entries(layers)
        chain = self._chains(stacked)[-1] if stacked else _SCRATCH
        return Active(claim.name, chain, overlay, self.recorded(layers))

    @_disk()
    def diff(
        self,
        active: Active,
        stubs: Sequence[tuple[str, int]],
        recorded: Sequence[Recorded] = (),
    ) -> Layer:
        """Write the change as a layer, mount stubs removed first.

        Raises:
            ArchiveError: a path that a layer cannot hold.
        """
        lower = self._lower(active)
        upper = self._open_upper(active)
        try:
            if stubs:
                remove_stubs(upper, lower, stubs)
            with contextlib.ExitStack() as held:
                writer = LateWriter(self._store, held)
                files = RecordedFiles(recorded, types_only=True)
                write_upper(upper, lower, writer, files)
                if not writer.is_empty:
                    return writer.commit()
                if self._nothing is None:
                    self._nothing = writer.commit()
                return self._nothing
        finally:
            os.close(upper)

    @_disk()
    def commit(self, active: Active, layer: Layer) -> None:
        """Make the upper directory the committed tree of parent + layer, unless there is one."""
        chain = _next_chain(active.parent, layer.diff_id)
        upper = self._open_upper(active)
        needs_tree = layer.diff_id != _NOTHING and not self._apart
        if needs_tree and self._known(chain) is None:
            with self._trees.adopt(upper, self._actives, f"{active.key}/upper") as claim:
                self._name(chain, claim.name)
        else:
            os.close(upper)
        self._drop(active.key)

    @_disk()
    def discard(self, active: Active) -> None:
        """Throw an active snapshot away; unknown is success."""
        self._drop(active.key)

    @_disk()
    def remove(self, chain: Digest) -> None:
        """Forget and delete the committed tree of a chain that no step uses."""
        name = self._names.get(chain)
        self._read.pop(chain, None)
        self._absent.clear()
        self._names.remove(chain)
        if name is not None:
            self._trees.remove(name)

    def sweep(self) -> int:
        """Delete what crashed processes left behind; return how many directories."""
        self._remover.finish()
        trees = self._trees.sweep(lambda name: name in _OURS or self._names.holds(name))
        return trees + self._actives.sweep(self._held.__contains__)

    def _known(self, chain: Digest) -> str | None:
        """Name of a chain's tree, if it can be believed."""
        name = self._read.get(chain)
        if name is not None:
            return name  # nobody removes trees while a build holds the state directory
        name = self._names.get(chain)
        if name is not None:
            self._read[chain] = name
        return name

    def _chains(self, layers: Sequence[Layer]) -> tuple[Digest, ...]:
        """Chain IDs of a stack from its base on; the next step asks for one more mostly."""
        known, chains = self._stack
        count = 0
        for before, layer in zip(known, layers, strict=False):
            if before is not layer:
                break
            count += 1
        found = list(chains[:count])
        for layer in layers[count:]:
            found.append(_next_chain(found[-1] if found else _SCRATCH, layer.diff_id))
        self._stack = (tuple(layers), tuple(found))
        return tuple(found)

    def _empty(self) -> str:
        try:
            os.mkdir(_EMPTY, dir_fd=self._trees.fd)
        except FileExistsError:
            return _EMPTY
        os.chmod(_EMPTY, 0o755, dir_fd=self._trees.fd)  # noqa: S103 - a root is open to all
        return _EMPTY

    def _places(self) -> str:
        """The tree of places to mount on; what is missing of it, a step makes itself."""
        if not self._has_places:
            places.make(self._trees.fd)
            self._has_places = True
        return places.NAME

    def _extract(
        self, chain: Digest, stack: Stack, count: int, turn: Turn, *, whole: bool = False
    ) -> str:
        """Extract layer `count` of a stack; whoever comes second in this process waits.

        With `whole` the tree holds what lies below, too.
        """
        with self._guard:
            lock = self._extracting.setdefault(chain, Lock())
        with lock:
            known = self._known(chain)
            if known is not None:
                return known
            with self._trees.claim() as claim:
                try:
                    extract = stack.extract_whole if whole else stack.extract
                    extract(count, claim.fd, turn, keep_owner=self._keep_owner)
                    turn.wait()  # nothing is kept that stands on what could not be verified
                except BaseException:
                    self._trees.remove(claim.name)
                    raise
                return self._name(chain, claim.name)

    def _merge(self, layers: Sequence[Layer]) -> Tree:
        from cache.archive.tree import Tree  # noqa: PLC0415 - cached builds need none

        return Tree.of(self._store.index(layer) for layer in layers)

    def _name(self, chain: Digest, name: str) -> str:
        """Record a complete tree; when another process was faster, ours goes."""
        try:
            winner = self._names.put(chain, name)
        except BaseException:
            self._trees.remove(name)
            raise
        if winner != name:
            self._trees.remove(name)
        return winner

    def _open_upper(self, active: Active) -> int:
        if active.key not in self._held:
            msg = f"snapshot {active.key} is not active"
            raise SandboxError(msg)
        return os.open(f"{active.key}/upper", _DIRECTORY, dir_fd=self._actives.fd)

    def _lower(self, active: Active) -> LowerDir:
        names = active.root.lowers if isinstance(active.root, Overlay) else ()
        if names == (_EMPTY,):
            return EmptyLower()
        lower = StackedLower(self._trees.fd, [name.encode() for name in names], self._absent)
        return RecordedLower(lower, active.recorded) if active.recorded else lower

    def _drop(self, key: str) -> None:
        claim = self._held.pop(key, None)
        if claim is not None:
            self._remover.remove(claim)


def _with_entries(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    return tuple(layer for layer in layers if layer.diff_id != _NOTHING)


def _next_chain(parent: Digest, diff_id: Digest) -> Digest:
    """Chain ID of a stack with one more layer."""
    return diff_id if parent == _SCRATCH else Digest.of(f"{parent} {diff_id}".encode())


def _copy_root(trees_fd: int, tree: str, active_fd: int) -> None:
    """Make the root directory of an upper equal to the one below, so that it is no change."""
    below = os.open(tree, _DIRECTORY, dir_fd=trees_fd)
    try:
        upper = os.open("upper", _DIRECTORY, dir_fd=active_fd)
        try:
            status = os.fstat(below)
            os.chown(upper, status.st_uid, status.st_gid)
            os.chmod(upper, status.st_mode & 0o7777)
            for name, value in attributes.read(below).xattrs:
                os.setxattr(upper, name, value)
            os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(upper)
    finally:
        os.close(below)
