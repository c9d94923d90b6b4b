"""Small files of the host, read ahead where they are asked for in the order of their listing.

Each costs little more than Python needs to ask for it, so that a run of them is read in one call
(gather.c); without the library, and for whatever is odd, one after the other. Must not know
ignore rules, memos, or what the bytes are for.
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_left
from itertools import accumulate, pairwise

from builder.context.hostdir import unreadable
from builder.context.payload import changed, is_same
from cache import native
from cache.archive.entry import encode
from cache.hints import TYPE_CHECKING, Self
from cache.spec import hashes

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Sequence

    from builder.context.hostdir import HostDirectory, Listing

_REVISION = 1
_ROOM = 1 << 20  # bytes of files read ahead
_MOST = 512  # of them
_FEW = 8  # fewer are not worth a call
_DIGEST = 32
_PACK = struct.Struct("=Qqqq").pack  # as struct listed in gather.c


class SmallFiles:
    """Reads and hashes files of a directory; guarded by its lock."""

    def __init__(self, host: HostDirectory) -> None:
        """Nothing is read ahead before several files were wanted one after the other."""
        self._host = host
        self._contents = _Run(host)
        self._digests = _Run(host)

    def read(self, path: str, status: os.stat_result, listing: Listing) -> bytes:
        """The content of a listed file."""
        found = self._contents.found.pop(path, None)
        if found is None:
            with self._host.lock:
                self._contents.advance(path, listing, hashed=False)
                found = self._contents.found.pop(path, None)
        return self._alone(path, status) if found is None else found

    def digest(self, path: str, status: os.stat_result, listing: Listing) -> bytes:
        """Its sha256."""
        found = self._digests.found.pop(path, None)
        if found is None:
            with self._host.lock:
                self._digests.advance(path, listing, hashed=True)
                found = self._digests.found.pop(path, None)
        return hashes.sha256(self._alone(path, status)).digest() if found is None else found

    def _alone(self, path: str, status: os.stat_result) -> bytes:
        fd = self._host.open_file(path)
        try:
            data = os.read(fd, status.st_size + 1)
            # Looking once, afterwards, is enough: what was read is then what was listed.
            if len(data) != status.st_size or not is_same(os.fstat(fd), status):
                raise changed(path)
        except OSError as error:
            raise unreadable(path, error) from error
        finally:
            os.close(fd)
        return data


class _Run:
    """Files of one directory that were asked for in their order, and what was read ahead."""

    def __init__(self, host: HostDirectory) -> None:
        self.found: dict[str, bytes] = {}
        self._host = host
        self._listing: Listing | None = None
        self._names: list[str] = []
        self._next = 0
        self._length = 1
        self._reader: Reader | None = None
        self._is_asked = False

    def advance(self, path: str, listing: Listing, *, hashed: bool) -> None:
        """Read on from a file that was not read ahead: twice as many if it was the one expected."""
        parent, _, name = path.rpartition("/")
        if listing is not self._listing:
            # A directory may follow one that was wanted to its end.
            self._next = 0 if self._next >= len(self._names) else -1
            self._listing, self._names = listing, list(listing)
        at = bisect_left(self._names, name)
        self._length = min(2 * self._length, _MOST) if at == self._next else 1
        self._next = at + 1
        if self._length < _FEW:
            return
        reader = self._library()
        if reader is None:
            return
        names = _small(self._names[at : at + self._length], listing)
        if len(names) < _FEW:
            return
        fd = self._host.enter(parent)
        found = reader.take(fd, names, [listing[name] for name in names], hashed=hashed)
        prefix = f"{parent}/" if parent else ""
        self.found = {prefix + name: data for name, data in zip(names, found, strict=False)}
        self._next = bisect_left(self._names, names[-1]) + 1

    def _library(self) -> Reader | None:
        if not self._is_asked:
            self._is_asked = True
            self._reader = Reader.make()
        return self._reader


class Reader:
    """The library, with the memory it reads to."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Find a hash for it, too."""
        import ctypes  # noqa: PLC0415 - not on the path of a cached build

        self._gather = library.gather
        size, pointer, text = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
        number = ctypes.c_int
        self._gather.argtypes = (number, text, size, text, number, pointer, size, pointer, pointer)
        self._buffer = ctypes.create_string_buffer(_ROOM)
        self._hashes = ctypes.create_string_buffer(_MOST * _DIGEST)
        self._hash = _openssl()

    @classmethod
    def make(cls) -> Self | None:
        """None where it was not compiled."""
        library = native.library(__file__, "gather", _REVISION)
        return None if library is None else cls(library)

    def take(
        self,
        directory: int,
        names: Sequence[str],
        listed: Sequence[os.stat_result],
        *,
        hashed: bool,
    ) -> list[bytes]:
        """The content or the digests of the files, up to the first that gives any trouble."""
        texts = b"".join([encode(name) + b"\0" for name in names])
        rows = [_PACK(s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in listed]
        function = self._hash if hashed else None
        done: int = self._gather(
            *(directory, texts, len(texts), b"".join(rows), len(rows)),
            *(self._buffer, _ROOM, function, self._hashes),
        )
        if function is not None:
            view = memoryview(self._hashes)
            return [bytes(view[n * _DIGEST : (n + 1) * _DIGEST]) for n in range(done)]
        ends = accumulate((status.st_size for status in listed[:done]), initial=0)
        view = memoryview(self._buffer)
        found = [bytes(view[start:end]) for start, end in pairwise(ends)]
        return [hashes.sha256(data).digest() for data in found] if hashed else found


def _small(names: Sequence[str], listing: Listing) -> list[str]:
    """The regular files among names, as many as there is room for."""
    room, found = _ROOM, []
    for name in names:
        status = listing[name]
        if stat.S_ISREG(status.st_mode):
            room -= status.st_size
            if room <= 0:  # each has to leave a byte that shows whether it has grown
                break
            found.append(name)
    return found


def _openssl() -> object:
    """OpenSSL's function, out of the library that Python's own hashes come from; None without."""
    import ctypes  # noqa: PLC0415 - not on the path of a cached build

    try:
        import _hashlib  # noqa: PLC0415 - likewise

        return ctypes.cast(ctypes.CDLL(_hashlib.__file__).SHA256, ctypes.c_void_p)
    except (ImportError, AttributeError, OSError):
        return None
