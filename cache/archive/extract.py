"""Unpacking a layer into an empty directory that becomes one lower directory of an overlay.

Owns how a layer's entries stand on disk: whiteouts as devices 0:0 and `user.overlay.opaque`, as
a mount with `userxattr` reads them. It must not know of mounts or of where directories lie.

Policies:
- Devices are never made: an empty file with their owner and mode stands for each. What it is
  stays in the returned entries and in the blob.
- Of a tar's xattrs only `user.*`, file capabilities and POSIX ACLs are set, on files and
  directories, as far as the file system takes them. `user.overlay.*` and `trusted.*` are left
  out, so that overlayfs reads no mark but ours.
- Whiteouts act on the lower tree only, whatever their order. A stream is
  read once, though: a whiteout of a lower symlink comes too late for entries before it that led
  through the link, and a mark below a lower symlink precedes the directory that replaces it at
  its peril: it then counts for what the link leads to.
- A non-directory in the way of an entry's parent is replaced by a directory.
- Directories get their owner, mode and times at the end, so that closed ones can be filled.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Self

from cache.archive.attributes import Dresser
from cache.archive.bulk import bulk_taker
from cache.archive.entry import OPAQUE, WHITEOUT, Entry, Kind, encode
from cache.archive.header import quoted
from cache.archive.overlay_tree import Lower, Node, OverlayTree, Place
from cache.archive.reader import read_entries
from cache.archive.rooted import open_beneath, remove_tree
from cache.errors import ArchiveError, StoreError
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache.archive.reader import Taker

__all__ = ["Lower", "extract_layer"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EIO})
_PIECE = 1024 * 1024  # bytes copied at once
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IMPLIED_MODE = 0o755
_DIRECTORY = Kind.DIRECTORY


def extract_layer(
    stream: BinaryIO, root_fd: int, lower: Lower | None, *, keep_owner: bool = True
) -> list[Entry]:
    """Unpack one layer's tar below an empty directory and return its entries in tar order.

    `lower` is the merged tree of the layers below, None when there are none. Without
    `keep_owner` everything belongs to the caller, who may then be anyone.

    Raises:
        ArchiveError: the tar is malformed, or an entry cannot be unpacked.
        StoreError: the disk is full or cannot hold overlay layers.
    """
    entries: list[Entry] = []
    path = ""
    with _Unpacker(root_fd, lower, keep_owner=keep_owner) as unpacker:
        try:
            for entry, payload in read_entries(stream, unpacker.taker(entries)):
                path = entry.path
                entries.append(entry)
                unpacker.add(entry, payload)
            path = ""
            unpacker.finish()
        except OSError as error:
            raise _failure(path, error) from error
    return entries


def _failure(path: str, error: OSError) -> ArchiveError | StoreError:
    what = f"cannot unpack {quoted(path)}: {error.strerror or error}"
    if error.errno in _FULL:
        return StoreError(what, hint="make room in the state directory or move it")
    return ArchiveError(what)


class _Unpacker:
    """One layer being written; closes its descriptors on leaving the with-block."""

    def __init__(self, root_fd: int, lower: Lower | None, *, keep_owner: bool) -> None:
        self._root_fd = root_fd
        self._lower = lower
        self._tree = OverlayTree(lower)
        self._open: tuple[str, int] | None = None  # the directory written to last
        self._dress = Dresser(root_fd, keep_owner=keep_owner)
        self._makers: dict[Kind, Callable[[Place, Entry, str, BinaryIO], None]] = {
            Kind.FILE: self._file,
            Kind.DIRECTORY: self._directory,
            Kind.SYMLINK: self._symlink,
            Kind.HARDLINK: self._hardlink,
            Kind.CHAR: self._device,
            Kind.BLOCK: self._device,
            Kind.FIFO: self._fifo,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def add(self, entry: Entry, payload: BinaryIO) -> None:
        """Unpack an entry."""
        if not entry.path:
            self._tree.root.entry = entry
            return
        parent, _, name = entry.path.rpartition("/")
        if name.startswith(WHITEOUT) and entry.kind is not _DIRECTORY:
            self._mark(parent, name)
            return
        place = self._made(self._tree.resolve(parent))
        self._makers[entry.kind](place, entry, name, payload)

    def taker(self, entries: list[Entry]) -> Taker | None:
        """What makes the files of ordinary entries quicker, and notes them; None where nothing can."""
        return bulk_taker(
            self._root_fd, self._dress.habits(), lambda made: self._note(made, entries)
        )

    def _note(self, made: list[Entry], entries: list[Entry]) -> None:
        """Have in the tree what was made: all new names in directories of this layer."""
        entries += made
        known, names = None, self._tree.root.children
        for entry in made:
            parent, _, name = entry.path.rpartition("/")
            if parent != known:
                known, names = parent, _children(self._made(self._tree.resolve(parent)))
            names[name] = Node(entry)

    def _at(self, place: Place) -> int:
        """The descriptor of a directory that exists."""
        if self._open is not None and self._open[0] == place.path:
            return self._open[1]
        self._close()
        fd = open_beneath(self._root_fd, place.path)
        self._open = place.path, fd
        return fd

    def _made(self, place: Place, *, holds_entry: bool = True) -> Place:
        """A place with a directory of this layer in it; those above are made too."""
        node = place.node
        if node is not None and node.is_directory and (node.holds_entry or not holds_entry):
            return place
        here = self._tree.top()
        for name in place.path.split("/"):
            node = _children(here).get(name)
            if node is None or not node.is_directory:
                node = self._make_directory(here, name, self._implied(here, name))
                node.holds_entry = False
            node.holds_entry |= holds_entry
            here, _ = self._tree.step(here, name)
        return here

    def _implied(self, place: Place, name: str) -> Entry:
        """A directory no entry describes: the lower one's likeness where there is one."""
        lower = self._tree.lower_entry(place, name)
        if lower is not None and lower.kind is _DIRECTORY and name not in _children(place):
            return lower
        return Entry(place.below(name), _DIRECTORY, _IMPLIED_MODE)

    def _mark(self, parent: str, name: str) -> None:
        """Apply a whiteout or an opaque mark; malformed ones and those of aufs mean nothing."""
        where = self._tree.marked(parent)
        place = None if where is None else self._tree.literal(where)
        if place is None:
            return
        if name == OPAQUE:
            self._hide_all(place)
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in {"", ".", ".."} or hidden.startswith(WHITEOUT):
            return
        if self._lower is not None and self._tree.lower_entry(place, hidden) is None:
            return
        node = _children(place).get(hidden)
        if node is None:
            self._whiteout(self._made(place, holds_entry=False), hidden)
        elif node.is_directory and node.holds_entry:
            self._seal(self._tree.step(place, hidden)[0])
        elif node.is_directory:
            self._clear(place, hidden)
            self._whiteout(place, hidden)

    def _hide_all(self, place: Place) -> None:
        if not place.path:
            self._seal(place)
        elif place.node is not None or place.shows_lower or self._lower is None:
            self._seal(self._made(place, holds_entry=False))

    def _seal(self, place: Place) -> None:
        """Hide all lower content of a directory; what was there only to hide some of it goes."""
        if place.node is None or place.node.is_opaque:
            return
        place.node.is_opaque = True
        self._tree.forget_way()
        pending = [place]
        while pending:
            here = pending.pop()
            for name, node in list(_children(here).items()):
                if not node.holds_entry:
                    self._clear(here, name)
                elif node.is_directory:
                    pending.append(self._tree.step(here, name)[0])

    def _whiteout(self, place: Place, name: str) -> None:
        os.mknod(encode(name), stat.S_IFCHR, os.makedev(0, 0), dir_fd=self._at(place))
        made = Entry(place.below(name), Kind.FILE)
        _children(place)[name] = Node(made, is_whiteout=True, holds_entry=False)

    def _clear(self, place: Place, name: str) -> None:
        """Remove what this layer has at a name."""
        node = _children(place).pop(name, None)
        if node is None:
            return
        self._tree.forget_way()
        fd = self._at(place)
        if node.is_directory:
            remove_tree(fd, name)
        else:
            os.unlink(encode(name), dir_fd=fd)

    def _make_directory(self, place: Place, name: str, entry: Entry) -> Node:
        children = _children(place)
        node = children.get(name)
        if node is not None and node.is_directory:
            node.entry = entry
            return node
        # What this layer had here hid the lower directory, and the new one must hide it too.
        below = self._tree.lower_entry(place, name) if node is not None else None
        self._clear(place, name)
        os.mkdir(encode(name), 0o700, dir_fd=self._at(place))
        hides = below is not None and below.kind is _DIRECTORY
        made = children[name] = Node(entry, is_opaque=hides)
        return made

    def _directory(self, place: Place, entry: Entry, name: str, payload: BinaryIO) -> None:
        del payload
        self._make_directory(place, name, entry).holds_entry = True

    def _file(self, place: Place, entry: Entry, name: str, payload: BinaryIO) -> None:
        children = _children(place)
        if name in children:
            self._clear(place, name)
        fd = os.open(encode(name), _NEW, self._dress.first_mode(entry), dir_fd=self._at(place))
        try:
            left = entry.size
            while left:
                data = payload.read(min(left, _PIECE))
                left -= len(data)
                _write_all(fd, data)
            self._dress.created(fd, entry)
        finally:
            os.close(fd)
        children[name] = Node(entry)

    def _symlink(self, place: Place, entry: Entry, name: str, payload: BinaryIO) -> None:
        del payload
        self._clear(place, name)
        fd = self._at(place)
        os.symlink(encode(entry.linkname), encode(name), dir_fd=fd)
        self._dress.closed(fd, name, entry)
        _children(place)[name] = Node(entry)

    def _fifo(self, place: Place, entry: Entry, name: str, payload: BinaryIO) -> None:
        del payload
        self._clear(place, name)
        fd = self._at(place)
        os.mkfifo(encode(name), 0o600, dir_fd=fd)
        self._dress.closed(fd, name, entry)
        _children(place)[name] = Node(entry)

    def _device(self, place: Place, entry: Entry, name: str, payload: BinaryIO) -> None:
        self._file(place, replace(entry, size=0, xattrs=()), name, payload)

    def _hardlink(self, place: Place, entry: Entry, name: str, payload: BinaryIO) -> None:
        del payload
        parent, _, target_name = entry.linkname.rpartition("/")
        target_place = self._tree.resolve(parent)
        target = _children(target_place).get(target_name)
        if target is None or target.is_directory or target.is_whiteout:
            raise _bad_target(entry, target)
        if target is _children(place).get(name):
            return
        self._clear(place, name)
        source = open_beneath(self._root_fd, target_place.path)
        try:
            os.link(
                encode(target_name),
                encode(name),
                src_dir_fd=source,
                dst_dir_fd=self._at(place),
                follow_symlinks=False,
            )
        finally:
            os.close(source)
        _children(place)[name] = Node(target.entry)

    def finish(self) -> None:
        """Give every directory of this layer its attributes, those below before those above."""
        if self._tree.root.is_opaque:
            self._empty_root()
        self._close()
        found = [("", self._tree.root)]
        for path, node in found:  # grows while it is walked
            prefix = f"{path}/" if path else ""
            found += [
                (prefix + name, below)
                for name, below in node.children.items()
                if below.is_directory
            ]
        for path, node in reversed(found):
            entry = node.entry if path else self._tree.root_entry()
            self._dress.directory(path, entry, is_opaque=node.is_opaque)

    def _empty_root(self) -> None:
        """Hide every lower name in the root one by one: overlayfs merges roots in any case."""
        root = Place("", self._tree.root, shows_lower=False)
        for name in sorted(self._lower.children("")) if self._lower is not None else ():
            node = self._tree.root.children.get(name)
            if node is None:
                self._whiteout(root, name)
            elif node.is_directory:
                node.is_opaque = True


def _children(place: Place) -> dict[str, Node]:
    return place.node.children if place.node is not None else {}


def _bad_target(entry: Entry, target: Node | None) -> ArchiveError:
    is_directory = target is not None and target.is_directory
    why = "is a directory" if is_directory else "is not in the same layer"
    return ArchiveError(
        f"hard link {quoted(entry.path)} cannot be made: {quoted(entry.linkname)} {why}"
    )


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])
