"""What files of a stack are meant to be where they cannot be it on disk: the sandbox's first records.

Worked out once for a stack, and for a stack that grew by a layer only for what that changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.sandbox.spec import Recorded
from cache.archive.entry import WHITEOUT, Entry, Kind
from cache.spec.oci import chain_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cache.archive.tree import Tree
    from cache.layers import ArrivingLayers, LayerStore
    from cache.spec.digest import Digest
    from cache.spec.oci import Layer

_TYPES = {
    Kind.CHAR: 0o020000,
    Kind.BLOCK: 0o060000,
    Kind.FILE: 0o100000,
    Kind.DIRECTORY: 0o040000,
    Kind.FIFO: 0o010000,
    Kind.SYMLINK: 0o120000,
}
_KEPT = 16  # stacks remembered


class DeviceLayers:
    """Which layers have devices that steps may see; most have none, which is told cheaply."""

    def __init__(self, store: ArrivingLayers) -> None:
        """Ask a store, once for each layer."""
        self._store = store
        self._known: dict[Digest, bool] = {}

    def any(self, layers: Sequence[Layer]) -> bool:
        """Whether any of them has."""
        for layer in layers:
            if layer.diff_id not in self._known:
                self._known[layer.diff_id] = self._store.has_devices(layer)
        return any(self._known[layer.diff_id] for layer in layers)


class Seeds:
    """Records by stack."""

    def __init__(
        self,
        store: LayerStore,
        merged: Callable[[Sequence[Layer]], Tree],
        *,
        devices_only: bool = False,
    ) -> None:
        """Read indexes of layers and merged trees; `devices_only` where owners are on disk.

        Devices below /dev are left out then: no step sees them.
        """
        self._needs = _is_device if devices_only else _needs_record
        self._record = _device if devices_only else _record
        self._store = store
        self._merged = merged
        self._known: dict[Digest, dict[str, Recorded]] = {}

    def of(self, layers: Sequence[Layer]) -> tuple[Recorded, ...]:
        """The records of a stack's tree."""
        chain = chain_id([layer.diff_id for layer in layers])
        found = self._known.get(chain)
        if found is None:
            found = self._grown(layers) if layers else None
            if found is None:
                found = self._of_tree(self._merged(layers))
            if len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[chain] = found
        return tuple(found.values())

    def _grown(self, layers: Sequence[Layer]) -> dict[str, Recorded] | None:
        below = self._known.get(chain_id([layer.diff_id for layer in layers[:-1]]))
        if below is None:
            return None
        tree = self._merged(layers)
        found = dict(below)
        for entry in self._store.index(layers[-1]):
            now = None if _is_mark(entry) else tree.get(entry.path)
            if now is not None and self._needs(now):
                found[entry.path or "."] = self._record(now)
            else:
                found.pop(entry.path or ".", None)
        return {path: r for path, r in found.items() if tree.get("" if path == "." else path)}

    def _of_tree(self, tree: Tree) -> dict[str, Recorded]:
        return {
            node.entry.path or ".": self._record(node.entry)
            for node in tree.walk()
            if self._needs(node.entry)
        }


def _is_mark(entry: Entry) -> bool:
    return entry.path.rpartition("/")[2].startswith(WHITEOUT)


def _record(entry: Entry) -> Recorded:
    return Recorded(
        entry.path or ".",
        entry.uid,
        entry.gid,
        _TYPES[entry.kind] | entry.mode,
        entry.device,
        tuple(pair for pair in entry.xattrs if not pair[0].startswith("user.")),
    )


def _is_device(entry: Entry) -> bool:
    return entry.kind in {Kind.CHAR, Kind.BLOCK} and not entry.path.startswith("dev/")


def _device(entry: Entry) -> Recorded:
    return Recorded(entry.path, mode=_TYPES[entry.kind] | entry.mode, device=entry.device)


def _needs_record(entry: Entry) -> bool:
    if entry.uid or entry.gid or entry.kind in {Kind.CHAR, Kind.BLOCK}:
        return True
    if entry.kind is Kind.SYMLINK:
        return False
    needed = 0o700 if entry.kind is Kind.DIRECTORY else 0o600
    special = entry.mode & 0o7000 or entry.mode & needed != needed
    return bool(special) or any(not name.startswith("user.") for name, _ in entry.xattrs)
