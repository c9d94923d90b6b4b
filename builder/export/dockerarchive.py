"""type=docker: an OCI layout that docker and podman can load too, by its manifest.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.export.layout import blob_path, bundle
from cache.spec.oci import canonical_json
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.export.layout import Bundle
    from cache.spec.manifest import Image
    from cache.spec.oci import Descriptor
    from cache.spec.reference import Reference

MANIFEST_FILE = "manifest.json"


def docker_bundle(
    images: Sequence[Image],
    names: Sequence[Reference],
    *,
    index: Descriptor | None = None,
    created: str = "",
) -> Bundle:
    """Say what a docker archive of an image holds.

    Raises:
        UsageError: several platforms, which the format has no place for.
    """
    if index is not None or len(images) != 1:
        msg = "docker exporter does not currently support exporting manifest lists"
        raise UsageError(msg, hint="use type=oci, or build one platform")
    (image,) = images
    document = [
        {
            "Config": blob_path(image.config_blob),
            "RepoTags": [name.familiar for name in names] or None,
            "Layers": [blob_path(layer.blob) for layer in image.layers],
        }
    ]
    documents = ((MANIFEST_FILE, canonical_json(document)),)
    return replace(bundle(images, names, created=created), documents=documents)
