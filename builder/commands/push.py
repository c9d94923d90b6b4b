"""`pybuild push`: send a local image to a registry, under its own or another name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from builder import interrupt
from builder import state as states
from builder.arguments import parser
from builder.export.annotation import Annotation, AnnotationType
from builder.export.exporter import BlobForm, publish
from builder.export.output import Compression
from builder.local_image import find
from builder.options import parse_tag
from builder.pushing import push
from builder.remote import Network
from builder.transfer import Bars
from cache.spec.manifest import Index, Manifest
from cache.spec.oci import MAX_DOCUMENT
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache.images import Stored
    from cache.spec.manifest import Image
    from cache.spec.oci import Descriptor


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Push; prints the name with the digest it has there."""
    options = parser("push")
    options.add_argument("image")
    options.add_argument("destination", nargs="?")
    options.add_argument("--compression", choices=[c.value for c in Compression], default="gzip")
    options.add_argument("--insecure-registry", action="append", default=[])
    options.add_argument("-q", "--quiet", action="store_true")
    chosen = options.parse_args(list(argv))
    name = parse_tag(chosen.destination or chosen.image)
    network = Network(environ, tuple(chosen.insecure_registry))
    with (
        states.opened(states.locate(environ, chosen.root), network, network.progress) as state,
        interrupt.raised(),
    ):
        network.origin = state.layers.origin
        stored = find(state, chosen.image)
        bars = Bars("push", name.familiar, environ, quiet=chosen.quiet)
        with bars, network.progress.to(bars.progress):
            images, index = _compressed(state, stored, Compression(chosen.compression))
            digest = push(state, network, images, index, name, bars.progress)
    sys.stdout.write(f"{name}@{digest}\n")
    return 0


def _compressed(
    state: states.State, stored: Stored, compression: Compression
) -> tuple[tuple[Image, ...], Descriptor | None]:
    """Give layers that are stored uncompressed the form a registry should get.

    What is compressed already goes out byte for byte as it is.
    """
    images = tuple(_image(state, image, compression) for image in stored.images)
    if stored.index is None or images == stored.images:
        return images, stored.index
    with state.store.open(stored.index) as stream:
        document = Index.from_json(stream.read(MAX_DOCUMENT + 1), stored.index.media_type)
    entries = tuple(image.manifest for image in images)
    data = replace(document, manifests=entries).to_json()
    with state.store.writer() as writer:
        writer.write(data)
        return images, writer.commit(document.media_type)


def _image(state: states.State, image: Image, compression: Compression) -> Image:
    plain = [layer.blob.digest == layer.diff_id for layer in image.layers]
    if not any(plain):
        return image
    return publish(
        image.config,
        image.layers,
        base_layers=plain.index(True),
        form=BlobForm(compression=compression),
        content=state.store,
        layer_store=state.layers,
        annotations=_annotations(state, image),
    )


def _annotations(state: states.State, image: Image) -> list[Annotation]:
    """What the image is annotated with, to be kept in the new form."""
    with state.store.open(image.manifest) as stream:
        document = Manifest.from_json(stream.read(MAX_DOCUMENT + 1), image.manifest.media_type)
    kept = [
        (AnnotationType.MANIFEST, document.annotations),
        (AnnotationType.MANIFEST_DESCRIPTOR, image.manifest.annotations),
    ]
    return [Annotation(type_, *pair) for type_, texts in kept for pair in texts.items()]
