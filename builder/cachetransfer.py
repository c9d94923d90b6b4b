"""Cache images in registries and OCI layouts: read before a build, written after it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from builder.cacheimage import ImportedRecords, Known, config_of, known_of
from builder.export.exporter import BlobForm, publish
from builder.export.output import Compression
from cache.errors import PybuildError
from cache.spec.reference import Reference
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from builder.remote import Network
    from builder.request import BuildRequest, CachePlace
    from builder.state import State
    from cache.records import LayerCache, Record
    from cache.spec.digest import Digest
    from cache.spec.manifest import Image
    from cache.spec.oci import Platform


def imported(
    request: BuildRequest, state: State, network: Network, notice: Callable[[str], None]
) -> LayerCache:
    """The records of a state, and those of --cache-from; an image that cannot be had is told of."""

    def load() -> Mapping[Digest, Known]:
        known: dict[Digest, Known] = {}
        for place in request.cache_from:
            notice(f"importing cache from {place.place}")
            try:
                image = _image(place, request.platform, state, network)
                repository = "" if place.local else Reference.parse(place.place).name
                known = {**known_of(image, repository), **known}
            except PybuildError as error:
                notice(f"warning: no cache from {place.place}: {error.message}")
        return known

    def found(known: Known) -> None:
        if known.repository and not state.layers.has(known.layer):
            state.layers.remember_origin([known.layer.blob], known.repository)

    return ImportedRecords(state.records, state.layers.has, load, found)


def _image(place: CachePlace, platform: Platform, state: State, network: Network) -> Image:
    if not place.local:
        return network.fetch(Reference.parse(place.place), platform)[0]
    from builder.layout_images import layout_image  # noqa: PLC0415 - rarely used

    tag = place.tag if place.tag.startswith("@") else f":{place.tag}"
    return layout_image(f"oci-layout://{place.place}{tag}", platform, state.store)


def write_cache(
    place: CachePlace,
    records: Iterable[Record],
    platform: Platform,
    state: State,
    network: Network,
    progress: Callable[[str, int, int], None],
) -> None:
    """Write what steps gave to a place of --cache-to.

    Raises:
        PybuildError: it cannot be written there.
    """
    config, layers = config_of(records, platform)
    image = publish(
        config,
        layers,
        base_layers=0,
        form=BlobForm(place.oci_types, Compression(place.compression), place.force, place.level),
        content=state.store,
        layer_store=state.layers,
    )
    if not place.local:
        from builder.pushing import push  # noqa: PLC0415 - only when asked

        push(state, network, (image,), None, Reference.parse(place.place), progress)
        return
    from builder.export.layout import REF_NAME, bundle, write_directory  # noqa: PLC0415 - likewise

    content = bundle((image,), ())
    entry = replace(content.entries[0], annotations={REF_NAME: place.tag or "latest"})
    write_directory(replace(content, entries=(entry,)), state.layers, os.path.abspath(place.place))
