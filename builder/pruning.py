"""Mark and sweep over a state directory nobody else uses: what is kept, what goes."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from builder.errors import HostUnsupportedError
from cache.errors import PybuildError
from cache.records import layer_from
from cache.spec.digest import Digest
from cache.spec.oci import chain_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from builder.state import State
    from cache.spec.oci import Descriptor, Layer

KEPT_SECONDS = 7 * 24 * 3600  # age up to which records are kept without --all
_SECOND = 1_000_000_000
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prune(state: State, *, everything: bool) -> int:
    """Drop untagged images, old (or all) records, and all content that nothing names any more.

    With `everything` what stays is read, and what is damaged goes too: base layers are fetched
    again. Gives the bytes of blobs freed; trees come on top. Needs no free space for data.
    """
    before = sum(state.store.size(digest) or 0 for digest in state.store)
    _drop_rows(state, everything=everything)
    needed = _needed(state)
    for digest in list(state.store):
        if digest not in needed or (everything and not state.store.is_whole(digest)):
            state.store.delete(digest)
    _drop_indexes(state, set() if everything else needed)
    _drop_trees(state, everything=everything)
    if os.path.isdir(f"{state.root}/git"):
        from builder.git.sweep import sweep  # noqa: PLC0415 - few builds use git

        sweep(state.root, _limit(everything=everything))
    after = sum(state.store.size(digest) or 0 for digest in state.store)
    return before - after


def _drop_rows(state: State, *, everything: bool) -> None:
    limit = _limit(everything=everything)
    for named in state.images.list():
        if not named.names or not _is_whole(state, named.manifest):
            state.images.remove(named.manifest.digest)
    with state.database.transaction():
        state.database.rows("DELETE FROM records WHERE used < ?", (limit,))
        state.database.rows("DELETE FROM memos WHERE used < ?", (limit,))


def _limit(*, everything: bool) -> int:
    """What was used last before this is dropped."""
    return time.time_ns() if everything else time.time_ns() - KEPT_SECONDS * _SECOND


def _is_whole(state: State, manifest: Descriptor) -> bool:
    """Whether an image's documents are there and undamaged; its layers can be had again."""
    try:
        return bool(state.images.load(manifest))
    except PybuildError:
        return False


def _needed(state: State) -> set[Digest]:
    """Digests of every blob that an image or a record leads to, in any form."""
    needed: set[Digest] = set()
    diff_ids: set[Digest] = set()
    for layer in _layers(state):
        needed |= {layer.blob.digest, layer.diff_id}
        diff_ids.add(layer.diff_id)
    for named in state.images.list():
        needed.add(named.manifest.digest)
        for image in state.images.load(named.manifest).images:
            needed |= {image.manifest.digest, image.config_blob.digest}
    for diff_id, digest in state.database.rows("SELECT diff_id, digest FROM forms"):
        if Digest.parse(str(diff_id)) in diff_ids:
            needed.add(Digest.parse(str(digest)))
    return needed


def _layers(state: State) -> Iterator[Layer]:
    for named in state.images.list():
        for image in state.images.load(named.manifest).images:
            yield from image.layers
    for (text,) in state.database.rows("SELECT layer FROM records WHERE layer IS NOT NULL"):
        try:
            yield layer_from(str(text))
        except PybuildError:
            continue  # a damaged row is a miss anyway


def _chains(state: State) -> set[object]:
    """Chain IDs of trees that a record gave or that an image's layers make on the way."""
    chains: set[object] = {
        output for (output,) in state.database.rows("SELECT output FROM records")
    }
    for named in state.images.list():
        for image in state.images.load(named.manifest).images:
            diff_ids = [layer.diff_id for layer in image.layers]
            chains |= {str(chain_id(diff_ids[: count + 1])) for count in range(len(diff_ids))}
    return chains


def _drop_indexes(state: State, needed: set[Digest]) -> None:
    _empty(state, "index", kept={digest.hex for digest in needed})
    _empty(state, "tmp")


def _empty(state: State, folder: str, kept: Collection[str] = ()) -> None:
    """Remove what a folder of the state holds, but for the names `kept`."""
    from cache.archive.rooted import remove_tree  # noqa: PLC0415 - start-up time

    directory = os.open(f"{state.root}/{folder}", _FLAGS)
    try:
        for name in os.listdir(directory):
            if name not in kept:
                remove_tree(directory, name)
    finally:
        os.close(directory)


def _drop_trees(state: State, *, everything: bool) -> None:
    """Remove trees; their files may belong to subordinate ids, hence the namespace."""
    if os.path.isdir(f"{state.root}/plain"):
        from builder.snapshot.plain import drop_idle  # noqa: PLC0415 - few hosts have such trees
        from builder.snapshot.seals import Boot  # noqa: PLC0415 - the same

        used = frozenset() if everything else frozenset(_chains(state))
        drop_idle(state.root, used, Boot.current())
    if os.path.isdir(f"{state.root}/scratch"):
        # what steps of killed builds had in memory, or would have had
        _empty(state, "scratch")
    folders = [
        name for name in ("snapshots", "active", "mounts") if os.path.isdir(f"{state.root}/{name}")
    ]
    if not folders:
        return
    from builder.sandbox.host import Tier  # noqa: PLC0415 - only with trees
    from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415 - the same
    from builder.snapshot.overlay import OverlaySnapshotter  # noqa: PLC0415
    from cache.archive.rooted import remove_tree  # noqa: PLC0415
    from cache.snapshotnames import SqliteSnapshotNames  # noqa: PLC0415

    for tier in (Tier.USERNS, Tier.SINGLE):
        with contextlib.suppress(HostUnsupportedError):  # without any, all of it is ours anyway
            enter_namespace(tier)
            break
    kept = set() if everything else _chains(state)
    for (chain,) in state.database.rows("SELECT chain FROM snapshots"):
        if str(chain).rpartition(" ")[2] not in kept:  # before it, the kind of tree
            state.database.rows("DELETE FROM snapshots WHERE chain = ?", (chain,))
    with OverlaySnapshotter(state.root, state.layers, SqliteSnapshotNames(state.database)) as trees:
        trees.sweep()
    if everything and "mounts" in folders:
        root = os.open(state.root, _FLAGS)
        try:
            remove_tree(root, "mounts")
        finally:
            os.close(root)
