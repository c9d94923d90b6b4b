"""The build context: one local directory, listed lazily, never left, never trusted to hold still.

Owns reading the host's files for COPY, ADD and bind mounts. Must not know what is done with them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from builder.context.payload import PayloadReader, changed
from builder.context.source import SPECIAL, CopyError, join, resolve, shown
from builder.context.xattrs import Xattrs, read_xattrs
from cache.archive.entry import MAX_PATH, Entry, Kind, decode, encode
from cache.archive.mould import make_entry
from cache.errors import PybuildError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence
    from types import TracebackType

    from builder.context.memo import FileRecord, Stat, StatCache
    from frontend.ignore import IgnoreMatcher

_CHUNK = 1 << 20
_TICK = 20_000_000  # ns: kernels stamp files with a clock up to 10 ms old
_COARSE_TICK = 2_000_000_000  # ns: file systems that keep whole (or even) seconds
_SECOND = 1_000_000_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.FILE,  # C25: an empty regular file
}

_NO_DEVICE = (0, 0)
# What opening something that was listed says when it is no longer that.
_MOVED = frozenset(
    {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ESTALE}
)

Listing = dict[str, os.stat_result]


class LocalContext:
    """A SourceTree over a directory of the host, as it was when each directory was first listed.

    Listings are kept: within one build a file has one state, and a file that no longer matches
    it is an error when it is opened (B08). Safe to use from several threads.
    """

    specials = False

    def __init__(
        self,
        path: str,
        *,
        ignore: IgnoreMatcher | None = None,
        hidden: Sequence[str] = (),
        memo: StatCache | None = None,
    ) -> None:
        """Open the directory; `hidden` are host directories never shown, wherever they lie (B20).

        Raises:
            PybuildError: not a directory that can be read.
        """
        self._fd = _open_root(path)
        self._root = os.fstat(self._fd)
        self._ignore = ignore
        self._hidden = frozenset(_identities(hidden))
        self._memo = memo
        self._listings: dict[str, Listing] = {}
        self._entries: dict[str, Entry] = {}
        self._raw: dict[str, Listing] = {}
        self._directory: tuple[str, int] = ("", self._fd)
        self._lock = threading.RLock()
        self._racy: set[str] = set()
        self._digests: dict[str, bytes] = {}
        self._known: dict[str, FileRecord] | None = None
        self._fresh: dict[str, FileRecord] = {}

    def __repr__(self) -> str:
        """Count what was listed."""
        return f"<LocalContext {len(self._listings)} directories listed>"

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Remember new digests and close the directory; idempotent."""
        self.remember()
        with self._lock:
            self._turn_to("", self._fd)
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1
            self._directory = ("", -1)

    def remember(self) -> None:
        """Put digests that will hold beyond this build into the memo."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        if self._memo is not None and fresh:
            self._memo.put_files(self.identity, fresh)

    @property
    def identity(self) -> str:
        """What names this directory in the memo."""
        return f"{self._root.st_dev}:{self._root.st_ino}"

    def get(self, path: str, /) -> Entry | None:
        """The entry of a visible path; owners are root's, special files have their kind."""
        known = self._entries.get(path)
        if known is not None:
            return known
        status = self._status(path)
        if status is None:
            return None
        return self._remembering(path, status)

    def _remembering(self, path: str, status: os.stat_result) -> Entry:
        return self._entries.setdefault(path, self._entry(path, status))

    def _entry(self, path: str, status: os.stat_result) -> Entry:
        mode = status.st_mode
        kind = _KINDS[stat.S_IFMT(mode)]
        size, linkname = 0, ""
        xattrs: Xattrs = ()
        if kind is Kind.SYMLINK:
            mode, linkname = 0o777, self._link(path)
        elif kind is Kind.DIRECTORY:
            xattrs = self._xattrs(path)
        elif stat.S_ISREG(mode):
            xattrs, size = self._xattrs(path), status.st_size
        return make_entry(
            path, kind, mode & 0o7777, 0, 0, size, status.st_mtime_ns, linkname, _NO_DEVICE, xattrs, -1
        )  # fmt: skip

    def children(self, path: str, /) -> list[str]:
        """Sorted visible names in a directory."""
        status = self._status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return []
        return list(self._list(path))

    def entries(self, path: str, /) -> list[Entry]:
        """The entries of a directory, made while its descriptor is at hand."""
        status = self._status(path)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return []
        prefix = f"{path}/" if path else ""
        with self._lock:
            return [
                self._entries.get(prefix + name) or self._remembering(prefix + name, found)
                for name, found in self._list(path).items()
            ]

    def resolve(self, path: str, /, *, follow_last: bool = True) -> str:
        """Follow links inside the context."""
        return resolve(self._step, path, follow_last=follow_last)

    @contextlib.contextmanager
    def open(self, path: str, /) -> Iterator[BinaryIO]:
        """The payload; an error if the file is not, or does not stay, what was listed (B08)."""
        status = self._regular(path)
        if status is None:
            yield cast("BinaryIO", PayloadReader.empty(path))
            return
        with self._lock:
            expected = self._digests.get(path) if path in self._racy else None
        fd = self._open_file(path)
        try:
            if not _same(os.fstat(fd), status):
                raise changed(path)
            yield cast("BinaryIO", PayloadReader(fd, status, path, expected))
        finally:
            os.close(fd)

    def read(self, path: str, /) -> bytes:
        """The whole payload, under the promise of `open`."""
        status = self._status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            status = self._regular(path)
            if status is None:
                return b""
        fd = self._open_file(path)
        try:
            data = os.read(fd, status.st_size + 1)
            # Looking once, afterwards, is enough: what was read is then what was listed.
            if len(data) != status.st_size or not _same(os.fstat(fd), status):
                raise changed(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(fd)
        expected = self._digests.get(path) if path in self._racy else None
        if expected is not None and hashlib.sha256(data).digest() != expected:
            raise changed(path)
        return data

    def digest(self, path: str, /) -> bytes:
        """The sha256 of a file; from the memo if its stat is one remembered."""
        status = self._regular(path)
        if status is None:
            return hashlib.sha256().digest()
        key = _stat_key(status)
        with self._lock:
            known = self._digests.get(path) or self._remembered(path, key)
        if known is not None:
            return known
        found = self._hash(path, status.st_size)
        with self._lock:
            digest = self._digests.setdefault(path, found)
            if digest != found:
                raise changed(path)
            if path not in self._racy:
                self._fresh[path] = (key, digest)
        return digest

    def _hash(self, path: str, size: int) -> bytes:
        if size <= _CHUNK:
            return hashlib.sha256(self.read(path)).digest()
        state = hashlib.sha256()
        with self.open(path) as stream:
            while chunk := stream.read(_CHUNK):
                state.update(chunk)
        return state.digest()

    def group(self, path: str, /) -> Hashable | None:
        """Device and inode of a file with several names."""
        status = self._status(path)
        if status is None or status.st_nlink < 2 or stat.S_ISDIR(status.st_mode):  # noqa: PLR2004
            return None
        return (status.st_dev, status.st_ino)

    def fingerprint(self, path: str, /) -> bytes | None:
        """Digest the stat of everything at and below a path; reads no file.

        None when a fifo or device is there: whoever looks closer names it.
        """
        status = self._status(path)
        if status is None or _is_special(status):
            return None
        numbers = [status.st_mode, *(_stat_key(status) if path else ())]
        rows = [self.identity, path, repr(numbers)]
        pending = [path] if stat.S_ISDIR(status.st_mode) else []
        while pending:
            here = pending.pop()
            listing = self._list(here)
            # Names, then their numbers: neither can hold a NUL, so rows cannot run together.
            rows += [here, *listing, ""]
            numbers = []
            for name, found in listing.items():
                mode = found.st_mode
                numbers += (
                    mode,
                    found.st_size,
                    found.st_ino,
                    found.st_mtime_ns,
                    found.st_ctime_ns,
                )
                if stat.S_IFMT(mode) != stat.S_IFREG:
                    if stat.S_ISDIR(mode):
                        pending.append(f"{here}/{name}" if here else name)
                    elif _is_special(found):
                        return None
            rows.append(repr(numbers))
        return hashlib.sha256("\0".join(rows).encode("utf-8", "surrogateescape")).digest()

    def trusted(self, path: str, /) -> bool:
        """Whether nothing there was so young when listed that its stat may hide a change (J10)."""
        prefix = f"{path}/" if path else ""
        with self._lock:
            return not any(young == path or young.startswith(prefix) for young in self._racy)

    def hidden(self, path: str, /) -> bool:
        """Whether a path exists and the ignore rules hide it (D09)."""
        if self._ignore is None or self._status(path) is not None:
            return False
        parent, _, name = path.rpartition("/")
        try:
            with self._lock:
                return name in self._scan(parent)
        except PybuildError:
            return False

    # -- listings ------------------------------------------------------------------------------

    def _status(self, path: str) -> os.stat_result | None:
        if not path:
            return self._root
        parent, _, name = path.rpartition("/")
        listing = self._listings.get(parent)
        if listing is None:
            above = self._status_of_directory(parent)
            if above is None:
                return None
            listing = self._list(parent)
        return listing.get(name)

    def _status_of_directory(self, path: str) -> os.stat_result | None:
        """Walk down from the root, so that depth costs no recursion."""
        here = ""
        status = self._root
        for name in path.split("/") if path else ():
            found = self._list(here).get(name)
            if found is None or not stat.S_ISDIR(found.st_mode):
                return None
            here, status = join(here, name), found
        return status

    def _step(self, path: str) -> Entry | None:
        """As `get`, without what following links does not need."""
        status = self._status(path)
        if status is None or not stat.S_ISLNK(status.st_mode):
            return None
        return Entry(path, Kind.SYMLINK, linkname=self._link(path))

    def _list(self, path: str) -> Listing:
        known = self._listings.get(path)
        if known is not None:
            return known
        with self._lock:
            listing = self._scan(path)
            if self._ignore is not None:
                listing = {
                    name: status
                    for name, status in listing.items()
                    if self._visible(join(path, name), status)
                }
            self._listings[path] = listing
        return listing

    def _visible(self, path: str, status: os.stat_result) -> bool:
        """Apply the ignore rules; an ignored directory shows if something in it does (D07)."""
        rules = cast("IgnoreMatcher", self._ignore)
        if not rules.ignores(path):
            return True
        if not stat.S_ISDIR(status.st_mode) or not rules.exceptions:
            return False
        state = rules.root
        for part in path.split("/"):
            state = rules.enter(state, part)
        pending = [(path, state)]
        while pending:
            here, state = pending.pop()
            if not rules.may_reinclude_below(state):
                continue
            for name, found in self._scan(here).items():
                if not rules.excludes(state, name):
                    return True
                if stat.S_ISDIR(found.st_mode):
                    pending.append((join(here, name), rules.enter(state, name)))
        return False

    def _scan(self, path: str) -> Listing:
        """Everything in a directory by name, sorted; the state directory left out."""
        known = self._raw.get(path)
        if known is not None:
            return known
        now = time.time_ns()
        fd = self._enter(path)
        listing: Listing = {}
        try:
            with os.scandir(fd) as entries:
                found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        except OSError as error:
            raise _unreadable(path, error) from error
        if sys.getfilesystemencoding() != "utf-8":
            found = [(decode(os.fsencode(name)), status) for name, status in found]
        found.sort()
        coarse = now - _COARSE_TICK
        for name, status in found:
            if self._hidden and (status.st_dev, status.st_ino) in self._hidden:
                continue
            listing[name] = status
            if (status.st_ctime_ns >= coarse or status.st_mtime_ns >= coarse) and _young(
                status, now
            ):
                self._racy.add(join(path, name))
        self._raw[path] = listing
        return listing

    # -- descriptors ---------------------------------------------------------------------------

    def _enter(self, path: str) -> int:
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
        expected = self._raw[parent].get(name) if parent in self._raw else None
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
            raise _unreadable(path, error) from error
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

    def _open_file(self, path: str) -> int:
        parent, _, name = path.rpartition("/")
        with self._lock:
            directory = self._enter(parent)
            try:
                return os.open(encode(name), _FILE, dir_fd=directory)
            except OSError as error:
                raise _unreadable(path, error) from error

    def _link(self, path: str) -> str:
        parent, _, name = path.rpartition("/")
        with self._lock:
            try:
                return decode(os.readlink(encode(name), dir_fd=self._enter(parent)))
            except OSError as error:
                raise _unreadable(path, error) from error

    def _xattrs(self, path: str) -> Xattrs:
        parent, _, name = path.rpartition("/")
        with self._lock:
            return read_xattrs(self._enter(parent), name)

    def _regular(self, path: str) -> os.stat_result | None:
        """The listed stat of a regular file; None for a socket, which reads as empty."""
        status = self._status(path)
        if status is None:
            raise CopyError(f'"{shown(path)}": not found')
        if stat.S_ISSOCK(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            raise CopyError(f'"{shown(path)}": not a regular file')
        return status

    def _remembered(self, path: str, key: Stat) -> bytes | None:
        if self._memo is None or path in self._racy:
            return None
        if self._known is None:
            self._known = dict(self._memo.files(self.identity))
        record = self._known.get(path)
        return record[1] if record is not None and record[0] == key else None


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


def _stat_key(status: os.stat_result) -> Stat:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _same(now: os.stat_result, then: os.stat_result) -> bool:
    return (
        now.st_ctime_ns == then.st_ctime_ns
        and now.st_size == then.st_size
        and now.st_ino == then.st_ino
        and now.st_mtime_ns == then.st_mtime_ns
    )


def _young(status: os.stat_result, now: int) -> bool:
    """Whether a change after `now` might leave these times as they are."""
    tick = _TICK if status.st_ctime_ns % _SECOND else _COARSE_TICK
    return max(status.st_ctime_ns, status.st_mtime_ns) >= now - tick


def _is_special(status: os.stat_result) -> bool:
    return _KINDS[stat.S_IFMT(status.st_mode)] in SPECIAL


def _unreadable(path: str, error: OSError) -> CopyError:
    if error.errno in _MOVED:
        return changed(path)
    reason = (error.strerror or "cannot be read").lower()
    return CopyError(
        f'"{shown(path)}": {reason}',
        hint="make it readable for this user or list it in .dockerignore",
    )
