"""Sending an image or an index of the store to a registry, by whatever name."""

from __future__ import annotations

from cache.hints import TYPE_CHECKING
from cache.spec.manifest import Manifest
from cache.spec.oci import MAX_DOCUMENT
from cache.spec.reference import Reference
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.remote import Network
    from builder.state import State
    from cache.spec.digest import Digest
    from cache.spec.manifest import Image
    from cache.spec.oci import Descriptor


def push(
    state: State,
    network: Network,
    images: Sequence[Image],
    index: Descriptor | None,
    name: Reference,
    progress: Callable[[str, int, int], None],
) -> Digest:
    """Send what the registry lacks, then the manifest, or the index of several, under the tag.

    A name without a tag is pushed by digest only. Nothing is sent when the name already stands
    for the very same.

    Raises:
        RegistryError: refused or broken; the tag is then where it was.
    """
    root = images[0].manifest if index is None else index
    if network.client.pusher(name, state.layers, progress).holds(root):
        progress(str(root.digest), root.size, root.size)
        return root.digest
    if index is None:
        return _push_image(state, network, images[0], name, progress)
    unnamed = replace(name, tag=None, digest=None)
    for image in images:
        _push_image(state, network, image, unnamed, progress)
    pusher = network.client.pusher(name, state.layers, progress)
    return pusher.manifest(_document(state, index), index.media_type, name.tag).digest


def _push_image(
    state: State,
    network: Network,
    image: Image,
    name: Reference,
    progress: Callable[[str, int, int], None],
) -> Digest:
    """Send an image; layers known to come from a repository of the same registry are mounted."""
    manifest = _document(state, image.manifest)
    document = Manifest.from_json(manifest, image.manifest.media_type)
    blobs = (*document.layers, document.config)
    origins = {blob.digest: state.layers.origin(blob.digest) for blob in document.layers}
    mount_from = {
        digest: Reference.parse(origin)
        for digest, origin in origins.items()
        if origin is not None and Reference.parse(origin).registry == name.registry
    }
    network.settle({blob.digest for blob in blobs}, progress)
    pushed: Descriptor = network.client.push_image(
        name, manifest, image.manifest.media_type, blobs, state.layers, mount_from, progress
    )
    state.layers.remember_origin(document.layers, name.name)
    return pushed.digest


def _document(state: State, descriptor: Descriptor) -> bytes:
    with state.store.open(descriptor) as stream:
        return stream.read(MAX_DOCUMENT + 1)
