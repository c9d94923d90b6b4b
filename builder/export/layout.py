"""type=oci: an OCI image layout, as a tar or a directory (image-spec image-layout.md).

Blobs stream from a ContentProvider; which images there are was decided before.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from builder.errors import UsageError
from builder.export.destination import replacing, writing
from cache.archive.entry import Entry, Kind
from cache.errors import PybuildError, SizeMismatchError
from cache.spec import oci
from cache.spec.manifest import Index
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cache.archive.writer import Sink
    from cache.content import ContentProvider
    from cache.spec.manifest import Image
    from cache.spec.oci import Descriptor
    from cache.spec.reference import Reference

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT_DOCUMENT = b'{"imageLayoutVersion":"1.0.0"}'
FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
CREATED = "org.opencontainers.image.created"

_PIECE = 1 << 20
_BLOB_MODE = 0o444
_DOCUMENT_MODE = 0o644
_DIRECTORY_MODE = 0o755
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@value
class Bundle:
    """What a layout holds: index entries, distinct blobs by path, other documents by name."""

    entries: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    documents: tuple[tuple[str, bytes], ...] = ()


def bundle(
    images: Sequence[Image],
    names: Sequence[Reference],
    *,
    index: Descriptor | None = None,
    created: str = "",
) -> Bundle:
    """Say what a layout of these images holds: an entry per name, each blob once (O35, O36).

    `index` is the descriptor of the images' index when there are several platforms; `created`
    is by default the time the first image was created.
    """
    root = index or images[0].manifest
    time = created or images[0].config.created
    entries = tuple(_named(root, name, time) for name in names) or (_named(root, None, time),)
    blobs = {root.digest: root}
    for image in images:
        layers = (layer.blob for layer in image.layers)
        for blob in (image.manifest, image.config_blob, *layers):
            blobs[blob.digest] = blob
    return Bundle(entries, tuple(sorted(blobs.values(), key=blob_path)))


def blob_path(descriptor: Descriptor) -> str:
    """Where a blob lies in a layout."""
    return f"blobs/{descriptor.digest.algorithm}/{descriptor.digest.hex}"


def write_tar(content: Bundle, provider: ContentProvider, sink: Sink) -> None:
    """Write a layout as a tar: paths sorted, times 0, so that equal images give equal bytes."""
    from cache.archive.writer import TarWriter  # noqa: PLC0415 - only when an archive is made

    tar = TarWriter(sink)
    for directory in _directories(content):
        tar.add(Entry(directory, Kind.DIRECTORY, _DIRECTORY_MODE))
    for blob in content.blobs:
        entry = Entry(blob_path(blob), Kind.FILE, _BLOB_MODE, size=blob.size)
        with provider.open(blob) as stream:
            tar.add(entry, stream)
            _check_end(stream, blob)
    for name, data in sorted((*_documents(content, content.entries),)):
        mode = _BLOB_MODE if name == LAYOUT_FILE else _DOCUMENT_MODE
        tar.add(Entry(name, Kind.FILE, mode, size=len(data)), data)
    tar.finish()


def write_directory(content: Bundle, provider: ContentProvider, dest: str) -> None:
    """Write a layout as a directory, or add to the layout there.

    Blobs come first and the index last, each renamed into place, so that a reader sees the old
    index or the new one. Entries of an existing index stay unless their name is written anew.

    Raises:
        UsageError: the destination holds something that is no OCI layout.
        ExportError: it cannot be written.
    """
    with writing(dest), contextlib.ExitStack() as owned:
        os.makedirs(dest, exist_ok=True)
        root = os.open(dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        owned.callback(os.close, root)
        entries = _merged(_existing(root, dest), tuple(map(_tagged, content.entries)))
        opened = {"": root}
        for directory in _directories(content):
            parent, _, name = directory.rpartition("/")
            opened[directory] = _subdirectory(opened[parent], name)
            owned.callback(os.close, opened[directory])
        for blob in content.blobs:
            _write_blob(opened[f"blobs/{blob.digest.algorithm}"], blob, provider)
        documents = dict(_documents(content, entries))
        for name in sorted(documents, key=lambda name: (name == INDEX_FILE, name)):
            with replacing(root, name) as file:
                file.write(documents[name])


def _named(root: Descriptor, name: Reference | None, created: str) -> Descriptor:
    annotations = {**({CREATED: created} if created else {}), **root.annotations}
    if name is not None:
        annotations[FULL_NAME] = str(name)
        annotations[REF_NAME] = name.tag or "latest"
    return replace(root, annotations=annotations)


def _tagged(entry: Descriptor) -> Descriptor:
    """An entry of a directory, which others look up by tag, so that it always has one."""
    return replace(entry, annotations={REF_NAME: "latest", **entry.annotations})


def _directories(content: Bundle) -> list[str]:
    algorithms = {blob.digest.algorithm for blob in content.blobs}
    return ["blobs", *sorted(f"blobs/{algorithm}" for algorithm in algorithms)]


def _documents(content: Bundle, entries: tuple[Descriptor, ...]) -> Iterator[tuple[str, bytes]]:
    yield INDEX_FILE, Index(entries).to_json()
    yield LAYOUT_FILE, LAYOUT_DOCUMENT
    yield from content.documents


def _check_end(stream: BinaryIO, blob: Descriptor) -> None:
    """Ask for the end, where verifying streams verify."""
    if stream.read(1):
        msg = f"{blob.digest}: more bytes than the announced {blob.size}"
        raise SizeMismatchError(msg)


def _existing(root: int, dest: str) -> tuple[Descriptor, ...]:
    names = os.listdir(root)
    if not names:
        return ()
    if LAYOUT_FILE not in names:
        msg = f"directory {dest!r} is neither empty nor an OCI layout"
        raise UsageError(msg, hint="choose a new directory")
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(INDEX_FILE, flags, dir_fd=root), "rb") as file:
            data = file.read(oci.MAX_DOCUMENT + 1)
    except FileNotFoundError:
        return ()
    try:
        return Index.from_json(data).manifests
    except PybuildError as error:
        msg = f"directory {dest!r} holds an index.json that cannot be kept: {error.message}"
        raise UsageError(msg, hint="choose a new directory") from error


def _merged(
    existing: tuple[Descriptor, ...], entries: tuple[Descriptor, ...]
) -> tuple[Descriptor, ...]:
    fresh = {_key(entry) for entry in entries}
    return (*(entry for entry in existing if _key(entry) not in fresh), *entries)


def _key(entry: Descriptor) -> tuple[str, str]:
    """What an index entry is found by: its names, without which there is one nameless entry."""
    return entry.annotations.get(FULL_NAME, ""), entry.annotations.get(REF_NAME, "")


def _subdirectory(parent: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, _DIRECTORY_MODE, dir_fd=parent)
    return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)


def _write_blob(directory: int, blob: Descriptor, provider: ContentProvider) -> None:
    try:
        present = os.stat(blob.digest.hex, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        pass
    else:
        # Blobs appear by rename, so one of the right size is complete.
        if stat.S_ISREG(present.st_mode) and present.st_size == blob.size:
            return
    with provider.open(blob) as stream, replacing(directory, blob.digest.hex, _BLOB_MODE) as file:
        left = blob.size
        while left and (piece := stream.read(min(left, _PIECE))):
            left -= file.write(piece)
        if left:
            msg = f"{blob.digest}: fewer bytes than the announced {blob.size}"
            raise SizeMismatchError(msg)
        _check_end(stream, blob)
