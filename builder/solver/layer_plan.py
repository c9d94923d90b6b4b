"""Writing a planned layer: payloads streamed in from where they are, hardlinks after targets.

Must not know how the plan came about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from builder.context.source import CopyError
from cache.archive.entry import Entry, Kind
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from contextlib import AbstractContextManager

    from builder.context.source import SourceTree
    from builder.solver.destination import Destination
    from builder.solver.earlier import EarlierLayer
    from cache.layers import LayerWriter

_SMALL = 1 << 20  # bytes read in one piece


class TreeFile(NamedTuple):
    """A file of a source tree."""

    tree: SourceTree
    path: str


@value
class StreamFile:
    """A file that is opened by a call, such as a fetched one."""

    open: Callable[[], AbstractContextManager[BinaryIO]]


@value
class Member:
    """The n-th entry of the n-th archive that is being unpacked."""

    archive: int
    ordinal: int


Payload = bytes | TreeFile | StreamFile | Member


def write_plan(
    plan: Destination[Payload],
    archives: Sequence[Callable[[], AbstractContextManager[BinaryIO]]],
    writer: LayerWriter,
    earlier: EarlierLayer | None = None,
) -> None:
    """Write every planned entry once; members of archives follow in the archives' order.

    Files of source trees that did not change are taken from `earlier`.
    """
    members: dict[Member, list[Entry]] = {}
    first: dict[Hashable, str] = {}
    for path, planned in plan.finish():
        payload, entry = planned.payload, planned.entry
        if isinstance(payload, Member):
            members.setdefault(payload, []).append(entry)
        elif planned.group is not None and planned.group in first:
            writer.add(_link(entry, first[planned.group]))
        else:
            if planned.group is not None:
                first[planned.group] = path
            _write(entry, payload, writer, earlier)
    for number, archive in enumerate(archives):
        if any(member.archive == number for member in members):
            _write_members(number, archive, members, writer)


def _write(
    entry: Entry, payload: Payload | None, writer: LayerWriter, earlier: EarlierLayer | None
) -> None:
    if entry.kind is not Kind.FILE:
        writer.add(entry)
    elif isinstance(payload, TreeFile):
        _write_file(entry, payload, writer, earlier)
    elif payload is None or isinstance(payload, bytes):
        writer.add(entry, payload or b"")
    elif isinstance(payload, StreamFile):
        with payload.open() as stream:
            writer.add(entry, stream)


def _write_file(
    entry: Entry, file: TreeFile, writer: LayerWriter, earlier: EarlierLayer | None
) -> None:
    tree, path = file
    digest = tree.known_digest(path) if earlier is not None else None
    if entry.size <= _SMALL:
        kept = earlier.payload(entry, digest) if earlier is not None else None
        writer.add(entry, tree.read(path) if kept is None else kept)
        return
    stream = earlier.stream(entry, digest) if earlier is not None else None
    if stream is not None:
        writer.add(entry, stream)
        return
    with tree.open(path) as stream:
        writer.add(entry, stream)


def _write_members(
    number: int,
    archive: Callable[[], AbstractContextManager[BinaryIO]],
    members: dict[Member, list[Entry]],
    writer: LayerWriter,
) -> None:
    from cache.archive.reader import read_entries  # noqa: PLC0415 - only ADD reads archives
    from cache.compress import open_archive  # noqa: PLC0415 - the same

    with archive() as stream:
        tar = open_archive(stream)
        if tar is None:
            raise CopyError("an archive changed while it was being unpacked")
        for ordinal, (_, payload) in enumerate(read_entries(tar)):
            wanted = members.get(Member(number, ordinal))
            if wanted is not None:
                writer.add(wanted[0], payload)
                for entry in wanted[1:]:
                    writer.add(_link(entry, wanted[0].path))


def _link(entry: Entry, target: str) -> Entry:
    return Entry(
        entry.path,
        Kind.HARDLINK,
        entry.mode,
        entry.uid,
        entry.gid,
        0,
        entry.mtime,
        target,
        xattrs=entry.xattrs,
    )
