"""What steps gave, as an image: their layers, and in a label which cache key has which of them.

An image, so that every registry takes it and layers are fetched only when something needs
them. The label tells as well what was selected of trees that only layers make, so that a COPY of
a stage is known without that stage. Keys are kept as digests: what a step was made of is not
told. Owns the label's text and both directions; where such an image lies is the caller's business.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.export.timestamp import seconds_of
from cache.errors import InvalidDocumentError, PybuildError
from cache.records import Record
from cache.spec.config import ImageConfig
from cache.spec.digest import Digest
from cache.spec.manifest import MAX_LAYERS
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from builder.context.memo import SelectionCache
    from cache.keys import CacheKey
    from cache.records import LayerCache
    from cache.spec.manifest import Image
    from cache.spec.oci import Layer, Platform

LABEL = "org.pybuild.cache.v1"
MAX_RECORDS = 10_000  # of one image; a row takes some 170 bytes of a config, which may have 4 MiB


@value
class Known:
    """What a step gave elsewhere. `repository` is where its layer can be had, "" when it is here."""

    output: Digest
    layer: Layer
    created: str
    repository: str = ""


@value
class Contents:
    """What an image of a cache knows: by the digest of a key, and of selections by fingerprint."""

    known: Mapping[Digest, Known]
    selections: Mapping[bytes, bytes]


def config_of(
    records: Iterable[Record], selections: Mapping[bytes, bytes], platform: Platform
) -> tuple[ImageConfig, list[Layer]]:
    """The config of a cache image and its layers, each once.

    Raises:
        UsageError: more layers or records than an image can have.
    """
    places: dict[Digest, int] = {}
    layers: list[Layer] = []
    rows = []
    for record in sorted(records, key=lambda record: str(record.key.digest)):
        if record.layer is None:
            continue
        if record.layer.diff_id not in places:
            places[record.layer.diff_id] = len(layers)
            layers.append(record.layer)
        place = places[record.layer.diff_id]
        rows.append([record.key.digest.hex, place, record.output.hex, record.created])
    if len(layers) > MAX_LAYERS or len(rows) > MAX_RECORDS or len(selections) > MAX_RECORDS:
        msg = f"the cache of this build has {len(layers)} layers, over the limit of {MAX_LAYERS}"
        raise UsageError(msg, hint="write it with mode=min")
    selected = [[key.hex(), selections[key].hex()] for key in sorted(selections)]
    text = json.dumps({"keys": rows, "selections": selected}, separators=(",", ":"))
    diff_ids = tuple(layer.diff_id for layer in layers)
    return ImageConfig(platform, labels=((LABEL, text),), diff_ids=diff_ids), layers


def contents_of(image: Image, repository: str) -> Contents:
    """What an image of a cache knows.

    Raises:
        InvalidDocumentError: the image is none, or its label is malformed.
    """
    text = dict(image.config.labels).get(LABEL)
    if text is None:
        msg = "this image holds no cache of pybuild's"
        raise InvalidDocumentError(msg, hint="write one with --cache-to")
    try:
        document = json.loads(text)
        return Contents(
            dict(_known(row, image.layers, repository) for row in _rows(document, "keys")),
            dict(_selection(row) for row in _rows(document, "selections")),
        )
    except (ValueError, TypeError, RecursionError, PybuildError) as error:
        msg = f"the label {LABEL} of this image is malformed"
        raise InvalidDocumentError(msg) from error


def _rows(document: object, name: str) -> list[object]:
    if not isinstance(document, dict):
        raise TypeError
    rows = document.get(name, [])
    if not isinstance(rows, list) or len(rows) > MAX_RECORDS:
        raise ValueError
    return rows


def _known(row: object, layers: Sequence[Layer], repository: str) -> tuple[Digest, Known]:
    if not isinstance(row, list):
        raise TypeError
    key, place, output, created = row
    if not (isinstance(place, int) and 0 <= place < len(layers) and isinstance(created, str)):
        raise ValueError
    if created and seconds_of(created) is None:
        raise ValueError
    known = Known(Digest("sha256", output), layers[place], created, repository)
    return Digest("sha256", key), known


def _selection(row: object) -> tuple[bytes, bytes]:
    if not isinstance(row, list):
        raise TypeError
    fingerprint, content = (bytes.fromhex(Digest("sha256", text).hex) for text in row)
    return fingerprint, content


class ImportedRecords:
    """Our own records, and for what they lack those of cache images (implements LayerCache)."""

    def __init__(
        self,
        own: LayerCache,
        has: Callable[[Layer], bool],
        contents: Callable[[], Contents],
        found: Callable[[Known], None],
    ) -> None:
        """`contents` is asked when something is looked up that is not ours; `found` hears of hits."""
        self._own = own
        self._has = has
        self._contents = contents
        self._found = found

    def get(self, key: CacheKey) -> Record | None:
        """Look a key up; what an image knows becomes a record of ours."""
        record = self._own.get(key)
        if record is not None and record.layer is not None and self._has(record.layer):
            return record
        known = self._contents().known.get(key.digest)
        if known is None:
            return record
        self._found(known)
        record = Record(key, known.output, known.layer, known.created, "")
        self._own.put(record)
        return record

    def put(self, record: Record) -> None:
        """Remember."""
        self._own.put(record)

    def latest(self, slot: str) -> Record | None:
        """Newest of a slot."""
        return self._own.latest(slot)

    def forget(self, key: CacheKey) -> None:
        """Drop."""
        self._own.forget(key)


class SharedSelections:
    """Memos of a state, and for what it lacks those of cache images (implements SelectionCache).

    What an image says of a tree is believed for the build that named it, and not kept.
    """

    def __init__(self, own: SelectionCache, contents: Callable[[], Contents]) -> None:
        """`contents` is asked when something is looked up that is not ours."""
        self._own = own
        self._contents = contents
        self.used: dict[bytes, bytes] = {}

    def selection(self, fingerprint: bytes, /) -> bytes | None:
        """Look a selection up."""
        found = self._own.selection(fingerprint)
        if found is None:
            found = self._contents().selections.get(fingerprint)
        if found is not None:
            self.used[fingerprint] = found
        return found

    def put_selection(self, fingerprint: bytes, digest: bytes, /) -> None:
        """Remember a selection."""
        self.used[fingerprint] = digest
        self._own.put_selection(fingerprint, digest)
