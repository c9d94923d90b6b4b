"""From layers to an image: history and times, then config, manifest and index in the store.

Knows no destination: what is assembled here is what layout, push and the store are given.
"""

from __future__ import annotations

from builder.errors import UsageError
from builder.export.output import Compression
from builder.export.timestamp import rfc3339, seconds_of
from cache.hints import TYPE_CHECKING
from cache.spec import oci
from cache.spec.config import History
from cache.spec.manifest import MAX_LAYERS, Image, Index, Manifest
from cache.spec.oci import Descriptor, Layer
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.export.annotation import Annotation
    from builder.export.output import OutputSpec
    from cache.content import ContentStore
    from cache.layers import LayerStore
    from cache.spec.config import ImageConfig
    from cache.spec.oci import Platform

EXPORTER_COMMENT = "buildkit.exporter.image.v0"  # what others write for a layer without history
REWRITTEN = "buildkit/rewritten-timestamp"  # on layers whose times were rewritten

_OCI_LAYERS = {
    Compression.UNCOMPRESSED: oci.OCI_LAYER,
    Compression.GZIP: oci.OCI_LAYER_GZIP,
    Compression.ZSTD: oci.OCI_LAYER_ZSTD,
}
_DOCKER_LAYERS = {
    Compression.UNCOMPRESSED: oci.DOCKER_LAYER,
    Compression.GZIP: oci.DOCKER_LAYER_GZIP,
    Compression.ZSTD: oci.DOCKER_LAYER_ZSTD,
}
_COMPRESSION_OF = {
    media_type: compression
    for table in (_OCI_LAYERS, _DOCKER_LAYERS)
    for compression, media_type in table.items()
}


@value
class BlobForm:
    """How documents are typed and layers compressed; `force` recompresses base layers too.

    `level` None is the compression's own default.
    """

    oci_types: bool = True
    compression: Compression = Compression.GZIP
    force: bool = False
    level: int | None = None

    @classmethod
    def of(cls, output: OutputSpec) -> BlobForm:
        """The form an output asks for."""
        return cls(
            output.oci_mediatypes,
            output.compression,
            output.force_compression,
            output.compression_level,
        )

    def layer_type(self, compression: Compression) -> str:
        """The layer media type of this family."""
        return (_OCI_LAYERS if self.oci_types else _DOCKER_LAYERS)[compression]


def assemble(
    config: ImageConfig,
    history: Sequence[History],
    layers: Sequence[Layer],
    *,
    base_layers: int,
    now: int,
    epoch: int | None = None,
) -> ImageConfig:
    """Complete a config: diff_ids, the base's history followed by ours, times (O06, O13, O14).

    `config.history` is the base's and stays as it is; `history` are the new entries, of which
    layer entries carry the time their layer was made and others none; `layers` is the whole
    stack and its first `base_layers` are the base's. `now` is used where no time is known.
    With an epoch every new entry has that time, so that cached and fresh builds agree.

    Raises:
        UsageError: more layers than an image can have.
    """
    if len(layers) > MAX_LAYERS:
        msg = f"image has {len(layers)} layers, over the limit of {MAX_LAYERS}"
        raise UsageError(msg, hint="join RUN and COPY steps or copy from a stage into a fresh one")
    base = _fitted(config.history, base_layers)
    added = _fitted(history, len(layers) - base_layers)
    added = (
        [replace(entry, created=rfc3339(epoch)) for entry in added]
        if epoch is not None
        else (_timed(base, added, rfc3339(now)))
    )
    complete = (*base, *added)
    created = next((entry.created for entry in reversed(complete) if entry.created), "")
    return replace(
        config,
        history=complete,
        diff_ids=tuple(layer.diff_id for layer in layers),
        created=_clamped(created or config.created or rfc3339(now), epoch),
    )


def publish(
    config: ImageConfig,
    layers: Sequence[Layer],
    *,
    base_layers: int,
    form: BlobForm,
    content: ContentStore,
    layer_store: LayerStore,
    annotations: Sequence[Annotation] = (),
    rewritten: int | None = None,
    rewritten_from: int = 0,
) -> Image:
    """Write config and manifest of one platform into the content store.

    Layers of the base keep their blobs unless the form forces them (O34); only their media
    type follows the family asked for. `rewritten` is the epoch that the times of the layers
    from `rewritten_from` on were rewritten to (O22).
    """
    blobs = [
        _blob(layer, form, layer_store, keep=index < base_layers and not form.force)
        for index, layer in enumerate(layers)
    ]
    if rewritten is not None and form.oci_types:
        mark = {REWRITTEN: str(rewritten)}
        new = slice(rewritten_from, None)
        blobs[new] = [replace(blob, annotations=mark) for blob in blobs[new]]
    config_type = oci.OCI_CONFIG if form.oci_types else oci.DOCKER_CONFIG
    manifest_type = oci.OCI_MANIFEST if form.oci_types else oci.DOCKER_MANIFEST
    config_blob = _put(content, config.to_json(), config_type)
    on_manifest, on_descriptor = _texts(annotations, config.platform)
    manifest = Manifest(config_blob, tuple(blobs), manifest_type, on_manifest)
    descriptor = _put(content, manifest.to_json(), manifest_type)
    return Image(
        manifest=replace(descriptor, platform=config.platform, annotations=on_descriptor),
        config_blob=config_blob,
        config=config,
        layers=tuple(Layer(blob, layer.diff_id) for blob, layer in zip(blobs, layers, strict=True)),
    )


def publish_index(
    images: Sequence[Image],
    *,
    form: BlobForm,
    content: ContentStore,
    annotations: Sequence[Annotation] = (),
) -> Descriptor:
    """Write the index of several platforms' images; its entries carry platforms (O31).

    Raises:
        UsageError: two images are for the same platform.
    """
    seen: set[str] = set()
    for image in images:
        platform = str(image.config.platform)
        if platform in seen:
            msg = f"platform {platform} is built twice"
            raise UsageError(msg)
        seen.add(platform)
    media_type = oci.OCI_INDEX if form.oci_types else oci.DOCKER_INDEX
    entries = tuple(replace(image.manifest, platform=image.config.platform) for image in images)
    on_index: dict[str, str] = {}
    on_descriptor: dict[str, str] = {}
    if annotations:
        from builder.export.annotation import AnnotationType, texts_for  # noqa: PLC0415 - rare

        # Those of one platform are put on the one index too.
        whole = [replace(annotation, platform=None) for annotation in annotations]
        on_index = texts_for(whole, AnnotationType.INDEX)
        on_descriptor = texts_for(whole, AnnotationType.INDEX_DESCRIPTOR)
    descriptor = _put(content, Index(entries, media_type, on_index).to_json(), media_type)
    return replace(descriptor, annotations=on_descriptor)


def _texts(
    annotations: Sequence[Annotation], platform: Platform
) -> tuple[dict[str, str], dict[str, str]]:
    """What goes on a manifest and on its descriptor."""
    if not annotations:
        return {}, {}
    from builder.export.annotation import AnnotationType, texts_for  # noqa: PLC0415 - rare

    return (
        texts_for(annotations, AnnotationType.MANIFEST, platform),
        texts_for(annotations, AnnotationType.MANIFEST_DESCRIPTOR, platform),
    )


def _fitted(history: Sequence[History], layers: int) -> list[History]:
    """History claiming exactly this many layers (O14).

    Too many claims become empty entries from the end; missing ones are added.
    """
    fitted: list[History] = []
    claimed = 0
    for entry in history:
        if entry.empty_layer or claimed < layers:
            claimed += not entry.empty_layer
            fitted.append(entry)
        else:
            fitted.append(replace(entry, empty_layer=True))
    fitted.extend(History(comment=EXPORTER_COMMENT) for _ in range(layers - claimed))
    return fitted


def _timed(base: Sequence[History], added: Sequence[History], now: str) -> list[History]:
    """Give entries without a time that of the closest earlier one (O13).

    Leading ones take the first new layer's time, so that they do not look as old as the base.
    """
    earlier = next((entry.created for entry in reversed(base) if entry.created), "")
    time = next((entry.created for entry in added if entry.created), "") or earlier or now
    timed: list[History] = []
    for entry in added:
        time = entry.created or time
        timed.append(replace(entry, created=time))
    return timed


def _clamped(created: str, epoch: int | None) -> str:
    if epoch is None:
        return created
    seconds = seconds_of(created)
    # A base may say anything here; what cannot be read cannot be proved to be early enough.
    return created if seconds is not None and seconds <= epoch else rfc3339(epoch)


def _blob(layer: Layer, form: BlobForm, layer_store: LayerStore, *, keep: bool) -> Descriptor:
    present = _COMPRESSION_OF[layer.blob.media_type]
    wanted = present if keep else form.compression
    blob = layer.blob
    relevel = form.force and form.level is not None and wanted is not Compression.UNCOMPRESSED
    if wanted is not present or relevel:
        # Always by the OCI name: the bytes are the same, and the store keeps forms by name.
        blob = layer_store.compressed(layer, _OCI_LAYERS[wanted], form.level)
    # Annotations of a base's descriptor speak about that base's manifest, not about this one.
    return Descriptor(form.layer_type(wanted), blob.digest, blob.size)


def _put(content: ContentStore, data: bytes, media_type: str) -> Descriptor:
    with content.writer() as writer:
        writer.write(data)
        return writer.commit(media_type)
