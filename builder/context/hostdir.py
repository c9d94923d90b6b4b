"""One directory of the host, read through descriptors: listings, files and links.

Owns the promise never to leave the directory and never to open what was not listed. Must not
know ignore rules, digests or memos.
"""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import sys
import threading
import time

from builder.context.payload import changed
from builder.context.source import CopyError, join, shown
from cache.archive.entry import MAX_PATH, decode, encode
from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TICK = 20_000_000  # ns: kernels stamp files with a clock up to 10 ms old
_NAME = operator.itemgetter(0)
_COARSE_TICK = 2_000_000_000  # ns: file systems that keep whole (or even) seconds
_SECOND = 1_000_000_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# What opening something that was listed says when it is no longer that.
_MOVED = frozenset(
    {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ESTALE}
)

Listing = dict[str, os.stat_result]


class HostDirectory:
    """A directory and all below it, each directory as it was when it was first listed.

    `root` is the directory's own stat. `young` collects paths changed so shortly before they
    were listed that another change might not show (J10). `lock` guards everything here.
    """

    def __init__(self, path: str, hidden: Sequence[str] = ()) -> None:
        """Open the directory; the directories `hidden` are left out of listings.

        Raises:
            PybuildError: not a directory that can be read.
        """
        self._fd = _open_root(path)
        self.root = os.fstat(self._fd)
        self.lock = threading.RLock()
        self.young: set[str] = set()
        self.listings: dict[str, Listing] = {}
        self._hidden = frozenset(_identities(hidden))
        self._directory: tuple[str, int] = ("", self._fd)

    def __repr__(self) -> str:
        """Count what was listed."""
        return f"<HostDirectory {len(self.listings)} directories listed>"

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        with self.lock:
            self._turn_to("", self._fd)
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            self._directory = ("", -1)

    def scan(self, path: str) -> Listing:
        """Everything in a directory by name, sorted; the state directory left out."""
        known = self.listings.get(path)
        if known is not None:
            return known
        now = time.time_ns()
        fd = self.enter(path)
        try:
            with os.scandir(fd) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError as error:
            raise unreadable(path, error) from error
        if sys.getfilesystemencoding() != "utf-8":
            found = [(decode(os.fsencode(name)), status) for name, status in found]
        found.sort(key=_NAME)
        if self._hidden:
            hidden = self._hidden
            found = [pair for pair in found if (pair[1].st_dev, pair[1].st_ino) not in hidden]
        listing = dict(found)
        coarse = now - _COARSE_TICK
        for name, status in found:
            if (status.st_ctime_ns >= coarse or status.st_mtime_ns >= coarse) and _young(
                status, now
            ):
                self.young.add(join(path, name))
        self.listings[path] = listing
        return listing

    def enter(self, path: str) -> int:
        """A descriptor of a directory, valid while the lock is held and until the next call."""
        if self._fd < 0:
            raise PybuildError("the build context is closed")
        if self._directory[0] == path:
            return self._directory[1]
        if not path:
            self._turn_to("", self._fd)
            return self._fd
        if len(encode(path)) >= MAX_PATH:
            raise CopyError(f'"{shown(path[:200])}…": path of over {MAX_PATH} bytes')
        parent, _, name = path.rpartition("/")
        expected = self.listings[parent].get(name) if parent in self.listings else None
        if expected is None:
            raise changed(path)
        above, below = self._fd, encode(path)
        if self._directory[0] == parent:
            above, below = self._directory[1], encode(name)
        try:
            # Links higher up may be followed here if someone swaps them in meanwhile; what
            # comes out must still be the very directory that was listed.
            fd = os.open(below, _DIRECTORY, dir_fd=above)
        except OSError as error:
            raise unreadable(path, error) from error
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != (expected.st_dev, expected.st_ino):
            os.close(fd)
            raise changed(path)
        self._turn_to(path, fd)
        return fd

    def _turn_to(self, path: str, fd: int) -> None:
        old = self._directory[1]
        self._directory = (path, fd)
        if old not in {self._fd, fd} and old >= 0:
            os.close(old)

    def open_file(self, path: str) -> int:
        """Open what lies at a listed path for reading; never waits, never follows a link."""
        parent, _, name = path.rpartition("/")
        with self.lock:
            directory = self.enter(parent)
            try:
                return os.open(encode(name), _FILE, dir_fd=directory)
            except OSError as error:
                raise unreadable(path, error) from error

    def link(self, path: str) -> str:
        """The text of a symlink."""
        parent, _, name = path.rpartition("/")
        with self.lock:
            try:
                return decode(os.readlink(encode(name), dir_fd=self.enter(parent)))
            except OSError as error:
                raise unreadable(path, error) from error


def _open_root(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        name = shown(path).removeprefix("/") if path.startswith("/") else path
        raise PybuildError(
            f"build context {name!r}: {(error.strerror or 'cannot be opened').lower()}",
            hint="name a directory that this user can read",
        ) from error


def _identities(paths: Sequence[str]) -> Iterator[tuple[int, int]]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = os.stat(path)
            yield status.st_dev, status.st_ino


def _young(status: os.stat_result, now: int) -> bool:
    """Whether a change after `now` might leave these times as they are."""
    tick = _TICK if status.st_ctime_ns % _SECOND else _COARSE_TICK
    return max(status.st_ctime_ns, status.st_mtime_ns) >= now - tick


def unreadable(path: str, error: OSError) -> CopyError:
    """Say why a listed path could not be read."""
    if error.errno in _MOVED:
        return changed(path)
    reason = (error.strerror or "cannot be read").lower()
    return CopyError(
        f'"{shown(path)}": {reason}',
        hint="make it readable for this user or list it in .dockerignore",
    )
