"""type=tar: the merged file system of an image as one plain tar (O42)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from builder.export.payload import Payloads
from cache.archive.entry import NANOSECOND, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache.archive.entry import Entry
    from cache.archive.tree import Node, Tree
    from cache.layers import LayerStore
    from cache.spec.oci import Layer


def merged(layers: Sequence[Layer], store: LayerStore) -> Tree:
    """The tree a stack of layers makes."""
    from cache.archive.tree import Tree  # noqa: PLC0415 - only when a file system is exported

    return Tree.of([store.index(layer) for layer in layers])


def write_rootfs(
    layers: Sequence[Layer], store: LayerStore, sink: BinaryIO, *, epoch: int | None = None
) -> None:
    """Write the merged tree: parents first, names sorted, owners and modes as in the image.

    With an epoch every entry has that time (O21).
    """
    from cache.archive.writer import TarWriter  # noqa: PLC0415 - only when an archive is made

    tar = TarWriter(sink)
    first: dict[tuple[int, str], str] = {}
    with Payloads(layers, store) as payloads:
        for node in merged(layers, store).walk():
            if not node.entry.path:
                continue
            entry = dated(node.entry, epoch)
            target = first.setdefault((node.layer, node.group), entry.path) if node.group else ""
            if target and target != entry.path:
                tar.add(as_hardlink(entry, target))
            else:
                tar.add(entry, payloads.at(node) if _has_payload(node) else None)
    tar.finish()


def dated(entry: Entry, epoch: int | None) -> Entry:
    """The entry with the time an epoch asks for."""
    return entry if epoch is None else replace(entry, mtime=epoch * NANOSECOND)


def as_hardlink(entry: Entry, target: str) -> Entry:
    """Another name of a file already written; what it is was said there."""
    return replace(entry, kind=Kind.HARDLINK, linkname=target, size=0, xattrs=(), device=(0, 0))


def _has_payload(node: Node) -> bool:
    return node.entry.kind is Kind.FILE and node.entry.size > 0
