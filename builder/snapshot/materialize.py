"""A merged tree of layers as one plain directory, made anew or brought up to date.

For hosts where trees cannot be stacked by mounts. Owns how entries stand in such a directory:
devices are empty files where the kernel makes none, and without the right to change owners
everything is the caller's and open to him. It must not know of steps.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO, Protocol

from cache.archive.attributes import Dresser
from cache.archive.entry import Entry, Kind, encode
from cache.archive.rooted import open_beneath, remove_tree
from cache.errors import ArchiveError
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from cache.archive.tree import Node, Tree
    from cache.spec.oci import Layer

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 20
_OWNER_DOES_ALL, _OWNER_READS_AND_WRITES = 0o700, 0o600
_DEVICES = frozenset({Kind.CHAR, Kind.BLOCK})


class SeekableLayers(Protocol):
    """What is needed of a LayerStore."""

    def open_seekable(self, layer: Layer) -> AbstractContextManager[BinaryIO]:
        """The uncompressed tar as a seekable file."""


def materialize(
    root_fd: int,
    tree: Tree,
    layers: Sequence[Layer],
    store: SeekableLayers,
    *,
    keep_owner: bool,
    keep_modes: bool = False,
    present: Tree | None = None,
) -> None:
    """Make a directory, empty or holding the tree `present`, hold `tree`.

    Without `keep_owner` files are open to us, unless `keep_modes` says that we need no leave.

    Raises:
        ArchiveError: a payload ends early. OSError: the disk refuses.
    """
    maker = _Maker(root_fd, layers, store, keep_owner=keep_owner)
    maker.keep_modes = keep_owner or keep_modes
    maker.run(tree, present)


class _Maker:
    def __init__(
        self, root_fd: int, layers: Sequence[Layer], store: SeekableLayers, *, keep_owner: bool
    ) -> None:
        self._root_fd = root_fd
        self._layers = layers
        self._store = store
        self.keep_modes = keep_owner
        self._dress = Dresser(root_fd, keep_owner=keep_owner)
        self._parent: tuple[str, int] | None = None
        self._linked: dict[tuple[int, str], str] = {}  # first path made of a hard link set

    def run(self, tree: Tree, present: Tree | None) -> None:
        wanted = [n for n in tree.walk() if present is None or present.node(n.entry.path) != n]
        try:
            if present is not None:
                self._remove_others(tree, present)
            self._make(wanted)
        finally:
            self._close()
        touched = {n.entry.path for n in wanted if n.entry.kind is Kind.DIRECTORY}
        touched.update(n.entry.path.rpartition("/")[0] for n in wanted if n.entry.path)
        for path in sorted(touched, reverse=True):
            entry = tree.get(path)
            if entry is not None:
                self._dress.directory(path, self._usable(entry), is_opaque=False)

    def _make(self, wanted: list[Node]) -> None:
        files: list[Node] = []
        for node in wanted:
            if node.entry.kind is Kind.DIRECTORY:
                self._directory(node.entry)
            else:
                files.append(node)
        # Payloads in the order of their tars; links wait for what they link to.
        files.sort(key=lambda node: (node.layer, node.entry.offset))
        for number in sorted({node.layer for node in files}):
            with self._store.open_seekable(self._layers[number]) as tar:
                for node in files:
                    if node.layer == number:
                        self._other(node, tar)

    def _remove_others(self, tree: Tree, present: Tree) -> None:
        """Remove what is gone or is made anew; a directory stays where one is wanted."""
        gone = ""
        for node in present.walk():
            path = node.entry.path
            if not path or (gone and path.startswith(f"{gone}/")):
                continue
            wanted = tree.node(path)
            if wanted == node:
                continue
            is_directory = node.entry.kind is Kind.DIRECTORY
            if wanted is not None and is_directory and wanted.entry.kind is Kind.DIRECTORY:
                continue
            parent, name = self._place(path)
            if is_directory:
                gone = path
                remove_tree(parent, name)
            else:
                os.unlink(encode(name), dir_fd=parent)

    def _place(self, path: str) -> tuple[int, str]:
        above, _, name = path.rpartition("/")
        if self._parent is None or self._parent[0] != above:
            self._close()
            self._parent = above, open_beneath(self._root_fd, above)
        return self._parent[1], name

    def _close(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _directory(self, entry: Entry) -> None:
        if not entry.path:
            return
        parent, name = self._place(entry.path)
        try:
            os.mkdir(encode(name), 0o700, dir_fd=parent)
        except FileExistsError:
            os.close(open_beneath(parent, name))  # it must be a directory

    def _other(self, node: Node, tar: BinaryIO) -> None:
        entry = node.entry
        parent, name = self._place(entry.path)
        if node.group and self._link(node, parent, name):
            return
        kind, raw = entry.kind, encode(name)
        if kind is Kind.FILE:
            self._file(entry, parent, name, tar)
        elif kind is Kind.SYMLINK:
            os.symlink(encode(entry.linkname), raw, dir_fd=parent)
            self._dress.closed(parent, name, entry)
        elif kind is Kind.FIFO:
            os.mkfifo(raw, 0o600, dir_fd=parent)
            self._dress.closed(parent, name, self._usable(entry))
        else:
            self._file(replace(entry, size=0), parent, name, tar)

    def _link(self, node: Node, parent: int, name: str) -> bool:
        key = (node.layer, node.group)
        first = self._linked.setdefault(key, node.entry.path)
        if first == node.entry.path:
            return False
        above, _, other = first.rpartition("/")
        source = open_beneath(self._root_fd, above)
        try:
            raw = encode(other), encode(name)
            os.link(*raw, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)
        return True

    def _file(self, entry: Entry, parent: int, name: str, tar: BinaryIO) -> None:
        fd = os.open(encode(name), _NEW, 0o600, dir_fd=parent)
        try:
            if entry.size:
                tar.seek(entry.offset)
            left = entry.size
            while left:
                data = tar.read(min(left, _PIECE))
                if not data:
                    raise ArchiveError(f"the payload of {entry.path!r} ends early")
                left -= len(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            self._dress.opened(fd, self._usable(entry))
        finally:
            os.close(fd)

    def _usable(self, entry: Entry) -> Entry:
        """An entry as it can stand on disk: ours to use where owners cannot be kept."""
        if self.keep_modes:
            return entry
        is_directory = entry.kind is Kind.DIRECTORY
        bits = _OWNER_DOES_ALL if is_directory else _OWNER_READS_AND_WRITES
        kept = tuple(pair for pair in entry.xattrs if pair[0].startswith("user."))
        return replace(entry, mode=entry.mode & 0o777 | bits, xattrs=kept)
