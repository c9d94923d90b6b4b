"""`pybuild inspect`: an image's config, manifest and layers as JSON."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from builder import state as states
from builder.arguments import parser
from builder.local_image import find
from builder.options import local_platform
from cache.spec.manifest import descriptor_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache.images import Stored


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print one JSON list with an object for each image named."""
    options = parser("inspect")
    options.add_argument("image", nargs="+")
    chosen = options.parse_args(list(argv))
    documents = []
    with states.opened(states.locate(environ, chosen.root)) as state:
        tagged = {named.manifest.digest: named.names for named in state.images.list()}
        for name in chosen.image:
            stored = find(state, name)
            image = stored.choose(local_platform())
            config = json.loads(image.config.to_json())
            documents.append(
                {
                    "Id": str(stored.id),
                    "Names": list(tagged.get(stored.root.digest, ())),
                    **_index(stored),
                    "Manifest": descriptor_json(image.manifest),
                    "Layers": [descriptor_json(layer.blob) for layer in image.layers],
                    **config,
                }
            )
    sys.stdout.write(json.dumps(documents, indent=2) + "\n")
    return 0


def _index(stored: Stored) -> dict[str, object]:
    """What an index adds; the rest of the object is about this machine's image of it."""
    if stored.index is None:
        return {}
    platforms = [str(image.config.platform) for image in stored.images]
    return {"Index": descriptor_json(stored.index), "Platforms": platforms}
