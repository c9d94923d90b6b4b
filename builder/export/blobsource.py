"""Foreign image files as blobs: a layout directory, or an archive already taken into the store.

Answers by path and by descriptor; never follows a link on the host and reads regular files only
(E19). What the documents mean is the importer's business.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO, Protocol

from builder.errors import ExportError
from cache.archive.entry import Kind
from cache.archive.reader import read_entries
from cache.errors import (
    ArchiveError,
    ContentNotFoundError,
    DigestMismatchError,
    SizeMismatchError,
)
from cache.spec import oci

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache.content import ContentStore, Writer
    from cache.spec.digest import Digest
    from cache.spec.oci import Descriptor

MAX_MEMBERS = 20_000  # entries of one archive; 500 layers of the oldest format are 1501
MAX_ARCHIVE = 1 << 40  # bytes of all files of one archive, so that a gzip bomb ends some day
_MAX_HOPS = 16  # links followed for one name of an archive
_PIECE = 1 << 20
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SUBDIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BlobSource(Protocol):
    """Where an importer reads from."""

    def document(self, path: str) -> bytes | None:
        """A small file by its path; None when there is none.

        Raises:
            PybuildError: it is no regular file, or larger than a document may be.
        """

    def find(self, path: str) -> Descriptor | None:
        """Digest and size of a file by its path, where that is known without reading it."""

    def take(self, blob: Descriptor, content: ContentStore) -> Descriptor:
        """Have a blob of the layout in the content store, verified.

        Raises:
            PybuildError: it is missing, or not what its descriptor says.
        """


class DirectorySource:
    """A layout directory, held open."""

    def __init__(self, root: int, shown: str) -> None:
        """Read below an open directory, which stays the caller's to close."""
        self._root = root
        self._shown = shown

    def document(self, path: str) -> bytes | None:
        """Read a small file."""
        try:
            with self._opened(path) as file:
                return document_of(file, path)
        except FileNotFoundError:
            return None

    def find(self, path: str) -> Descriptor | None:
        """Nothing is known without reading."""
        del path
        return None

    def take(self, blob: Descriptor, content: ContentStore) -> Descriptor:
        """Copy a blob in unless it is there already."""
        _check_algorithm(blob.digest)
        if content.size(blob.digest) == blob.size:
            return blob
        path = f"blobs/{blob.digest.algorithm}/{blob.digest.hex}"
        try:
            with self._opened(path) as file, content.writer() as writer:
                if os.fstat(file.fileno()).st_size != blob.size or (
                    _copy(file, writer, blob.size) != blob.size
                ):
                    msg = f"{path}: size is not the announced {blob.size}"
                    raise SizeMismatchError(msg)
                return writer.commit(blob.media_type, blob.digest)
        except FileNotFoundError as error:
            msg = f"{self._shown!r} lacks the blob {blob.digest}"
            raise ContentNotFoundError(msg) from error

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[BinaryIO]:
        """Open a regular file; paths are made of fixed names and of digests' hex only."""
        *directories, name = path.split("/")
        with contextlib.ExitStack() as owned:
            directory = self._root
            try:
                for step in directories:
                    directory = os.open(step, _SUBDIRECTORY, dir_fd=directory)
                    owned.callback(os.close, directory)
                descriptor = os.open(name, _FILE, dir_fd=directory)
            except FileNotFoundError:
                raise
            except OSError as error:
                msg = f"{self._shown!r}: cannot read {path!r}: {error.strerror}"
                hint = "links inside a layout are not followed"
                raise ExportError(msg, hint=hint) from error
            owned.callback(os.close, descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                msg = f"{self._shown!r}: {path!r} is not a regular file"
                raise ExportError(msg)
            yield owned.enter_context(open(descriptor, "rb", closefd=False))


class ArchiveSource:
    """The files of an archive, each taken into the store once under its own digest.

    Links between members, which old docker archives have, are resolved among the names of the
    archive only (E20).
    """

    def __init__(
        self, files: dict[str, Descriptor], links: dict[str, str], content: ContentStore
    ) -> None:
        """Answer for files by path and links by path."""
        self._files = files
        self._links = links
        self._content = content

    @classmethod
    def read(cls, stream: BinaryIO, content: ContentStore) -> ArchiveSource:
        """Take every regular file of a tar stream into the store.

        Raises:
            ArchiveError: malformed, over a limit, or two files of one name.
        """
        files: dict[str, Descriptor] = {}
        links: dict[str, str] = {}
        total = 0
        for count, (entry, payload) in enumerate(read_entries(stream)):
            total += entry.size
            if count >= MAX_MEMBERS or total > MAX_ARCHIVE:
                msg = f"archive is over the limit of {MAX_MEMBERS} members or {MAX_ARCHIVE} bytes"
                raise ArchiveError(msg)
            if entry.kind is Kind.HARDLINK:
                links[entry.path] = f"/{entry.linkname}"
            elif entry.kind is Kind.SYMLINK:
                links[entry.path] = entry.linkname
            elif entry.kind is Kind.FILE:
                with content.writer() as writer:
                    _copy(payload, writer, entry.size)
                    blob = writer.commit("application/octet-stream")
                if files.setdefault(entry.path, blob) != blob:
                    msg = f"archive holds {entry.path!r} twice, with different content"
                    raise ArchiveError(msg)
        return cls(files, links, content)

    def document(self, path: str) -> bytes | None:
        """Read a small member."""
        blob = self.find(path)
        if blob is None:
            return None
        if blob.size > oci.MAX_DOCUMENT:
            raise _too_large(path)
        with self._content.open(blob) as stream:
            return document_of(stream, path)

    def find(self, path: str) -> Descriptor | None:
        """Look a member up, through links of the archive.

        Raises:
            ArchiveError: the name or a link leaves the archive, or links go in a circle.
        """
        here = _confined("", path)
        for _ in range(_MAX_HOPS):
            link = self._links.get(here)
            if link is None or here in self._files:
                return self._files.get(here)
            here = _confined(here.rpartition("/")[0], link)
        msg = f"archive member {path!r}: too many links"
        raise ArchiveError(msg)

    def take(self, blob: Descriptor, content: ContentStore) -> Descriptor:
        """The blob is in the store if the archive held it under its name."""
        del content
        _check_algorithm(blob.digest)
        path = f"blobs/{blob.digest.algorithm}/{blob.digest.hex}"
        present = self._files.get(path)
        if present is None:
            msg = f"archive lacks the blob {blob.digest}"
            raise ContentNotFoundError(msg)
        if present.digest != blob.digest:
            msg = f"archive member {path!r} has the digest {present.digest}"
            raise DigestMismatchError(msg)
        if present.size != blob.size:
            msg = f"archive member {path!r}: size is not the announced {blob.size}"
            raise SizeMismatchError(msg)
        return blob


def document_of(stream: BinaryIO, path: str) -> bytes:
    """Read a document to its end.

    Raises:
        ExportError: it is larger than a document may be.
    """
    pieces: list[bytes] = []
    size = 0
    while piece := stream.read(_PIECE):
        size += len(piece)
        if size > oci.MAX_DOCUMENT:
            raise _too_large(path)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(path: str) -> ExportError:
    return ExportError(f"{path!r} is over the limit of {oci.MAX_DOCUMENT} bytes")


def _copy(stream: BinaryIO, writer: Writer, limit: int) -> int:
    """Copy at most `limit` bytes; gives how many there were."""
    size = 0
    while size < limit and (piece := stream.read(min(_PIECE, limit - size))):
        size += writer.write(piece)
    return size


def _check_algorithm(digest: Digest) -> None:
    if digest.algorithm != "sha256":
        msg = f"blob {str(digest)[:40]}...: digests other than sha256 are not supported"
        raise ExportError(msg)


def _confined(directory: str, target: str) -> str:
    """A member's name from a link's text or a document's; "/" is the archive's top."""
    parts = directory.split("/") if directory and not target.startswith("/") else []
    for part in target.split("/"):
        if part == "..":
            if not parts:
                msg = f"archive name {target[:100]!r} leaves the archive"
                raise ArchiveError(msg)
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)
