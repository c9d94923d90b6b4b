"""What a step found below its upper directory: overlay lowers, merged by hand.

Reading the stack with lstat needs no mount, no privilege and no change of the working
directory (which all threads share), and it works on kernels whose fsopen cannot add lowers
one by one. It must not know of layers or tar.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from typing import TYPE_CHECKING, Protocol

from builder.snapshot import attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from builder.snapshot.attributes import Xattrs

    Read = Callable[[int], bytes]  # the next bytes; fewer than asked for only at the end

_MOST_ABSENT = 100_000  # paths remembered, of some 50 bytes; a step may change any number


class LowerDir(Protocol):
    """A read-only tree by in-image bytes paths, b"" being the root; nothing is followed.

    `xattrs`, `readlink` and `open` may only be asked for paths that lstat knows.
    """

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Status of a path, None when there is nothing."""

    def xattrs(self, path: bytes) -> Xattrs:
        """Attributes of a path as a layer would show them."""

    def readlink(self, path: bytes) -> bytes:
        """Text of a symlink."""

    def open(self, path: bytes) -> AbstractContextManager[Read]:
        """Open a regular file for reading."""


class EmptyLower:
    """Nothing below: the lower side of `FROM scratch`."""

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Know nothing."""
        del path
        return None

    def xattrs(self, path: bytes) -> Xattrs:
        """Refuse."""
        raise FileNotFoundError(path)

    def readlink(self, path: bytes) -> bytes:
        """Refuse."""
        raise FileNotFoundError(path)

    def open(self, path: bytes) -> AbstractContextManager[Read]:
        """Refuse."""
        raise FileNotFoundError(path)


class StackedLower:
    """Committed trees under one directory, topmost first, as overlayfs would merge them.

    For the directory asked about last and those above it, it remembers which trees take part,
    so that a walk asks only those. Their components were seen to be real directories and committed trees do not change, so a path
    cannot leave its tree. With the one name b"." it is a plain directory.
    """

    def __init__(
        self, base_fd: int, names: Sequence[bytes], absent: set[bytes] | None = None
    ) -> None:
        """Borrow a directory and take the trees' names in it.

        `absent` are paths seen to be missing, which grows: every step asks much the same.
        """
        self._absent = set[bytes]() if absent is None else absent
        self._base_fd = base_fd
        self._proc = b"/proc/self/fd/%d/" % base_fd
        self._top = names[0]
        # The directory asked about last and those above it, each with its trees' prefixes.
        self._way = [(b"", tuple(name + b"/" for name in names))]

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Status of a path; the root's is the topmost tree's."""
        found = self._find(path)
        return None if found is None else found[1]

    def xattrs(self, path: bytes) -> Xattrs:
        """Attributes of a path as a layer would show them."""
        return attributes.read(self._proc + self._place(path)).xattrs

    def readlink(self, path: bytes) -> bytes:
        """Text of a symlink."""
        return os.readlink(self._place(path), dir_fd=self._base_fd)

    @contextlib.contextmanager
    def open(self, path: bytes) -> Iterator[Read]:
        """Open a regular file for reading."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._place(path), flags, dir_fd=self._base_fd)
        try:
            yield functools.partial(read_up_to, descriptor)
        finally:
            os.close(descriptor)

    def _place(self, path: bytes) -> bytes:
        found = self._find(path)
        if found is None:
            raise FileNotFoundError(path)
        return found[0]

    def _find(self, path: bytes) -> tuple[bytes, os.stat_result] | None:
        if not path:
            return self._top, os.stat(self._top, dir_fd=self._base_fd, follow_symlinks=False)
        parent, _, name = path.rpartition(b"/")
        for tree in self._taking_part(parent):
            status = self._status(tree + name)
            if status is not None:
                return None if is_whiteout(status) else (tree + name, status)
        return None

    def _taking_part(self, directory: bytes) -> tuple[bytes, ...]:
        """Prefixes of the trees in which a directory's names are to be looked up."""
        way = self._way
        while way[-1][0] != directory and not _is_above(way[-1][0], directory):
            way.pop()
        while way[-1][0] != directory:
            here, trees = way[-1]
            start = len(here) + 1 if here else 0
            name, _, _ = directory[start:].partition(b"/")
            way.append((directory[: start + len(name)], self._merge(trees, name)))
        return way[-1][1]

    def _merge(self, trees: tuple[bytes, ...], name: bytes) -> tuple[bytes, ...]:
        """Choose the trees that show a directory: down to a non-directory or an opaque one."""
        merged: list[bytes] = []
        for tree in trees:
            status = self._status(tree + name)
            if status is None:
                continue
            if not stat.S_ISDIR(status.st_mode):
                break
            merged.append(tree + name + b"/")
            if attributes.read(self._proc + tree + name).opaque:
                break
        return tuple(merged)

    def _status(self, place: bytes) -> os.stat_result | None:
        if place in self._absent:
            return None
        try:
            return os.stat(place, dir_fd=self._base_fd, follow_symlinks=False)
        except FileNotFoundError:
            if len(self._absent) < _MOST_ABSENT:
                self._absent.add(place)
            return None


def _is_above(directory: bytes, path: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")


def is_whiteout(status: os.stat_result) -> bool:
    """Whether overlayfs means "nothing here" by this file."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def read_up_to(descriptor: int, size: int) -> bytes:
    """Read up to a size; less only at the end of the file."""
    data = os.read(descriptor, size)
    if len(data) == size:
        return data
    parts = [data]
    left = size - len(data)
    while left and parts[-1]:
        parts.append(os.read(descriptor, left))
        left -= len(parts[-1])
    return b"".join(parts)
