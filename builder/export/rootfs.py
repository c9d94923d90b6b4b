"""type=tar: the merged file system of an image as one plain tar (O42)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.export.payload import Payloads
from cache.archive.entry import NANOSECOND, Entry, Kind
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache.archive.tree import Node, Tree
    from cache.archive.writer import Sink, TarWriter
    from cache.layers import LayerStore
    from cache.spec.oci import Layer

_DIRECTORY_MODE = 0o755


def merged(layers: Sequence[Layer], store: LayerStore) -> Tree:
    """The tree a stack of layers makes."""
    from cache.archive.tree import Tree  # noqa: PLC0415 - only when a file system is exported

    return Tree.of([store.index(layer) for layer in layers])


def write_rootfs(
    layers: Sequence[Layer], store: LayerStore, sink: Sink, *, epoch: int | None = None
) -> None:
    """Write the merged tree of one stack, as write_platforms does of several."""
    write_platforms({"": layers}, store, sink, epoch=epoch)


def write_platforms(
    stacks: Mapping[str, Sequence[Layer]],
    store: LayerStore,
    sink: Sink,
    *,
    epoch: int | None = None,
) -> None:
    """Write merged trees: parents first, names sorted, owners and modes as in the image.

    Each stack lies under the directory named by its key; "" is the top (O40). With an epoch
    every entry has that time (O21).
    """
    from cache.archive.writer import TarWriter  # noqa: PLC0415 - only when an archive is made

    tar = TarWriter(sink)
    for prefix, layers in stacks.items():
        if prefix:
            tar.add(dated(Entry(prefix, Kind.DIRECTORY, _DIRECTORY_MODE), epoch))
        with Payloads(layers, store) as payloads:
            _add_tree(tar, merged(layers, store), payloads, prefix, epoch)
    tar.finish()


def _add_tree(
    tar: TarWriter, tree: Tree, payloads: Payloads, prefix: str, epoch: int | None
) -> None:
    first: dict[tuple[int, str], str] = {}
    for node in tree.walk():
        if not node.entry.path:
            continue
        entry = dated(node.entry, epoch)
        if prefix:
            entry = replace(entry, path=f"{prefix}/{entry.path}")
        target = first.setdefault((node.layer, node.group), entry.path) if node.group else ""
        if target and target != entry.path:
            tar.add(as_hardlink(entry, target))
        else:
            tar.add(entry, payloads.at(node) if _has_payload(node) else None)


def dated(entry: Entry, epoch: int | None) -> Entry:
    """The entry with the time an epoch asks for."""
    return entry if epoch is None else replace(entry, mtime=epoch * NANOSECOND)


def as_hardlink(entry: Entry, target: str) -> Entry:
    """Another name of a file already written; what it is was said there."""
    return replace(entry, kind=Kind.HARDLINK, linkname=target, size=0, xattrs=(), device=(0, 0))


def _has_payload(node: Node) -> bool:
    return node.entry.kind is Kind.FILE and node.entry.size > 0
