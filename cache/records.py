"""Records: what a step gave, by cache key; written last, so that they never lie."""

from __future__ import annotations

import json
import time

from cache.errors import CorruptRecordError, PybuildError
from cache.hints import TYPE_CHECKING, Protocol
from cache.keys import CacheKey
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor, Layer
from cache.value import value

if TYPE_CHECKING:
    from cache.database import Database


@value
class Record:
    """A step's result. `slot` names the step across builds (for explanations), `created` is RFC 3339."""

    key: CacheKey
    output: Digest
    layer: Layer | None
    created: str
    slot: str


class LayerCache(Protocol):
    """Records by key."""

    def get(self, key: CacheKey) -> Record | None:
        """Look a key up; a damaged row is a miss."""

    def put(self, record: Record) -> None:
        """Remember a result, replacing an older one of the same key."""

    def latest(self, slot: str) -> Record | None:
        """The newest record of a step, whatever its key."""

    def forget(self, key: CacheKey) -> None:
        """Drop a record whose content is gone."""


class SqliteRecords:
    """LayerCache in the store's database."""

    def __init__(self, database: Database) -> None:
        """Use an open database."""
        self._database = database

    def get(self, key: CacheKey) -> Record | None:
        """Look a key up."""
        rows = self._database.rows(
            "SELECT parts, output, layer, created, slot FROM records WHERE key = ?",
            (str(key.digest),),
        )
        record = _decode(rows)
        return record if record is not None and record.key == key else None

    def put(self, record: Record) -> None:
        """Insert or replace in one transaction."""
        self._database.rows(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                str(record.key.digest),
                record.key.to_json(),
                str(record.output),
                layer_json(record.layer),
                record.created,
                record.slot,
                time.time_ns(),
            ),
        )

    def latest(self, slot: str) -> Record | None:
        """Newest of a slot."""
        rows = self._database.rows(
            "SELECT parts, output, layer, created, slot FROM records WHERE slot = ?"
            " ORDER BY used DESC LIMIT 1",
            (slot,),
        )
        return _decode(rows)

    def forget(self, key: CacheKey) -> None:
        """Delete."""
        self._database.rows("DELETE FROM records WHERE key = ?", (str(key.digest),))


def layer_json(layer: Layer | None) -> str | None:
    """Encode a layer for a row."""
    if layer is None:
        return None
    blob = layer.blob
    return json.dumps([blob.media_type, str(blob.digest), blob.size, str(layer.diff_id)])


def layer_from(text: str) -> Layer:
    """Decode a row's layer.

    Raises:
        CorruptRecordError: malformed.
    """
    try:
        media_type, digest, size, diff_id = json.loads(text)
        blob = Descriptor(str(media_type), Digest.parse(digest), int(size))
        return Layer(blob, Digest.parse(diff_id))
    except (ValueError, TypeError, AttributeError, PybuildError) as error:
        msg = "cache record with a malformed layer"
        raise CorruptRecordError(msg) from error


def _decode(rows: list[tuple[object, ...]]) -> Record | None:
    if not rows:
        return None
    parts, output, layer, created, slot = rows[0]
    try:
        return Record(
            key=CacheKey.from_json(str(parts)),
            output=Digest.parse(str(output)),
            layer=None if layer is None else layer_from(str(layer)),
            created=str(created),
            slot=str(slot),
        )
    except PybuildError:
        return None  # a damaged row is a miss: the step runs again and replaces it
