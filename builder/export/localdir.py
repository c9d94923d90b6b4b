"""type=local: the merged file system of an image written into a directory of the host.

Everything is relative to directory descriptors and no link is ever followed: what an image or
the destination holds decides no path outside the destination (K01). Files belong to whoever runs
the build (O41), therefore set-id bits, which would speak of another owner, are dropped, as are
extended attributes; directories stay accessible to that owner, so that the result can be deleted
(K03). Device nodes are never made on the host.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from builder.errors import ExportError
from builder.export.destination import writing
from builder.export.payload import Payloads
from builder.export.rootfs import dated, merged
from cache.archive.entry import Kind, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from cache.archive.entry import Entry
    from cache.archive.tree import Node, Tree
    from cache.layers import LayerStore
    from cache.spec.oci import Layer

_FOLLOW = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_FOLLOW = _FOLLOW | os.O_NOFOLLOW
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER = 0o700
_PERMISSIONS = 0o1777
_SHOWN = 5  # paths named in a warning


def write_local(
    layers: Sequence[Layer],
    store: LayerStore,
    dest: str,
    *,
    warn: Callable[[str], None],
    epoch: int | None = None,
    kept: Sequence[Tree] | None = None,
) -> None:
    """Write the merged tree into a directory, made if need be.

    Files in the way are replaced, all others kept; with `kept` what is in none of these trees
    is removed. What could not be represented is said in one warning per reason.

    Raises:
        ExportError: it cannot be written, or a directory is in the way of something else.
    """
    with writing(dest):
        os.makedirs(dest, exist_ok=True)
        root = os.open(dest, _FOLLOW)
        try:
            with Payloads(layers, store) as payloads:
                writer = _LocalWriter(root, dest, payloads, epoch, kept)
                writer.write(merged(layers, store), warn)
        finally:
            os.close(root)


def remove_others(dest: str, names: Collection[str]) -> None:
    """Remove everything from a directory but these names; no directory is nothing to do.

    Raises:
        ExportError: something cannot be removed.
    """
    with writing(dest), contextlib.suppress(FileNotFoundError):
        root = os.open(dest, _FOLLOW)
        try:
            _sweep(root, set(names))
        finally:
            os.close(root)


def _sweep(directory: int, names: set[str]) -> None:
    from cache.archive.rooted import remove_tree  # noqa: PLC0415 - for mode=delete only

    for name in os.listdir(directory):
        if decode(os.fsencode(name)) not in names:
            remove_tree(directory, decode(os.fsencode(name)))


class _LocalWriter:
    """One export: the destination, hard links made so far, and what was left out."""

    def __init__(
        self,
        root: int,
        dest: str,
        payloads: Payloads,
        epoch: int | None,
        kept: Sequence[Tree] | None,
    ) -> None:
        self._kept = kept
        self._root = root
        self._dest = dest
        self._payloads = payloads
        self._epoch = epoch
        self._first: dict[tuple[int, str], str] = {}
        self._devices: list[str] = []
        self._set_ids: list[str] = []

    def write(self, tree: Tree, warn: Callable[[str], None]) -> None:
        # Directories become final after their contents: until then their owner must be able to
        # write, and every file made inside would move their time again.
        made: list[Entry] = []
        pending = [""]
        while pending:
            path = pending.pop()
            node = tree.node(path)
            if node is None:
                continue
            made.append(node.entry)
            with self._opened(path) as directory:
                below = self._fill(directory, path, tree)
            pending += reversed(below)
        for entry in reversed(made):
            if entry.path:
                self._settle(entry)
        _warn(warn, self._devices, "device nodes are not exported")
        _warn(warn, self._set_ids, "set-id bits are not exported")

    def _fill(self, directory: int, path: str, tree: Tree) -> list[str]:
        """Write what is in one directory; give its subdirectories."""
        if self._kept is not None:
            _sweep(directory, {name for kept in self._kept for name in kept.children(path)})
        below: list[str] = []
        for name in tree.children(path):
            child = f"{path}/{name}" if path else name
            node = tree.node(child)
            if node is None:
                continue
            if node.entry.kind is Kind.DIRECTORY:
                self._make_directory(directory, encode(name), child)
                below.append(child)
            else:
                self._make(directory, encode(name), node)
        return below

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """Open a directory made before, component by component; one descriptor at a time."""
        directory = os.dup(self._root)
        try:
            for name in encode(path).split(b"/") if path else ():
                following = os.open(name, _NO_FOLLOW, dir_fd=directory)
                os.close(directory)
                directory = following
            yield directory
        finally:
            os.close(directory)

    def _make_directory(self, directory: int, name: bytes, path: str) -> None:
        try:
            os.mkdir(name, _OWNER, dir_fd=directory)
        except FileExistsError:
            present = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(present):
                self._clear(directory, name, path)
                os.mkdir(name, _OWNER, dir_fd=directory)

    def _make(self, directory: int, name: bytes, node: Node) -> None:
        entry = node.entry
        if entry.kind in {Kind.CHAR, Kind.BLOCK}:
            self._devices.append(entry.path)
            return
        if node.group and self._linked(directory, name, node):
            return
        match entry.kind:
            case Kind.SYMLINK:
                target = encode(entry.linkname)
                self._new(directory, name, node, lambda: os.symlink(target, name, dir_fd=directory))
            case Kind.FIFO:
                self._new(directory, name, node, lambda: os.mkfifo(name, 0o600, dir_fd=directory))
                self._mode(directory, name, entry)
            case _:
                self._file(directory, name, node)
                return
        self._date(directory, name, entry)

    def _new(self, directory: int, name: bytes, node: Node, make: Callable[[], None]) -> None:
        try:
            make()
        except FileExistsError:
            self._clear(directory, name, node.entry.path)
            make()

    def _file(self, directory: int, name: bytes, node: Node) -> None:
        try:
            target = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        except FileExistsError:
            self._clear(directory, name, node.entry.path)
            target = os.open(name, _NEW_FILE, 0o600, dir_fd=directory)
        try:
            if node.entry.size:
                self._payloads.copy(node, target)
            os.fchmod(target, self._permissions(node.entry))
            time = dated(node.entry, self._epoch).mtime
            os.utime(target, ns=(time, time))
        finally:
            os.close(target)

    def _linked(self, directory: int, name: bytes, node: Node) -> bool:
        """Make another name of a file written before; False for the first of a group."""
        path = node.entry.path
        first = self._first.setdefault((node.layer, node.group), path)
        if first == path:
            return False
        parent, _, source = first.rpartition("/")
        with self._opened(parent) as origin:
            try:
                self._new(
                    directory,
                    name,
                    node,
                    lambda: os.link(
                        encode(source),
                        name,
                        src_dir_fd=origin,
                        dst_dir_fd=directory,
                        follow_symlinks=False,
                    ),
                )
            except OSError:
                # File systems without hard links, or at their limit of them: a copy will do, and
                # if nothing can be made here at all, making the copy says so.
                return False
        return True

    def _clear(self, directory: int, name: bytes, path: str) -> None:
        """Remove what is in the way; a directory, whose contents are not ours, only if told to."""
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError as error:
            if self._kept is not None:
                from cache.archive.rooted import remove_tree  # noqa: PLC0415 - for mode=delete

                remove_tree(directory, decode(name))
                return
            msg = f"cannot write {path!r} to {self._dest!r}: a directory is in the way"
            raise ExportError(msg, hint="remove it, or choose another destination") from error

    def _permissions(self, entry: Entry) -> int:
        if entry.mode & ~_PERMISSIONS:
            self._set_ids.append(entry.path)
        return entry.mode & _PERMISSIONS

    def _mode(self, directory: int, name: bytes, entry: Entry) -> None:
        # The name was made just now in a directory held open; were it replaced by a link since,
        # opening it without following would fail.
        target = os.open(
            name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory
        )
        try:
            os.fchmod(target, self._permissions(entry))
        finally:
            os.close(target)

    def _date(self, directory: int, name: bytes, entry: Entry) -> None:
        time = dated(entry, self._epoch).mtime
        os.utime(name, ns=(time, time), dir_fd=directory, follow_symlinks=False)

    def _settle(self, entry: Entry) -> None:
        with self._opened(entry.path) as directory:
            os.fchmod(directory, entry.mode & _PERMISSIONS | _OWNER)
            time = dated(entry, self._epoch).mtime
            os.utime(directory, ns=(time, time))


def _warn(warn: Callable[[str], None], paths: list[str], what: str) -> None:
    if paths:
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        warn(f"{what}: {', '.join(paths[:_SHOWN])}{more}")
