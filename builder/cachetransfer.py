"""Cache images in registries and OCI layouts: read before a build, written after it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from builder.cacheimage import (
    Contents,
    ImportedRecords,
    Known,
    SharedSelections,
    config_of,
    contents_of,
)
from builder.export.exporter import BlobForm, publish
from builder.export.output import Compression
from cache.errors import PybuildError
from cache.spec.reference import Reference
from cache.statcache import StoredStatCache
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from builder.remote import Network
    from builder.request import BuildRequest, CachePlace
    from builder.state import State
    from cache.records import LayerCache, Record
    from cache.spec.digest import Digest
    from cache.spec.manifest import Image
    from cache.spec.oci import Platform


@value
class SharedCache:
    """Records and selections: ours, and those of the images of --cache-from."""

    records: LayerCache
    selections: SharedSelections


def shared_cache(
    request: BuildRequest, state: State, network: Network, notice: Callable[[str], None]
) -> SharedCache:
    """What is ours and what is shared; the images are read when something is not ours.

    An image that cannot be had is told of.
    """
    images = _Images(request, state, network, notice)

    def found(known: Known) -> None:
        if known.repository and not state.layers.has(known.layer):
            state.layers.remember_origin([known.layer.blob], known.repository)

    return SharedCache(
        ImportedRecords(state.records, state.layers.has, images.contents, found),
        SharedSelections(StoredStatCache(state.memos), images.contents),
    )


class _Images:
    """The images of --cache-from, read once and together; an earlier one has the last word."""

    def __init__(
        self, request: BuildRequest, state: State, network: Network, notice: Callable[[str], None]
    ) -> None:
        self._places = request.cache_from
        self._platform = request.platform
        self._state = state
        self._network = network
        self._notice = notice
        self._lock = threading.Lock()
        self._contents: Contents | None = None

    def contents(self) -> Contents:
        """Everything they know."""
        with self._lock:
            if self._contents is None:
                self._contents = self._read()
            return self._contents

    def _read(self) -> Contents:
        known: dict[Digest, Known] = {}
        selections: dict[bytes, bytes] = {}
        for place in reversed(self._places):
            self._notice(f"importing cache from {place.place}")
            repository = "" if place.local else Reference.parse(place.place).name
            try:
                contents = contents_of(
                    _image(place, self._platform, self._state, self._network), repository
                )
            except PybuildError as error:
                self._notice(f"warning: no cache from {place.place}: {error.message}")
                continue
            known.update(contents.known)
            selections.update(contents.selections)
        return Contents(known, selections)


def _image(place: CachePlace, platform: Platform, state: State, network: Network) -> Image:
    if not place.local:
        return network.fetch(Reference.parse(place.place), platform)[0]
    from builder.layout_images import layout_image  # noqa: PLC0415 - rarely used

    tag = place.tag if place.tag.startswith("@") else f":{place.tag}"
    return layout_image(f"oci-layout://{place.place}{tag}", platform, state.store)


def write_cache(
    place: CachePlace,
    records: Iterable[Record],
    selections: Mapping[bytes, bytes],
    platform: Platform,
    state: State,
    network: Network,
    progress: Callable[[str, int, int], None],
) -> None:
    """Write what steps gave to a place of --cache-to.

    Raises:
        PybuildError: it cannot be written there.
    """
    config, layers = config_of(records, selections, platform)
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
