"""The merged view of a stack of layers: what lies where, and which layer's tar holds it.

Owns the OCI whiteout rules and in-image symlink resolution, as data. It must not know of disks:
entries come from layer indexes, and nothing here opens a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from cache.archive.entry import OPAQUE, WHITEOUT, Entry, Kind
from cache.errors import ArchiveError
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

MAX_LINKS = (
    255  # symlinks followed for one path; the kernel stops at 40, chains of images are longer
)
_MAX_STEPS = 8192  # components walked for one path, so that long link targets cannot multiply
_IMPLIED_MODE = 0o755  # a directory no layer describes
_NO_LAYER = -1


@value
class Node:
    """A path of the merged tree.

    entry: what it is, `path` being its place in the tree; never a HARDLINK. layer: position of
    the layer whose tar holds the payload (-1 for a root that no layer describes). group: equal
    for the names of one hard link set inside that layer, "" for a single name.
    """

    entry: Entry
    layer: int
    group: str = ""


class Tree:
    """A stack of layers applied one after the other, base first.

    Whiteouts act on what lower layers left and never on entries of their own layer, whatever
    their order in the tar. Otherwise the last entry of a path wins.
    """

    __slots__ = ("_entries", "_groups", "_layers", "_names", "_taken")

    def __init__(self) -> None:
        """Begin with an empty root directory."""
        # Nodes are made when asked for: filling these dictionaries costs half as much.
        self._entries: dict[str, Entry] = {"": Entry("", Kind.DIRECTORY, _IMPLIED_MODE)}
        self._layers: dict[str, int] = {"": _NO_LAYER}
        self._groups: dict[str, str] = {}  # of linked paths only
        self._names: dict[str, set[str]] = {}
        self._taken: set[tuple[int, str]] = set()

    @classmethod
    def of(cls, indexes: Iterable[Sequence[Entry]]) -> Self:
        """Merge the indexes of a stack, base first.

        Raises:
            ArchiveError: a link loops, or a hard link has no target.
        """
        tree = cls()
        for layer, entries in enumerate(indexes):
            tree.apply(entries, layer)
        return tree

    def copy(self) -> Tree:
        """A tree of its own with the same paths, to apply another layer to."""
        made = Tree()
        made._entries = dict(self._entries)
        made._layers = dict(self._layers)
        made._groups = dict(self._groups)
        made._names = {path: set(names) for path, names in self._names.items()}
        made._taken = set(self._taken)
        return made

    def __len__(self) -> int:
        """Count the paths, the root included."""
        return len(self._entries)

    def __repr__(self) -> str:
        """Say how much there is."""
        return f"<Tree {len(self._entries)} paths>"

    def node(self, path: str) -> Node | None:
        """Look a path up as it stands; symlinks are not followed."""
        entry = self._entries.get(path)
        return None if entry is None else self._node(path, entry)

    def _node(self, path: str, entry: Entry) -> Node:
        return Node(entry, self._layers[path], self._groups.get(path, ""))

    def get(self, path: str) -> Entry | None:
        """Look a path's entry up as it stands; symlinks are not followed."""
        return self._entries.get(path)

    def children(self, path: str) -> list[str]:
        """Names in a directory, sorted; empty for anything else."""
        return sorted(self._names.get(path, ()))

    def names(self, path: str) -> AbstractSet[str]:
        """Names in a directory in no order; empty for anything else. Not to be changed."""
        return self._names.get(path, frozenset())

    def walk(self, path: str = "") -> Iterator[Node]:
        """Yield a path and all below it, parents first, names sorted."""
        pending = [path] if path in self._entries else []
        while pending:
            here = pending.pop()
            yield self._node(here, self._entries[here])
            prefix = f"{here}/" if here else ""
            pending.extend(prefix + name for name in reversed(self.children(here)))

    def resolve(self, path: str, *, follow_last: bool = True) -> str:
        """Follow symlinks inside the root; components that do not exist are kept as they are.

        `..` stops at the root and an absolute target starts there, as after chroot(2).

        Raises:
            ArchiveError: more than 255 links, or links of absurd length.
        """
        entries = self._entries
        todo = path.split("/")[::-1]
        here = ""
        hops = steps = 0
        while todo:
            name = todo.pop()
            steps += 1
            if name in {"", "."}:
                continue
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            below = f"{here}/{name}" if here else name
            entry = entries.get(below)
            if entry is None or entry.kind is not Kind.SYMLINK or not (todo or follow_last):
                here = below
                continue
            hops += 1
            if hops > MAX_LINKS or steps > _MAX_STEPS:
                msg = f"{path!r}: too many levels of symbolic links"
                raise ArchiveError(msg)
            target = entry.linkname
            if target.startswith("/"):
                here = ""
            todo.extend(target.split("/")[::-1])
        return here

    def apply(self, entries: Iterable[Entry], layer: int) -> None:
        """Put a layer on top.

        Raises:
            ArchiveError: a link loops, a hard link has no target, or the root is no directory.
        """
        own: list[Entry] = []
        marks: list[tuple[str, str]] = []
        for entry in entries:
            path = entry.path
            if WHITEOUT not in path:
                own.append(entry)
                continue
            parent, _, name = path.rpartition("/")
            if name.startswith(WHITEOUT) and entry.kind is not Kind.DIRECTORY:
                marks.append((parent, name))
            else:
                own.append(entry)
        if marks:
            self._hide(marks, own)
        self._place_all(own, layer)

    def _hide(self, marks: list[tuple[str, str]], own: list[Entry]) -> None:
        """Apply whiteouts and opaque markers to what the lower layers left."""
        # All ways are found before anything is hidden, so that the order cannot matter.
        for place, name in list(self._find_marked(marks, own)):
            if name == OPAQUE:
                self._remove_below(place)
                continue
            hidden = name[len(WHITEOUT) :]
            if hidden in {"", ".", ".."} or hidden.startswith(WHITEOUT):
                continue  # malformed, or the bookkeeping of aufs
            self._remove(f"{place}/{hidden}" if place else hidden)

    def _find_marked(
        self, marks: list[tuple[str, str]], own: list[Entry]
    ) -> Iterator[tuple[str, str]]:
        """Yield the directories that markers are about, with the markers' names."""
        kinds: dict[str, Kind] = {}
        for parent, name in marks:
            place = self.resolve(parent) if parent else ""
            if place != parent:
                # The way leads over a lower layer's symlink. If this layer puts a directory
                # there, the marker is about that directory, which hides nothing below it.
                kinds = kinds or {entry.path: entry.kind for entry in own}
                if _replaces_link(parent, kinds, self._entries):
                    continue
            yield place, name

    def _place_all(self, own: list[Entry], layer: int) -> None:
        """Put a layer's own entries in their places, in tar order."""
        entries = self._entries
        layers = self._layers
        hardlink = Kind.HARDLINK
        # parent as written -> (where it is, the names in it); void after a replacement
        places: dict[str, tuple[str, set[str]]] = {}
        for entry in own:
            written = path = entry.path
            parent, _, name = path.rpartition("/")
            if not name:
                self._place_root(entry, layer)
                continue
            known = places.get(parent)
            if known is None:
                place = self._make_parent(parent, layer)
                known = places[parent] = place, self._names.setdefault(place, set())
            place, names = known
            if place != parent:
                path = f"{place}/{name}" if place else name
            names.add(name)
            if entry.kind is hardlink:
                if self._link(entry, path, layer):
                    places.clear()
                continue
            if path in entries and self._make_way(path, entry.kind):
                places.clear()
            entries[path] = entry if path == written else replace(entry, path=path)
            layers[path] = layer

    def _place_root(self, entry: Entry, layer: int) -> None:
        if entry.kind is not Kind.DIRECTORY:
            msg = f"layer entry for the root is a {entry.kind}, not a directory"
            raise ArchiveError(msg)
        self._entries[""] = entry
        self._layers[""] = layer

    def _make_way(self, path: str, kind: Kind) -> bool:
        """Clear a path for something of a kind; say whether resolved paths may have changed."""
        old = self._entries[path].kind
        self._groups.pop(path, None)
        if old is Kind.DIRECTORY and kind is not old:
            self._remove_below(path)
        return old is not kind or kind is Kind.SYMLINK

    def _link(self, entry: Entry, path: str, layer: int) -> bool:
        """Give a hard link its target's content and group; the result is _make_way's."""
        target = self.resolve(entry.linkname, follow_last=False)
        content = self._entries.get(target)
        if content is None or content.kind is Kind.DIRECTORY:
            what = "missing" if content is None else "a directory"
            msg = f"hard link {entry.path!r} in layer {layer}: target {entry.linkname!r} is {what}"
            raise ArchiveError(msg)
        if target == path:
            return False
        held_by = self._layers[target]
        group = self._groups.get(target) or self._new_group(held_by, target)
        self._groups[target] = group
        changed = path in self._entries and self._make_way(path, content.kind)
        self._entries[path] = replace(content, path=path)
        self._layers[path] = held_by
        self._groups[path] = group
        return changed

    def _make_parent(self, parent: str, layer: int) -> str:
        """Resolve a parent and make sure that it is a directory, as are those above it."""
        place = self.resolve(parent)
        entry = self._entries.get(place)
        if entry is not None and entry.kind is Kind.DIRECTORY:
            return place
        here = ""
        for name in place.split("/"):
            below = f"{here}/{name}" if here else name
            entry = self._entries.get(below)
            if entry is None or entry.kind is not Kind.DIRECTORY:
                self._groups.pop(below, None)
                self._entries[below] = Entry(below, Kind.DIRECTORY, _IMPLIED_MODE)
                self._layers[below] = layer
                self._names.setdefault(here, set()).add(name)
            here = below
        return place

    def _new_group(self, layer: int, path: str) -> str:
        """Name a group by its first path; a path that began another group gets a suffix."""
        group = path if (layer, path) not in self._taken else f"{path}\0{len(self._taken)}"
        self._taken.add((layer, group))
        return group

    def _remove(self, path: str) -> None:
        if path in self._entries:
            self._remove_below(path)
            self._forget(path)
            parent, _, name = path.rpartition("/")
            self._names[parent].discard(name)

    def _remove_below(self, path: str) -> None:
        doomed = [path]
        while doomed:
            here = doomed.pop()
            prefix = f"{here}/" if here else ""
            for name in self._names.pop(here, ()):
                self._forget(prefix + name)
                doomed.append(prefix + name)

    def _forget(self, path: str) -> None:
        del self._entries[path]
        del self._layers[path]
        self._groups.pop(path, None)


def _replaces_link(parent: str, kinds: dict[str, Kind], lower: dict[str, Entry]) -> bool:
    """Whether a layer makes something else of a lower symlink on the way to `parent`."""
    here = ""
    for name in parent.split("/"):
        here = f"{here}/{name}" if here else name
        entry = lower.get(here)
        if entry is not None and entry.kind is Kind.SYMLINK:
            return kinds.get(here, Kind.SYMLINK) is not Kind.SYMLINK
    return False
