"""Where copied things land: the base tree with the planned entries of one layer on top.

Owns destination paths, their links and created parents (C02-C04, C07). Must not know sources:
a payload is carried, never looked into.
"""

from __future__ import annotations

from stat import S_ISGID
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from builder.context.source import CopyError, carried, join, resolve, shown
from builder.solver.ownership import Owner
from cache.archive.entry import MAX_NAME, MAX_PATH, OPAQUE, WHITEOUT, Entry, Kind, encode
from cache.archive.mould import make_entry
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from builder.context.source import SourceTree

P = TypeVar("P")
_IMPLIED_MODE = 0o755
_ROOT = Entry("", Kind.DIRECTORY, 0o755)


class Planned(NamedTuple, Generic[P]):
    """An entry of the layer to be: its payload if it is a file; `group` joins hardlinks."""

    entry: Entry
    payload: P | None = None
    group: Hashable | None = None


def placed(entry: Entry, path: str, owner: Owner | None, mode: int) -> Entry:
    """The entry at another path, with another mode and perhaps another owner."""
    uid, gid = (entry.uid, entry.gid) if owner is None else (owner.uid, owner.gid)
    return make_entry(
        path,
        entry.kind,
        mode,
        uid,
        gid,
        entry.size,
        entry.mtime,
        entry.linkname,
        entry.device,
        entry.xattrs,
        -1,
    )


def copied(entry: Entry, path: str, owner: Owner | None, mode: int) -> Entry:
    """As `placed`, of something that is copied: only what is carried along comes (C11)."""
    found = placed(entry, path, owner, mode)
    return replace(found, xattrs=carried(entry.xattrs)) if entry.xattrs else found


class Destination(Generic[P]):
    """The tree a layer is planned on. Later entries replace earlier ones of the same path."""

    def __init__(self, base: SourceTree, owner: Owner | None, mode: int, mtime: int) -> None:
        """Take what directories that have to be created look like; without an owner root's."""
        self._base = base
        self._owned = owner is not None
        uid, gid = (owner.uid, owner.gid) if owner is not None else (0, 0)
        self._made = Entry("", Kind.DIRECTORY, mode, uid, gid, mtime=mtime)
        # What the parents that an archive implies look like: neither --chown nor --chmod.
        self.implied = Entry("", Kind.DIRECTORY, _IMPLIED_MODE, mtime=mtime)
        self._planned: dict[str, Planned[P]] = {}
        self._order: dict[str, int] = {}  # when a path was planned
        self._clock = 0
        # When something took a directory's place: what is older below it is gone.
        self._replaced: dict[str, int] = {}

    def __repr__(self) -> str:
        """Count the entries."""
        return f"<Destination {len(self._planned)} entries planned>"

    def get(self, path: str) -> Entry | None:
        """The entry at a path as it would be after the layer."""
        planned = self._planned.get(path)
        if self._replaced and self._is_gone(path):
            return None
        if planned is not None:
            return planned.entry
        return self._base.get(path) if path else self._base.get("") or _ROOT

    def planned(self, path: str) -> Planned[P] | None:
        """What was planned at a path and is still there."""
        return None if self._is_gone(path) else self._planned.get(path)

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """Follow links as they would be after the layer."""
        return resolve(self.get, path, follow_last=follow_last)

    def make_directories(self, path: str, like: Entry | None = None) -> None:
        """Create what is missing of a resolved path (C03, C04), or as `like` where that is given.

        Raises:
            CopyError: something on the way is not a directory.
        """
        if self._is_directory(path):
            return
        made = like or self._made
        above = self.get("")
        for here in (*_ancestors(path), path):
            entry = self.get(here)
            if entry is None:
                entry = self._inheriting(made, here, above)
                self.put(here, Planned(entry))
            elif entry.kind is not Kind.DIRECTORY:
                raise CopyError(f"mkdir {shown(here)}: not a directory")
            above = entry

    def _inheriting(self, made: Entry, path: str, above: Entry | None) -> Entry:
        """What a directory is that is made in another, as mkdir(2) has it."""
        if above is None or not above.mode & S_ISGID:
            return placed(made, path, None, made.mode)
        owned = self._owned or made is self.implied  # an owner that was given wins
        owner = None if owned else Owner(made.uid, above.gid)
        return placed(made, path, owner, made.mode | S_ISGID)

    def enter(self, path: str, like: Entry | None = None) -> str:
        """Resolve a path as a directory for sources' contents, created (as `like`) if missing.

        Raises:
            CopyError: it is something else.
        """
        place = self.resolve(path)
        entry = self.get(place)
        if entry is not None and entry.kind is not Kind.DIRECTORY:
            raise _not_directory(place)
        self.make_directories(place, like)
        return place

    def put(self, path: str, planned: Planned[P]) -> None:
        """Plan an entry whose parent is there; what kinds may replace others is checked (C07).

        Raises:
            CopyError: a directory would replace something else or the other way round, or the
                name cannot be in a layer.
        """
        existing = self.get(path)
        if existing is not None:
            if planned.entry.kind is Kind.DIRECTORY:
                if existing.kind is not Kind.DIRECTORY:
                    raise _not_directory(path)
            elif existing.kind is Kind.DIRECTORY:
                raise CopyError(f"cannot replace to directory {shown(path)} with file")
        else:
            _check_name(path)
        self._plan(path, planned)

    def replace(self, path: str, planned: Planned[P]) -> None:
        """Plan an entry over whatever is there, as unpacking an archive does (A02)."""
        _check_name(path)
        kind = planned.entry.kind
        existing = self.get(path)
        if existing is not None and existing.kind is Kind.DIRECTORY is not kind:
            self._replaced[path] = self._clock
        self._plan(path, planned)

    def touch(self, path: str, mtime: int) -> None:
        """Set a directory's time, its other metadata left alone (C12)."""
        entry = self.get(path)
        if path and entry is not None and entry.mtime != mtime:
            touched = Entry(
                path, entry.kind, entry.mode, entry.uid, entry.gid, 0, mtime, xattrs=entry.xattrs
            )
            self._plan(path, Planned(touched))

    def finish(self) -> Iterator[tuple[str, Planned[P]]]:
        """Yield the layer's entries by path, each once, parents first.

        Directories of the base on the way are repeated as they are: an engine that unpacks
        every layer for itself would else make them up.
        """
        if self._replaced:
            for path in [path for path in self._planned if self._is_gone(path)]:
                del self._planned[path]
        for path in list(self._planned):
            above = path
            while above := above.rpartition("/")[0]:
                if above in self._planned:
                    break
                entry = self.get(above)
                if entry is not None:
                    self._planned[above] = Planned(placed(entry, above, None, entry.mode))
        for path in sorted(self._planned):
            planned = self._planned[path]
            yield path, planned
            if path in self._replaced and planned.entry.kind is Kind.DIRECTORY:
                marker = join(path, OPAQUE)
                yield marker, Planned(Entry(marker, Kind.FILE, mtime=planned.entry.mtime))

    def _plan(self, path: str, planned: Planned[P]) -> None:
        self._clock += 1
        self._order[path] = self._clock
        self._planned[path] = planned

    def _is_gone(self, path: str) -> bool:
        """Whether a directory above was replaced after the path came to be."""
        if not self._replaced:
            return False
        order = self._order.get(path, -1)
        return any(self._replaced.get(above, -2) >= order for above in _ancestors(path))

    def _is_directory(self, path: str) -> bool:
        entry = self.get(path)
        return entry is not None and entry.kind is Kind.DIRECTORY


def _ancestors(path: str) -> list[str]:
    """Every directory above a path but the root, topmost first."""
    found = []
    at = path.find("/")
    while at >= 0:
        found.append(path[:at])
        at = path.find("/", at + 1)
    return found


def _not_directory(path: str) -> CopyError:
    return CopyError(
        f"cannot copy to non-directory: {shown(path)}",
        hint="the destination has a file or a link of that name; copy to where it leads instead",
    )


def _check_name(path: str) -> None:
    if WHITEOUT in path and path.rpartition("/")[2].startswith(WHITEOUT):
        raise CopyError(
            f'"{shown(path)}": names that begin with {WHITEOUT} mean deletions in a layer',
            hint="rename the file",
        )
    # No character takes more than four bytes, so short paths need not be encoded.
    if len(path) * 4 > MAX_NAME and (
        len(encode(path.rpartition("/")[2])) > MAX_NAME or len(encode(path)) >= MAX_PATH
    ):
        raise CopyError(f'"{shown(path[:200])}…": the path is too long')
