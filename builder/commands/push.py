"""`pybuild push`: send a local image to a registry, under its own or another name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from builder import interrupt
from builder import state as states
from builder.arguments import parser
from builder.export.exporter import BlobForm, publish
from builder.export.output import Compression
from builder.local_image import find
from builder.options import parse_tag
from builder.pushing import push
from builder.remote import Network
from builder.transfer import Bars

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache.spec.manifest import Image


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
        states.opened(states.locate(environ), network, network.progress) as state,
        interrupt.raised(),
    ):
        network.origin = state.layers.origin
        image = find(state, chosen.image)
        bars = Bars("push", name.familiar, environ, quiet=chosen.quiet)
        with bars, network.progress.to(bars.progress):
            ready = _compressed(state, image, Compression(chosen.compression))
            digest = push(state, network, ready, name, bars.progress)
    sys.stdout.write(f"{name}@{digest}\n")
    return 0


def _compressed(state: states.State, image: Image, compression: Compression) -> Image:
    """Give layers that are stored uncompressed the form a registry should get.

    An image all of whose layers are compressed already goes out byte for byte as it is.
    """
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
    )
