"""Blobs on disk in OCI-layout shape: written aside, verified, fsynced, renamed into place.

A loss of power may take the newest names, never what a name promises: a record whose blob is not
there is a miss, and images come after `settle`.
"""

from __future__ import annotations

import contextlib
import io
import os

from cache.errors import (
    ContentNotFoundError,
    DigestMismatchError,
    PybuildError,
    SizeMismatchError,
    StoreError,
    advice_on,
    reason_of,
)
from cache.hints import TYPE_CHECKING, BinaryIO
from cache.spec import hashes
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedReader

    from _typeshed import WriteableBuffer

_READ_ONLY = 0o444
_PRIVATE = 0o600
# A blob up to here is compared with the stored one rather than written again.
_DOCUMENT = 1 << 16
_LARGE = 8 << 20  # bytes of a blob for which the disk is started early


class VerifiedReader(io.RawIOBase):
    """Reads a blob to its end and raises there when size or digest are not the announced ones."""

    def __init__(self, stream: BufferedReader, descriptor: Descriptor) -> None:
        """Wrap a stream positioned at the blob's first byte; closes it when closed."""
        super().__init__()
        self._stream = stream
        self._descriptor = descriptor
        self._state = hashes.new(descriptor.digest.algorithm)
        self._left = descriptor.size

    def readable(self) -> bool:
        """Reading is all it does."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer; verify at the end."""
        view = memoryview(buffer).cast("B")
        count = self._stream.readinto(view)
        data = view[:count]
        self._left -= count
        if self._left < 0 or (not data and self._left and len(view)):
            msg = f"{self._descriptor.digest}: size is not the announced {self._descriptor.size}"
            raise SizeMismatchError(msg)
        self._state.update(data)
        if not data and len(view) and self._state.hexdigest() != self._descriptor.digest.hex:
            msg = f"content does not have the digest {self._descriptor.digest}"
            hint = "the stored copy is damaged: run `pybuild prune --all` and build again"
            raise DigestMismatchError(msg, hint=hint)
        return count

    def close(self) -> None:
        """Close the wrapped stream too."""
        self._stream.close()
        super().close()


class BlobWriter:
    """An ingest into a store's tmp directory; hashes as it goes."""

    def __init__(self, root: str, published: Callable[[], None]) -> None:
        """Create the temporary file under `root/tmp`; tell of a new name in the store."""
        self._root = root
        self._published = published
        self._path = os.path.join(root, "tmp", os.urandom(16).hex())
        self._file: BinaryIO | None = open(self._path, "xb", opener=_private)  # noqa: SIM115 - owned by close
        self._state = hashes.Sha256()
        self._size = 0
        self._written_out: Callable[[int, int], None] | None = None

    def write(self, data: bytes | memoryview, /) -> int:
        """Append."""
        if self._file is None:
            msg = "the ingest is closed"
            raise StoreError(msg)
        with _disk(self._root):
            self._file.write(data)
        self._state.update(data)
        self._size += len(data)
        if self._size >= _LARGE:
            self._write_out(self._file.fileno())
        return len(data)

    def flush(self) -> None:
        """Let readers have all that was written."""
        if self._file is not None:
            with _disk(self._root):
                self._file.flush()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def described(self, media_type: str) -> Descriptor:
        """What has been written, all of which readers have now, before it is committed."""
        self.flush()
        return Descriptor(media_type, Digest("sha256", self._state.hexdigest()), self._size)

    def reader(self) -> int:
        """A descriptor to read what was flushed; the caller closes it."""
        with _disk(self._root):
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def _write_out(self, fd: int) -> None:
        """Have the disk at work already, so that `commit` waits for it less."""
        if self._written_out is None:
            from cache.writeback import Writeback  # noqa: PLC0415 - only for large blobs

            self._written_out = Writeback().reached
        self._written_out(fd, self._size)

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        """Publish under the digest of what was written."""
        if self._file is None:
            msg = "the ingest is closed"
            raise StoreError(msg)
        digest = Digest("sha256", self._state.hexdigest())
        if expected is not None and expected.algorithm == "sha256" and expected != digest:
            self.close()
            msg = f"content has the digest {digest}, not the expected {expected}"
            raise DigestMismatchError(msg)
        target = os.path.join(self._root, "blobs", "sha256", digest.hex)
        if self._size <= _DOCUMENT and _holds(target, digest):
            # A cached build ends with the manifest and config of the build before: the disk need
            # not be waited for again.
            self.close()
            self._published()  # if only by a build that was killed before it settled
            return Descriptor(media_type, digest, self._size)
        with _disk(self._root):
            self._file.flush()
            os.fchmod(self._file.fileno(), _READ_ONLY)
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            os.rename(self._path, target)
        self._published()
        return Descriptor(media_type, digest, self._size)

    def close(self) -> None:
        """Discard what was not committed; idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


class LocalStore:
    """The ContentStore of a state directory."""

    def __init__(self, root: str) -> None:
        """Make the directories under `root`, 0700."""
        self._root = root
        self._unsettled = False
        with _disk(root):
            for name in ("blobs", os.path.join("blobs", "sha256"), "tmp"):
                os.makedirs(os.path.join(root, name), mode=0o700, exist_ok=True)

    def path(self, digest: Digest) -> str:
        """Where a blob lies, or would."""
        return os.path.join(self._root, "blobs", digest.algorithm, digest.hex)

    @contextlib.contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open a blob; reading to the end verifies it."""
        with self.open_raw(descriptor) as stream:
            yield io.BufferedReader(VerifiedReader(stream, descriptor), 1 << 20)

    @contextlib.contextmanager
    def open_raw(self, descriptor: Descriptor) -> Iterator[BufferedReader]:
        """Open a blob's file, seekable; only its size is checked here."""
        try:
            descriptor_fd = os.open(
                self.path(descriptor.digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        except OSError as error:
            msg = f"{descriptor.digest} is not in the store"
            raise ContentNotFoundError(msg) from error
        with open(descriptor_fd, "rb") as stream:
            if os.fstat(descriptor_fd).st_size != descriptor.size:
                msg = f"{descriptor.digest}: the stored copy has another size"
                raise SizeMismatchError(msg, hint="run `pybuild prune --all` and build again")
            yield stream

    @contextlib.contextmanager
    def writer(self) -> Iterator[BlobWriter]:
        """Begin an ingest."""
        with _disk(self._root):
            writer = BlobWriter(self._root, self._note)
        try:
            yield writer
        finally:
            writer.close()

    def _note(self) -> None:
        self._unsettled = True

    def settle(self) -> None:
        """Have the names of published blobs on the disk: once for many of them."""
        if self._unsettled:
            self._unsettled = False
            with _disk(self._root):
                _sync_directory(os.path.join(self._root, "blobs", "sha256"))

    def size(self, digest: Digest) -> int | None:
        """Stored size."""
        try:
            return os.lstat(self.path(digest)).st_size
        except OSError:
            return None

    def delete(self, digest: Digest) -> None:
        """Remove, whatever lies in the blob's place."""
        with contextlib.suppress(FileNotFoundError):
            try:
                os.unlink(self.path(digest))
            except (IsADirectoryError, PermissionError):
                from cache.archive.rooted import remove_tree  # noqa: PLC0415 - never so, but for damage

                folder = os.open(os.path.dirname(self.path(digest)), os.O_RDONLY | os.O_DIRECTORY)
                try:
                    remove_tree(folder, digest.hex)
                finally:
                    os.close(folder)

    def is_whole(self, digest: Digest) -> bool:
        """Read a blob to see whether its bytes are those of its name."""
        try:
            with open(self.path(digest), "rb", opener=_not_a_link) as stream:
                return hashes.of_file(stream, digest.algorithm) == digest.hex
        except OSError:
            return False

    def __iter__(self) -> Iterator[Digest]:
        """Yield what is stored."""
        for name in os.listdir(os.path.join(self._root, "blobs", "sha256")):
            with contextlib.suppress(PybuildError):
                yield Digest("sha256", name)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, _PRIVATE)


def _holds(path: str, digest: Digest) -> bool:
    """Whether a small blob is stored already and undamaged."""
    try:
        with open(path, "rb", opener=_not_a_link) as stream:
            return hashes.Sha256(stream.read(_DOCUMENT + 1)).hexdigest() == digest.hex
    except OSError:
        return False


def _not_a_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _disk(root: str) -> Iterator[None]:
    """Name the state directory in what the disk refuses."""
    try:
        yield
    except OSError as error:
        msg = f"cannot write to the state directory {root}: {reason_of(error)}"
        raise StoreError(msg, hint=advice_on(error, in_state=True)) from error
