"""`pybuild pull`: fetch an image, layers and all, into the local store."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from builder import interrupt
from builder import state as states
from builder.arguments import parser
from builder.base_images import BaseImages
from builder.options import parse_platform
from builder.remote import Network
from builder.transfer import Bars
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Pull; prints the image ID."""
    options = parser("pull")
    options.add_argument("image")
    options.add_argument("--platform", default="")
    options.add_argument("--insecure-registry", action="append", default=[])
    options.add_argument("-q", "--quiet", action="store_true")
    chosen = options.parse_args(list(argv))
    platform = parse_platform(chosen.platform, environ)
    name = Reference.parse(chosen.image)
    network = Network(environ, tuple(chosen.insecure_registry))
    with (
        states.opened(states.locate(environ, chosen.root), network, network.progress) as state,
        interrupt.raised(),
    ):
        network.origin = state.layers.origin
        bars = Bars("pull", name.familiar, environ, quiet=chosen.quiet)
        images = BaseImages(state, network, pull=True, platform=platform, notice=bars.notice)
        with bars, network.progress.to(bars.progress):
            image = images.fetch(name, platform)
            for layer in image.layers:
                state.layers.ensure(layer.blob)
    sys.stdout.write(f"{image.config_blob.digest}\n")
    return 0
