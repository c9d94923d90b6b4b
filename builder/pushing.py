"""Sending an image of the store to a registry, by whatever name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.spec.manifest import Manifest
from cache.spec.oci import MAX_DOCUMENT, Descriptor
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.remote import Network
    from builder.state import State
    from cache.spec.digest import Digest
    from cache.spec.manifest import Image


def push(
    state: State,
    network: Network,
    image: Image,
    name: Reference,
    progress: Callable[[str, int, int], None],
) -> Digest:
    """Send what the registry lacks, then the manifest under the name's tag.

    Layers known to come from a repository of the same registry are mounted from there.

    Raises:
        RegistryError: refused or broken; the tag is then where it was.
    """
    with state.store.open(image.manifest) as stream:
        manifest = stream.read(MAX_DOCUMENT + 1)
    document = Manifest.from_json(manifest, image.manifest.media_type)
    blobs = (*document.layers, document.config)
    origins = {blob.digest: state.layers.origin(blob.digest) for blob in document.layers}
    mount_from = {
        digest: Reference.parse(origin)
        for digest, origin in origins.items()
        if origin is not None and Reference.parse(origin).registry == name.registry
    }
    pushed: Descriptor = network.client.push_image(
        name, manifest, image.manifest.media_type, blobs, state.layers, mount_from, progress
    )
    state.layers.remember_origin(document.layers, name.name)
    return pushed.digest
