"""Planning what ADD makes of a tar archive (A02): re-rooted entries, no bytes moved yet.

Must not know compression or where the archive comes from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from builder.context.source import CopyError, join, shown
from builder.solver.destination import Planned, copied, placed
from builder.solver.layer_plan import Member, Payload, TreeFile
from cache.archive.entry import Entry, Kind
from cache.archive.reader import read_entries

if TYPE_CHECKING:
    from builder.context.source import SourceTree
    from builder.solver.destination import Destination
    from builder.solver.ownership import Owner

_LINK_MODE = 0o777  # whatever an archive says


class Unpacking:
    """One archive being planned below a directory of the destination."""

    def __init__(
        self,
        plan: Destination[Payload],
        base: SourceTree,
        root: str,
        owner: Owner | None,
        number: int,
    ) -> None:
        """Unpack the archive with this number at `root`, a resolved directory."""
        self._plan = plan
        self._base = base
        self._root = root
        self._owner = owner
        self._number = number
        self._places: dict[str, str] = {}  # parents resolved so far; void after a replacement

    def __repr__(self) -> str:
        """Say where."""
        return f"<Unpacking at {shown(self._root)}>"

    def run(self, stream: BinaryIO) -> None:
        """Plan every entry; links of the base and of the archive itself are honoured.

        Raises:
            CopyError: a hardlink without a target, or a parent that is no directory.
        """
        for ordinal, (entry, _) in enumerate(read_entries(stream)):
            if entry.path:  # the archive's own root does not change the destination (A10)
                self._add(entry, ordinal)

    def _add(self, entry: Entry, ordinal: int) -> None:
        parent, _, name = entry.path.rpartition("/")
        path = join(self._parent(parent), name)
        if entry.kind is Kind.HARDLINK:
            planned = self._linked(entry, path)
        else:
            payload = Member(self._number, ordinal) if entry.kind is Kind.FILE else None
            mode = _LINK_MODE if entry.kind is Kind.SYMLINK else entry.mode
            planned = Planned[Payload](copied(entry, path, self._owner, mode), payload)
        existing = self._plan.get(path)
        self._plan.replace(path, planned)
        turned = existing is not None and existing.kind is not planned.entry.kind
        if turned or planned.entry.kind is Kind.SYMLINK:
            self._places.clear()

    def _parent(self, parent: str) -> str:
        place = self._places.get(parent)
        if place is None:
            place = self._plan.resolve(join(self._root, parent))
            self._plan.make_directories(place, self._plan.implied)
            self._places[parent] = place
        return place

    def _linked(self, entry: Entry, path: str) -> Planned[Payload]:
        """What a hardlink shares: an earlier entry, or a copy of the base's file."""
        target = self._plan.resolve(join(self._root, entry.linkname), follow_last=False)
        planned = self._plan.planned(target)
        if planned is not None and planned.entry.kind is not Kind.DIRECTORY:
            return Planned(
                placed(planned.entry, path, None, planned.entry.mode),
                planned.payload,
                planned.group,
            )
        found = self._plan.get(target)
        if found is None or found.kind is Kind.DIRECTORY:
            raise CopyError(f'"{shown(entry.path)}": its hard link target is not there')
        payload = TreeFile(self._base, target) if found.kind is Kind.FILE else None
        group = (id(self._base), target) if payload is not None else None
        return Planned(copied(found, path, self._owner, found.mode), payload, group)
