"""The build context: one local directory, listed lazily, never left, never trusted to hold still.

Owns reading the host's files for COPY, ADD and bind mounts. Must not know what is done with them.
"""

from __future__ import annotations

import contextlib
import operator
import os
import stat
import struct
from itertools import starmap

from builder.context.hostdir import HostDirectory, Listing
from builder.context.payload import PayloadReader, changed, is_same
from builder.context.source import CopyError, join, resolve, shown
from cache.archive.entry import Entry, Kind
from cache.archive.mould import make_entry
from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING, BinaryIO, Self, cast
from cache.spec import hashes

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence
    from types import TracebackType

    from builder.context.memo import FileRecord, Stat, StatCache
    from builder.context.smallfiles import SmallFiles
    from frontend.ignore import IgnoreDirectory, IgnoreMatcher

_CHUNK = 1 << 20
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
_NUMBERS = operator.attrgetter("st_mode", "st_size", "st_ino", "st_mtime_ns", "st_ctime_ns")
_PACK = struct.Struct("<IqQqq").pack
_TYPE = 0o170000  # the bits of a mode that say what kind of file it is
_FILE = stat.S_IFREG


class LocalContext:
    """A SourceTree over a directory of the host, as it was when each directory was first listed.

    Listings are kept: within one build a file has one state, and a file that no longer matches
    it is an error when it is opened (B08). Safe to use from several threads.
    """

    lasting = None

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
        self._host = HostDirectory(path, hidden)
        self._small: SmallFiles | None = None
        self._root = self._host.root
        self._lock = self._host.lock
        self._young = self._host.young
        self._ignore = ignore
        self._memo = memo
        self._listings: dict[str, Listing] = {}
        self._entries: dict[str, Entry] = {}
        self._digests: dict[str, bytes] = {}
        self._known: Mapping[str, FileRecord] | None = None
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
        self._host.close()

    def remember(self) -> None:
        """Put digests that will hold beyond this build into the memo."""
        with self._lock:
            fresh, self._fresh = self._fresh, {}
        if self._memo is not None and fresh:
            self._memo.put_files(self.place, fresh)

    @property
    def place(self) -> str:
        """Names this directory in the memo."""
        return f"{self._root.st_dev}:{self._root.st_ino}"

    def get(self, path: str, /) -> Entry | None:
        """The entry of a visible path; owner and xattrs are the host's own affair (C10, C11)."""
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
        size, linkname, device = 0, "", _NO_DEVICE
        if stat.S_ISREG(mode):
            size = status.st_size
        elif kind is Kind.SYMLINK:
            mode, linkname = 0o777, self._host.link(path)
        elif kind is Kind.CHAR or kind is Kind.BLOCK:
            device = os.major(status.st_rdev), os.minor(status.st_rdev)
        return make_entry(
            path, kind, mode & 0o7777, 0, 0, size, status.st_mtime_ns, linkname, device, (), -1
        )

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
            expected = self._digests.get(path) if path in self._young else None
        fd = self._host.open_file(path)
        try:
            if not is_same(os.fstat(fd), status):
                raise changed(path)
            yield cast("BinaryIO", PayloadReader(fd, status, path, expected))
        finally:
            os.close(fd)

    def read(self, path: str, /) -> bytes:
        """The whole payload, under the promise of `open`."""
        status = self._regular(path)
        if status is None:
            return b""
        data = self._small_files().read(path, status, self._list(path.rpartition("/")[0]))
        expected = self._digests.get(path) if path in self._young else None
        if expected is not None and hashes.sha256(data).digest() != expected:
            raise changed(path)
        return data

    def digest(self, path: str, /) -> bytes:
        """The sha256 of a file; from the memo if its stat is one remembered."""
        known = self._digests.get(path)
        if known is not None:
            return known
        status = self._regular(path)
        if status is None:
            return hashes.Sha256().digest()
        key = _stat_key(status)
        known = self._remembered(path, key)
        if known is not None:
            return known
        if status.st_size <= _CHUNK:
            listing = self._list(path.rpartition("/")[0])
            found = self._small_files().digest(path, status, listing)
        else:
            found = self._hash(path)
        with self._lock:
            digest = self._digests.setdefault(path, found)
            if digest != found:
                raise changed(path)
            if path not in self._young:
                self._fresh[path] = (key, digest)
        return digest

    def known_digest(self, path: str, /) -> bytes | None:
        """The digest computed in this build, or remembered for this very stat."""
        status = self._status(path)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        return self._digests.get(path) or self._remembered(path, _stat_key(status))

    def _small_files(self) -> SmallFiles:
        if self._small is not None:
            return self._small
        from builder.context.smallfiles import SmallFiles  # noqa: PLC0415 - for some builds only

        with self._lock:
            self._small = SmallFiles(self._host)
            return self._small

    def _hash(self, path: str) -> bytes:
        state = hashes.sha256()
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
        """Digest the stat of everything at and below a path; reads no file."""
        status = self._status(path)
        if status is None:
            return None
        numbers = [status.st_mode, *(_stat_key(status) if path else ())]
        state = hashes.Sha256(_text([self.place, path, repr(numbers)]))
        pending = [path] if stat.S_ISDIR(status.st_mode) else []
        while pending:
            here = pending.pop()
            listing = self._list(here)
            # Names end with an empty one, then each has its numbers: rows cannot run together.
            state.update(_text([here, *listing, "", ""]))
            state.update(b"".join(starmap(_PACK, map(_NUMBERS, listing.values()))))
            for name, found in listing.items():
                mode = found.st_mode
                if mode & _TYPE == _FILE:
                    continue
                if stat.S_ISDIR(mode):
                    pending.append(f"{here}/{name}" if here else name)
                else:
                    state.update(_text([str(found.st_rdev), ""]))
        return state.digest()

    def trusted(self, path: str, /) -> bool:
        """Whether nothing there was so young when listed that its stat may hide a change (J10)."""
        prefix = f"{path}/" if path else ""
        with self._lock:
            return not any(young == path or young.startswith(prefix) for young in self._young)

    def hidden(self, path: str, /) -> bool:
        """Whether a path exists and the ignore rules hide it (D09)."""
        if self._ignore is None or self._status(path) is not None:
            return False
        parent, _, name = path.rpartition("/")
        try:
            with self._lock:
                return name in self._host.scan(parent)
        except PybuildError:
            return False

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
        return Entry(path, Kind.SYMLINK, linkname=self._host.link(path))

    def _list(self, path: str) -> Listing:
        known = self._listings.get(path)
        if known is not None:
            return known
        with self._lock:
            listing = self._host.scan(path)
            if self._ignore is not None:
                listing = self._filtered(path, listing, self._ignore)
            self._listings[path] = listing
        return listing

    def _filtered(self, path: str, listing: Listing, rules: IgnoreMatcher) -> Listing:
        """Apply the ignore rules; an ignored directory shows if something in it does (D07)."""
        here = rules.directory(path)
        hidden = rules.excluded(here, listing.keys())
        if hidden and rules.exceptions:
            hidden = {
                name
                for name in hidden
                if not stat.S_ISDIR(listing[name].st_mode)
                or not self._shows_below(join(path, name), rules, rules.enter(here, name))
            }
        if not hidden:
            return listing
        return {name: status for name, status in listing.items() if name not in hidden}

    def _shows_below(self, path: str, rules: IgnoreMatcher, state: IgnoreDirectory) -> bool:
        """Whether an exception shows something below an ignored directory."""
        pending = [(path, state)]
        while pending:
            here, state = pending.pop()
            if not rules.may_reinclude_below(state):
                continue
            listing = self._host.scan(here)
            if len(rules.excluded(state, listing.keys())) < len(listing):
                return True
            pending += [
                (join(here, name), rules.enter(state, name))
                for name, found in listing.items()
                if stat.S_ISDIR(found.st_mode)
            ]
        return False

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
        if self._memo is None or path in self._young:
            return None
        if self._known is None:
            # Several threads may ask; they are told the same.
            self._known = self._memo.files(self.place)
        record = self._known.get(path)
        return record[1] if record is not None and record[0] == key else None


def _text(rows: list[str]) -> bytes:
    return "\0".join(rows).encode("utf-8", "surrogateescape")


def _stat_key(status: os.stat_result) -> Stat:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
