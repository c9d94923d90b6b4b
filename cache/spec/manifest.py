"""Manifests and indexes (image-spec manifest.md, image-index.md), both ways through JSON."""

from __future__ import annotations

from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING, Self
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.fields import Fields
from cache.spec.oci import Descriptor, Layer, Platform
from cache.value import field, value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cache.spec.config import ImageConfig

MAX_LAYERS = 500  # overlayfs takes no more lower directories
MAX_MANIFESTS = 1000


@value
class Manifest:
    """An image manifest: the config's descriptor and the layers', base first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = oci.OCI_MANIFEST
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: bytes, media_type: str = "") -> Self:
        """Decode; `media_type` is what the transport said, checked against the body.

        Raises:
            InvalidDocumentError: ambiguous, of another type, too many layers, bad descriptor.
        """
        top = _document(data, media_type, oci.MANIFEST_TYPES, "manifest")
        if "manifests" in top.value or "fsLayers" in top.value:
            msg = "manifest: ambiguous document that is also an index or a schema 1 manifest"
            raise InvalidDocumentError(msg)
        config = top.child("config")
        layers = top.children("layers")
        if config is None:
            msg = "manifest: no config descriptor"
            raise InvalidDocumentError(msg)
        if len(layers) > MAX_LAYERS:
            msg = f"manifest: {len(layers)} layers are over the limit of {MAX_LAYERS}"
            raise InvalidDocumentError(msg)
        return cls(
            config=descriptor_from(config),
            layers=tuple(descriptor_from(entry) for entry in layers),
            media_type=top.text("mediaType") or media_type or oci.OCI_MANIFEST,
            annotations=top.text_map("annotations"),
        )

    def to_json(self) -> bytes:
        """Encode canonically."""
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": descriptor_json(self.config),
            "layers": [descriptor_json(layer) for layer in self.layers],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return oci.canonical_json(document)


@value
class Index:
    """An image index or manifest list."""

    manifests: tuple[Descriptor, ...]
    media_type: str = oci.OCI_INDEX
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, data: bytes, media_type: str = "") -> Self:
        """Decode; raises InvalidDocumentError as Manifest.from_json does."""
        top = _document(data, media_type, oci.INDEX_TYPES, "index")
        if any(name in top.value for name in ("layers", "config", "fsLayers")):
            msg = "index: ambiguous document that is also a manifest"
            raise InvalidDocumentError(msg)
        manifests = top.children("manifests")
        if len(manifests) > MAX_MANIFESTS:
            msg = f"index: {len(manifests)} manifests are over the limit of {MAX_MANIFESTS}"
            raise InvalidDocumentError(msg)
        return cls(
            manifests=tuple(descriptor_from(entry) for entry in manifests),
            media_type=top.text("mediaType") or media_type or oci.OCI_INDEX,
            annotations=top.text_map("annotations"),
        )

    def to_json(self) -> bytes:
        """Encode canonically."""
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [descriptor_json(entry) for entry in self.manifests],
        }
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return oci.canonical_json(document)


@value
class Image:
    """One platform's image as values: manifest and config descriptors, config, layers."""

    manifest: Descriptor
    config_blob: Descriptor
    config: ImageConfig
    layers: tuple[Layer, ...]


def pair_layers(manifest: Manifest, config: ImageConfig) -> tuple[Layer, ...]:
    """Join layer blobs with the config's diff_ids.

    Raises:
        InvalidDocumentError: their numbers differ or a layer's media type is unknown.
    """
    if len(manifest.layers) != len(config.diff_ids):
        msg = f"manifest has {len(manifest.layers)} layers, its config {len(config.diff_ids)} diff_ids"
        raise InvalidDocumentError(msg)
    for blob in manifest.layers:
        if blob.media_type not in oci.LAYER_TYPES:
            msg = f"manifest: unsupported layer media type {blob.media_type[:80]!r}"
            raise InvalidDocumentError(msg)
    return tuple(
        Layer(blob, diff_id) for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    )


def descriptor_from(entry: Fields) -> Descriptor:
    """Read a descriptor; its digest and size are required."""
    if "digest" not in entry.value or "size" not in entry.value:
        msg = f"{entry.where}: descriptor without digest or size"
        raise InvalidDocumentError(msg)
    return Descriptor(
        media_type=entry.text("mediaType"),
        digest=Digest.parse(entry.text("digest")),
        size=entry.integer("size"),
        annotations=entry.text_map("annotations"),
        platform=_platform(entry.child("platform")),
    )


def descriptor_json(descriptor: Descriptor) -> dict[str, object]:
    """Write a descriptor."""
    document: dict[str, object] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.annotations:
        document["annotations"] = dict(descriptor.annotations)
    if descriptor.platform is not None:
        platform = descriptor.platform
        fields = {
            "os": platform.os,
            "architecture": platform.architecture,
            "variant": platform.variant,
            "os.version": platform.os_version,
        }
        document["platform"] = {key: value for key, value in fields.items() if value}
    return document


def _platform(entry: Fields | None) -> Platform | None:
    if entry is None:
        return None
    return Platform(
        entry.text("os"),
        entry.text("architecture"),
        entry.text("variant"),
        entry.text("os.version"),
    )


def _document(data: bytes, media_type: str, allowed: tuple[str, ...], what: str) -> Fields:
    top = Fields(oci.load_object(data, what), what)
    if top.integer("schemaVersion", 0) != 2:  # noqa: PLR2004 - the spec's number
        msg = f"{what}: schemaVersion is not 2"
        raise InvalidDocumentError(msg, hint="schema 1 images must be pushed anew by their owner")
    stated = top.text("mediaType")
    if stated and media_type and stated != media_type:
        msg = f"{what}: mediaType {stated[:80]!r} in the body, {media_type[:80]!r} announced"
        raise InvalidDocumentError(msg)
    if (stated or media_type or allowed[0]) not in allowed:
        msg = f"{what}: unsupported media type {(stated or media_type)[:80]!r}"
        raise InvalidDocumentError(msg)
    return top
