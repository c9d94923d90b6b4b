"""COPY and ADD without a process: sources in, the entries of one layer out.

Owns how sources meet the destination (C01-C14, CP02-CP06, A02, A04). Extracts and mounts
nothing, and must not know where trees come from or where the layer goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, assert_never

from builder.context.source import join
from builder.solver.destination import Destination, Planned, copied, placed
from builder.solver.layer_plan import Payload, StreamFile, TreeFile, write_plan
from builder.solver.ownership import parse_owner, unheard
from builder.solver.selection import select
from cache.archive.entry import Entry, Kind, encode
from frontend.filemode import parse_mode
from frontend.graph import CopyOp, InlineSource, PathSource, RemoteSource, Unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from builder.context.source import SourceTree
    from builder.solver.copy_key import RemoteFile
    from builder.solver.earlier import EarlierLayer
    from builder.solver.selection import Match, Selection
    from cache.layers import LayerWriter
    from frontend.graph import Source

_DIRECTORY_MODE = 0o755
_PERMISSIONS = 0o777  # all that directories made on the way take of --chmod
_REMOTE_MODE = 0o600
_INLINE_MODE = 0o644


def write_copy(
    op: CopyOp,
    base: SourceTree,
    sources: Mapping[int, SourceTree],
    remote: Mapping[int, RemoteFile],
    writer: LayerWriter,
    *,
    created_mtime: int,
    warn: Callable[[str], None] = unheard,
    earlier: EarlierLayer | None = None,
) -> None:
    """Write the layer that a COPY or ADD adds to `base`.

    `sources` and `remote` are by input index; directories and heredocs get `created_mtime`.
    `warn` is told of owners that are not there. Files that did not change since `earlier` was
    written are taken from it.

    Raises:
        CopyError: a source is missing, or the destination cannot take it.
    """
    copier = _Copier(op, base, created_mtime, warn)
    for source in op.sources:
        copier.add(source, sources, remote)
    write_plan(copier.plan, copier.archives, writer, earlier)


class _Copier:
    """The sources of one instruction meeting its destination."""

    def __init__(
        self, op: CopyOp, base: SourceTree, mtime: int, warn: Callable[[str], None]
    ) -> None:
        self._op = op
        self._base = base
        self._mtime = mtime
        self._owner = parse_owner(op.owner, base, warn)
        self._mode = parse_mode(op.mode) if op.mode else None
        octal = self._mode.octal if self._mode is not None else None
        mode = octal & _PERMISSIONS if octal is not None else _DIRECTORY_MODE
        self.plan: Destination[Payload] = Destination(base, self._owner, mode, mtime)
        self.archives: list[Callable[[], AbstractContextManager[BinaryIO]]] = []
        self._matches = 0  # paths taken so far
        self._into = op.dest.endswith(("/", "/."))

    def add(
        self,
        source: Source,
        sources: Mapping[int, SourceTree],
        remote: Mapping[int, RemoteFile],
    ) -> None:
        if isinstance(source, PathSource):
            self._add_paths(sources[source.input], source.path)
        elif isinstance(source, InlineSource):
            data = encode(source.text)
            entry = Entry("", Kind.FILE, _INLINE_MODE, size=len(data), mtime=self._mtime)
            self._put(self._target(source.name), entry, data)
        elif isinstance(source, RemoteSource):
            self._add_remote(source, remote[source.input])
        else:
            assert_never(source)

    def _add_remote(self, source: RemoteSource, file: RemoteFile) -> None:
        if self._op.unpack is Unpack.ALWAYS and self._unpack(file.open):
            return
        entry = Entry("", Kind.FILE, _REMOTE_MODE, size=file.size, mtime=file.mtime)
        self._put(self._target(source.filename), entry, StreamFile(file.open))

    def _add_paths(self, tree: SourceTree, pattern: str) -> None:
        op = self._op
        selection = select(tree, pattern, parents=op.parents, excludes=op.excludes)
        for match in selection.matches:
            self._matches += 1
            if match.entry.kind is Kind.DIRECTORY:
                self._merge(selection, match)
            elif not self._unpacked(tree, match):
                name = match.name.rpartition("/")[2]
                self._put_from(tree, self._target(name), match.entry)

    def _merge(self, selection: Selection, match: Match) -> None:
        """Put a directory's contents into the destination (C06, C12, C13)."""
        top = self.plan.enter(self._op.dest)
        for relative, entry in selection.members(match):
            self._put_from(selection.tree, join(top, relative), entry)
        # A pivot is merged like any directory. Few trees know when their root was changed.
        known = match.path or (match.include is None and match.entry.mtime)
        if known:
            self.plan.touch(top, match.entry.mtime)

    def _target(self, name: str) -> str:
        """Where a single file goes (C02, C03, C05); its parents are made."""
        place = self.plan.resolve(self._op.dest)
        entry = self.plan.get(place)
        if self._into or (entry is not None and entry.kind is Kind.DIRECTORY):
            self.plan.make_directories(place)
            return join(place, name)
        self.plan.make_directories(place.rpartition("/")[0])
        return place

    def _put_from(self, tree: SourceTree, path: str, entry: Entry) -> None:
        if entry.kind is not Kind.FILE:
            self._put(path, entry, None)
            return
        group = tree.group(entry.path)
        # Links hold within what one path stands for, never between paths or to a link's target.
        shared = (self._matches, group) if group is not None else None
        self._put(path, entry, TreeFile(tree, entry.path), shared)

    def _put(
        self,
        path: str,
        entry: Entry,
        payload: Payload | None,
        group: tuple[int, object] | None = None,
    ) -> None:
        mode = entry.mode
        if self._mode is not None and entry.kind is not Kind.SYMLINK:
            mode = self._mode.apply(mode, directory=entry.kind is Kind.DIRECTORY)
        self.plan.put(path, Planned(copied(entry, path, self._owner, mode), payload, group))

    def _unpacked(self, tree: SourceTree, match: Match) -> bool:
        if self._op.unpack is Unpack.NEVER or match.entry.kind is not Kind.FILE:
            return False
        return self._unpack(lambda: tree.open(match.path))

    def _unpack(self, opener: Callable[[], AbstractContextManager[BinaryIO]]) -> bool:
        """Plan an archive's entries; False when it is none (A03)."""
        from builder.solver.unpack import Unpacking  # noqa: PLC0415 - only ADD reads archives
        from cache.compress import open_archive  # noqa: PLC0415 - the same

        with opener() as stream:
            tar = open_archive(stream)
            if tar is None:
                return False
            implied = self.plan.implied  # --chmod is not for what ADD unpacks (A02)
            made = placed(implied, "", self._owner, implied.mode)
            root = self.plan.enter(self._op.dest, made)
            number = len(self.archives)
            Unpacking(self.plan, self._base, root, self._owner, number).run(tar)
        self.archives.append(opener)
        return True
