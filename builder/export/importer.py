"""Reading images others wrote: OCI layouts (directory or tar) and docker archives into the store.

Every byte may be chosen by an attacker: digests and sizes are verified, names stay inside
(E19, E20). Knows documents; where their bytes come from is blobsource's business.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from builder.errors import ExportError
from builder.export.blobsource import ArchiveSource, BlobSource, DirectorySource
from builder.export.layout import FULL_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME
from cache.errors import DigestMismatchError, InvalidDocumentError
from cache.spec import oci
from cache.spec.config import ImageConfig
from cache.spec.fields import Fields
from cache.spec.manifest import MAX_LAYERS, MAX_MANIFESTS, Image, Index, Manifest, pair_layers
from cache.spec.oci import Descriptor, Layer, load_object
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache.content import ContentStore
    from cache.spec.digest import Digest

_MAX_NESTING = 4  # indexes within indexes
_CONFIG_TYPES = (oci.OCI_CONFIG, oci.DOCKER_CONFIG)
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@value
class Imported:
    """An image now in the store; `names` are what the file calls it, unchecked text."""

    image: Image
    names: tuple[str, ...]


def import_images(path: str, content: ContentStore) -> tuple[Imported, ...]:
    """Take every image of a layout directory, a layout tar or a docker archive into the store.

    Archives may be gzip or zstd compressed. Images of all platforms are taken; entries that are
    no images (attestations, artifacts) are passed over.

    Raises:
        ExportError: the path cannot be read or holds no image.
        PybuildError: a document, digest, size or name is not what it must be.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        msg = f"cannot read {path!r}: {error.strerror}"
        raise ExportError(msg) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            return _layout(DirectorySource(descriptor, path), content, path)
        if not stat.S_ISREG(mode):
            msg = f"{path!r} is neither a directory nor a regular file"
            raise ExportError(msg)
        with open(descriptor, "rb", closefd=False) as file:
            return import_archive(file, content, path)
    finally:
        os.close(descriptor)


def import_archive(
    stream: BinaryIO, content: ContentStore, shown: str = "archive"
) -> tuple[Imported, ...]:
    """Do as import_images for an archive on a stream, read once from start to end."""
    source = ArchiveSource.read(_plain(stream), content)
    if source.find(LAYOUT_FILE) is not None:
        return _layout(source, content, shown)
    return _docker(source, content, shown)


def _plain(stream: BinaryIO) -> BinaryIO:
    import io  # noqa: PLC0415 - beside what it serves

    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[type-var]
    head = buffered.peek(4)[:4]
    media_type = ""
    if head.startswith(_GZIP):
        media_type = oci.OCI_LAYER_GZIP
    elif head.startswith(_ZSTD):
        media_type = oci.OCI_LAYER_ZSTD
    if not media_type:
        return buffered
    from cache import compress  # noqa: PLC0415 - for compressed archives only

    return compress.decompressed(buffered, media_type)


def _layout(source: BlobSource, content: ContentStore, shown: str) -> tuple[Imported, ...]:
    marker = source.document(LAYOUT_FILE)
    index = source.document(INDEX_FILE)
    if marker is None or index is None:
        msg = f"{shown!r} is not an OCI layout: it has no {LAYOUT_FILE} or no {INDEX_FILE}"
        raise ExportError(msg)
    version = Fields(load_object(marker, LAYOUT_FILE), LAYOUT_FILE).text("imageLayoutVersion")
    if version != "1.0.0":
        msg = f"{shown!r}: unsupported OCI layout version {version[:40]!r}"
        raise ExportError(msg)
    found: dict[Digest, tuple[Descriptor, list[str]]] = {}
    for descriptor, name in _manifests(source, content, Index.from_json(index)):
        _, held = found.setdefault(descriptor.digest, (replace(descriptor, annotations={}), []))
        if name and name not in held:
            held.append(name)
    imported: list[Imported] = []
    for descriptor, held in found.values():
        image = take_image(source, content, descriptor)
        if image is not None:
            imported.append(Imported(image, tuple(held)))
    return _some(imported, shown)


def _manifests(
    source: BlobSource, content: ContentStore, top: Index
) -> Iterator[tuple[Descriptor, str]]:
    """Yield image manifests and the names they go by, through nested indexes."""
    pending = [(entry, _name(entry), 1) for entry in reversed(top.manifests)]
    seen = 0
    while pending:
        entry, name, depth = pending.pop()
        seen += 1
        if seen > MAX_MANIFESTS or depth > _MAX_NESTING:
            msg = f"index nests deeper than {_MAX_NESTING} or names over {MAX_MANIFESTS} manifests"
            raise InvalidDocumentError(msg)
        if entry.media_type in oci.INDEX_TYPES:
            nested = Index.from_json(read_document(source, content, entry), entry.media_type)
            pending += [
                (below, name or _name(below), depth + 1) for below in reversed(nested.manifests)
            ]
        elif entry.media_type in oci.MANIFEST_TYPES and not _is_attestation(entry):
            yield entry, name


def _name(entry: Descriptor) -> str:
    return entry.annotations.get(FULL_NAME) or entry.annotations.get(REF_NAME, "")


def _is_attestation(entry: Descriptor) -> bool:
    return entry.platform is not None and entry.platform.os == "unknown"


def take_image(source: BlobSource, content: ContentStore, descriptor: Descriptor) -> Image | None:
    """Take one image, its layers too; None for a manifest that is of no image."""
    data = read_document(source, content, descriptor)
    manifest = Manifest.from_json(data, descriptor.media_type)
    if manifest.config.media_type not in _CONFIG_TYPES:
        return None
    config = ImageConfig.from_json(read_document(source, content, manifest.config))
    layers = pair_layers(manifest, config)
    for layer in layers:
        _check_plain(layer)
        source.take(layer.blob, content)
    return Image(replace(descriptor, platform=config.platform), manifest.config, config, layers)


def read_document(source: BlobSource, content: ContentStore, descriptor: Descriptor) -> bytes:
    """Take a manifest, index or config and give its bytes."""
    if descriptor.size > oci.MAX_DOCUMENT:
        msg = f"document {descriptor.digest} is over the limit of {oci.MAX_DOCUMENT} bytes"
        raise InvalidDocumentError(msg)
    source.take(descriptor, content)
    with content.open(descriptor) as stream:
        data = stream.read(descriptor.size)
        stream.read(1)  # the end, where the store verifies
    return data


def _some(imported: list[Imported], shown: str) -> tuple[Imported, ...]:
    if not imported:
        msg = f"{shown!r} holds no image"
        raise ExportError(msg)
    return tuple(imported)


def _docker(source: ArchiveSource, content: ContentStore, shown: str) -> tuple[Imported, ...]:
    data = source.document("manifest.json")
    if data is None:
        msg = f"{shown!r} is neither an OCI layout nor a docker archive"
        raise ExportError(msg, hint="make it with `docker save`, or with type=oci")
    # The document is a list; as an object's value it gets the checks all documents get.
    wrapped = Fields(load_object(b'{"images":' + data + b"}", "manifest.json"), "manifest.json")
    images = wrapped.children("images")
    if len(images) > MAX_MANIFESTS:
        msg = f"manifest.json names over {MAX_MANIFESTS} images"
        raise InvalidDocumentError(msg)
    return _some([_docker_image(source, content, entry) for entry in images], shown)


def _docker_image(source: ArchiveSource, content: ContentStore, entry: Fields) -> Imported:
    config_path = entry.text("Config")
    config_blob = replace(_member(source, config_path), media_type=oci.DOCKER_CONFIG)
    config = ImageConfig.from_json(source.document(config_path) or b"")
    paths = entry.texts("Layers") or ()
    if len(paths) > MAX_LAYERS or len(paths) != len(config.diff_ids):
        msg = f"{entry.where}: {len(paths)} layers, but {len(config.diff_ids)} diff_ids"
        raise InvalidDocumentError(msg)
    layers: list[Layer] = []
    for path, diff_id in zip(paths, config.diff_ids, strict=True):
        blob = _typed(_member(source, path), content)
        layers.append(Layer(blob, diff_id))
        _check_plain(layers[-1])
    manifest = Manifest(config_blob, tuple(layer.blob for layer in layers), oci.DOCKER_MANIFEST)
    with content.writer() as writer:
        writer.write(manifest.to_json())
        descriptor = writer.commit(oci.DOCKER_MANIFEST)
    image = Image(replace(descriptor, platform=config.platform), config_blob, config, tuple(layers))
    return Imported(image, entry.texts("RepoTags") or ())


def _check_plain(layer: Layer) -> None:
    """An uncompressed layer's digest is its diff_id; of others the layer store sees to it."""
    plain = layer.blob.media_type in {oci.OCI_LAYER, oci.DOCKER_LAYER}
    if plain and layer.blob.digest != layer.diff_id:
        msg = f"layer has the digest {layer.blob.digest}, its config names {layer.diff_id}"
        raise DigestMismatchError(msg)


def _member(source: ArchiveSource, path: str) -> Descriptor:
    blob = source.find(path)
    if blob is None:
        msg = f"archive lacks {path[:100]!r}, which its manifest.json names"
        raise ExportError(msg)
    return blob


def _typed(blob: Descriptor, content: ContentStore) -> Descriptor:
    """Say how a layer is compressed, by its first bytes; the archive does not."""
    with content.open(blob) as stream:
        head = stream.read(4)
    if head.startswith(_GZIP):
        return replace(blob, media_type=oci.DOCKER_LAYER_GZIP)
    if head.startswith(_ZSTD):
        return replace(blob, media_type=oci.DOCKER_LAYER_ZSTD)
    return replace(blob, media_type=oci.DOCKER_LAYER)
