"""What a layer being unpacked consists of so far, seen over the layers below it.

Owns the way from a path in the tar to the place it means: symlinks of this layer and of the
lower ones are followed inside the root, whiteouts and opaque marks hide what is below. All of
it is data; nothing here touches a disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cache.archive.entry import Entry, Kind
from cache.archive.header import quoted
from cache.errors import ArchiveError
from cache.value import field, state, value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_LINKS = 255  # symlinks followed for one path
_DIRECTORY, _SYMLINK = Kind.DIRECTORY, Kind.SYMLINK
_UNTOLD = Entry("", _DIRECTORY, 0o755)  # a root that no layer has an entry of


class Lower(Protocol):
    """The merged tree of the layers below."""

    def get(self, path: str) -> Entry | None:
        """The entry at a path as it stands; symlinks are not followed."""

    def resolve(self, path: str) -> str:
        """Follow symlinks inside the root; missing components stay as they are.

        Raises:
            ArchiveError: the links loop.
        """

    def children(self, path: str) -> Iterable[str]:
        """Names in a directory."""


@state
class Node:
    """Something this layer holds.

    entry: what was unpacked, or the lower directory an implied one was modelled on.
    is_opaque: lower content of the directory is hidden. is_whiteout: nothing but a mark that
    the lower path is gone. holds_entry: an entry of the layer is this or lies below; a directory
    made only for marks does not.
    """

    entry: Entry
    children: dict[str, Node] = field(default_factory=dict)
    is_opaque: bool = False
    is_whiteout: bool = False
    holds_entry: bool = True

    @property
    def is_directory(self) -> bool:
        """Whether it may have children."""
        return self.entry.kind is _DIRECTORY and not self.is_whiteout


@value
class Place:
    """A directory of the merged view: its path and what this layer holds of it.

    shows_lower: whether lower content could appear in it.
    """

    path: str
    node: Node | None
    shows_lower: bool

    def below(self, name: str) -> str:
        """Join a name."""
        return f"{self.path}/{name}" if self.path else name


class OverlayTree:
    """This layer's nodes over the lower tree."""

    __slots__ = ("_last", "_lower", "root")

    def __init__(self, lower: Lower | None) -> None:
        """Begin with nothing but a root directory."""
        self._lower = lower
        self.root = Node(_UNTOLD)
        self._last: tuple[str, Place] | None = None

    def root_entry(self) -> Entry:
        """What the root is: this layer's, else as it is below.

        Asked for at the end, as who makes the tree below may not be done yet.
        """
        if self.root.entry is not _UNTOLD or self._lower is None:
            return self.root.entry
        return self._lower.get("") or _UNTOLD

    def lower_entry(self, place: Place, name: str) -> Entry | None:
        """What shows of the lower tree at a name in a place, this layer's own node aside."""
        if self._lower is None or not place.shows_lower:
            return None
        return self._lower.get(place.below(name))

    def top(self) -> Place:
        """The root as a place."""
        return Place("", self.root, self._lower is not None and not self.root.is_opaque)

    def step(self, place: Place, name: str) -> tuple[Place, Entry | None]:
        """Go down to a name: the place, and the entry that is seen there."""
        node = place.node.children.get(name) if place.node is not None else None
        if node is None:
            entry = self.lower_entry(place, name)
            shows = entry is not None and entry.kind is _DIRECTORY
            return Place(place.below(name), None, shows), entry
        shows = place.shows_lower and node.is_directory and not node.is_opaque
        return Place(place.below(name), node, shows), None if node.is_whiteout else node.entry

    def resolve(self, path: str) -> Place:
        """The directory a path leads to, all its links followed.

        Raises:
            ArchiveError: the links loop.
        """
        if self._last is not None and self._last[0] == path:
            return self._refreshed(self._last[1])
        way = [self.top()]
        todo = path.split("/")[::-1] if path else []
        hops = 0
        while todo:
            name = todo.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                del way[max(1, len(way) - 1) :]
                continue
            place, entry = self.step(way[-1], name)
            if entry is None or entry.kind is not _SYMLINK:
                way.append(place)
                continue
            hops += 1
            if hops > MAX_LINKS:
                raise ArchiveError(f"{quoted(path)} leads through too many symlinks")
            if entry.linkname.startswith("/"):
                del way[1:]
            todo.extend(entry.linkname.split("/")[::-1])
        found = way[-1]
        # A way without links or missing parts cannot change while entries are added below it.
        if not hops and found.node is not None and found.node.is_directory:
            self._last = path, found
        else:
            self._last = None
        return found

    def _refreshed(self, place: Place) -> Place:
        """A remembered place may have become opaque."""
        if place.node is not None and place.node.is_opaque and place.shows_lower:
            return Place(place.path, place.node, shows_lower=False)
        return place

    def marked(self, parent: str) -> str | None:
        """The place a whiteout's parent means; None when it concerns nothing below.

        A mark is about the lower tree, so lower links lead to it, unless this layer put
        something else in a link's place.
        """
        if self._lower is None:
            return self.resolve(parent).path
        place = self._lower.resolve(parent) if parent else ""
        if place != parent:
            for here, node in self._own(parent):
                lower = self._lower.get(here)
                if lower is not None and lower.kind is _SYMLINK:
                    is_mark = node.is_whiteout and not node.holds_entry  # no order among marks
                    return place if is_mark or node.entry.kind is _SYMLINK else None
        return place

    def _own(self, path: str) -> Iterator[tuple[str, Node]]:
        """This layer's nodes on a way, taken as it is written."""
        node: Node | None = self.root
        here = ""
        for name in path.split("/"):
            node = node.children.get(name) if node is not None else None
            if node is None:
                return
            here = f"{here}/{name}" if here else name
            yield here, node

    def literal(self, path: str) -> Place | None:
        """The place of a path without following links; None below something that is no directory."""
        place = self.top()
        for name in path.split("/") if path else []:
            place, _ = self.step(place, name)
            if place.node is not None and not place.node.is_directory:
                return None
        return place

    def forget_way(self) -> None:
        """Forget the remembered way: something on it may have been replaced."""
        self._last = None
