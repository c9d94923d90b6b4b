"""From a directory that a step changed in place to layer entries.

A file was touched if its inode changed since a moment before the step, which no step can hide
(ctime). A directory that is another inode than before, or was born since, is a new one, whatever
it holds; where births are not told, whiteouts say the same at greater length.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from builder.sandbox import syscalls
from builder.snapshot.attributes import Xattrs, clean
from builder.snapshot.stubs import remove_stubs
from builder.snapshot.upper import Frame, Walk, check_name, whiteout
from cache.archive.entry import Entry, Kind, decode, encode
from cache.value import field, value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from builder.snapshot.lower import Read
    from builder.snapshot.recorded import RecordedFiles
    from cache.archive.tree import Tree
    from cache.layers import LayerStore, LayerWriter
    from cache.spec.oci import Layer

_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


@value
class Known:
    """A directory before a step: a moment (ns) and the inode of each directory by path."""

    moment: int = 0
    directories: dict[str, int] = field(default_factory=dict)


@value
class Scan:
    """What one look at every name found.

    `changed` has, by directory, the names to look at closely: touched, gone, or leading to such.
    """

    directories: dict[str, int]
    changed: dict[str, set[str]]


def scan(root_fd: int, tree: Tree | None = None, known: Known | None = None) -> Scan:
    """Look at every name once; without a tree only for the inodes of directories."""
    found = Scan({"": os.fstat(root_fd).st_ino}, {})
    pending = [""]
    while pending:
        here = pending.pop()
        fd = os.open(here or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
        try:
            with os.scandir(fd) as listing:
                items = list(listing)
            below = [item for item in items if item.is_dir(follow_symlinks=False)]
            prefix = f"{here}/" if here else ""
            for item in below:
                found.directories[prefix + item.name] = item.inode()
                pending.append(prefix + item.name)
            if tree is not None and known is not None:
                _compare(here, items, tree.names(here), known, found)
        finally:
            os.close(fd)
    return found


def _compare(
    here: str, items: list[os.DirEntry[str]], names: AbstractSet[str], known: Known, found: Scan
) -> None:
    """Note what a directory's listing has that the tree lacks, and the other way round."""
    moment, prefix = known.moment, f"{here}/" if here else ""
    changed = {
        item.name
        for item in items
        if item.stat(follow_symlinks=False).st_ctime_ns > moment or item.name not in names
    }
    seen = {item.name for item in items}
    changed.update(name for name in names if name not in seen)
    changed.update(
        item.name
        for item in items
        if item.is_dir(follow_symlinks=False)
        and known.directories.get(prefix + item.name) != item.inode()
    )
    if not changed:
        return
    found.changed.setdefault(here, set()).update(changed)
    while here:  # what leads there
        here, _, name = here.rpartition("/")
        above = found.changed.setdefault(here, set())
        if name in above:
            break
        above.add(name)


def write_changes(
    root_fd: int,
    lower: TreeLower,
    known: Known,
    recorded: RecordedFiles,
    stubs: Sequence[tuple[str, int]],
    writer: LayerWriter,
) -> dict[str, int]:
    """Write what a step changed about a directory that held a tree, mount stubs removed first.

    Returns the inode of every directory that is there now, by path.

    Raises:
        ArchiveError: a name or path that a layer cannot hold.
    """
    if stubs:
        remove_stubs(root_fd, lower, stubs)
    found = scan(root_fd, lower.tree, known)
    _ChangeWalk(lower, known, found, recorded, writer).run(root_fd)
    return found.directories


class _Status(NamedTuple):
    st_mode: int
    st_uid: int
    st_gid: int
    st_size: int
    st_rdev: int
    st_mtime_ns: int


class TreeLower:
    """A LowerDir that is the merged tree of a stack; content is read from the layers' tars."""

    def __init__(self, tree: Tree, layers: Sequence[Layer], store: LayerStore) -> None:
        """Look paths up in the tree of some layers."""
        self.tree = tree
        self._layers = layers
        self._store = store

    def _entry(self, path: bytes) -> Entry | None:
        return self.tree.get(decode(path))

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Status of a path, None when there is nothing."""
        entry = self._entry(path)
        if entry is None:
            return None
        status = _Status(
            _TYPES[entry.kind] | entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
            os.makedev(*entry.device),
            entry.mtime,
        )
        return cast("os.stat_result", status)

    def xattrs(self, path: bytes) -> Xattrs:
        """Attributes of a path as a layer shows them."""
        entry = self._entry(path)
        return clean(entry.xattrs).xattrs if entry is not None else ()

    def readlink(self, path: bytes) -> bytes:
        """Text of a symlink."""
        entry = self._entry(path)
        return encode(entry.linkname) if entry is not None else b""

    @contextlib.contextmanager
    def open(self, path: bytes) -> Iterator[Read]:
        """Open a regular file for reading."""
        node = self.tree.node(decode(path))
        if node is None:
            raise FileNotFoundError(path)
        with self._store.open_seekable(self._layers[node.layer]) as tar:
            tar.seek(node.entry.offset)
            yield _Payload(tar, node.entry.size).read


class _Payload:
    """What is left of a file in a tar."""

    def __init__(self, tar: BinaryIO, left: int) -> None:
        self._tar = tar
        self._left = left

    def read(self, size: int) -> bytes:
        """Give the next bytes; fewer than asked for only at the end."""
        parts = []
        left = min(size, self._left)
        while left:
            data = self._tar.read(left)
            if not data:
                break
            parts.append(data)
            left -= len(data)
        found = b"".join(parts)
        self._left -= len(found)
        return found


class _ChangeWalk(Walk):
    """A walk that skips what was not touched and misses what is gone."""

    def __init__(
        self,
        lower: TreeLower,
        known: Known,
        found: Scan,
        recorded: RecordedFiles,
        writer: LayerWriter,
    ) -> None:
        super().__init__(lower, writer, recorded)
        self._known = known
        self._found = found

    def push(self, frame: Frame) -> None:
        """Begin a directory: of one that was there before, only what the scan found."""
        if not frame.below:
            super().push(frame)
            return
        names = self._found.changed.get(decode(frame.path), ())
        self.begin(frame, [encode(name) for name in names])

    def visit(self, frame: Frame, name: bytes) -> None:
        """Look at one name."""
        path = frame.path + b"/" + name if frame.path else name
        lower = self._lower.lstat(path) if frame.below else None
        try:
            status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            if lower is not None:
                self.emit(whiteout(frame.path, path, name), b"")
            return
        check_name(path, name)
        untouched = lower is not None and status.st_ctime_ns <= self._known.moment
        if untouched and not stat.S_ISDIR(status.st_mode):
            return
        self.take(path, name, status, lower)

    def replaced(self, path: bytes, status: os.stat_result) -> bool:
        """Whether a directory is another inode than before, or one that got its number anew."""
        del status  # on an overlay the number there is another from one opening to the next
        name = decode(path)
        if self._known.directories.get(name) != self._found.directories.get(name):
            return True
        return syscalls.birth_time(self._fd) > self._known.moment
