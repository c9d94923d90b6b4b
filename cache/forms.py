"""Which compressed forms of a layer there are: rows that name blobs of the store.

A row may outlive its blob, which is looked for each time. Must not know how forms are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.spec.digest import Digest
from cache.spec.oci import Descriptor

if TYPE_CHECKING:
    from cache.database import Database
    from cache.localstore import LocalStore


class Forms:
    """Descriptors by diff_id and the name of a form: a media type, and a level that was asked for."""

    def __init__(self, store: LocalStore, database: Database) -> None:
        """Look blobs up in `store`."""
        self._store = store
        self._database = database

    def find(self, diff_id: Digest, form: str) -> Descriptor | None:
        """One form of a layer, if it is stored."""
        return next((found for name, found in self._stored(diff_id) if name == form), None)

    def first(self, diff_id: Digest) -> Descriptor | None:
        """Any form that the layer's tar can be made from."""
        return next((found for _, found in self._stored(diff_id)), None)

    def keep(self, diff_id: Digest, form: str, blob: Descriptor) -> None:
        """Remember a form whose blob is stored."""
        self._database.rows(
            "INSERT OR REPLACE INTO forms VALUES (?, ?, ?, ?)",
            (str(diff_id), form, str(blob.digest), blob.size),
        )

    def _stored(self, diff_id: Digest) -> list[tuple[str, Descriptor]]:
        rows = self._database.rows(
            "SELECT media_type, digest, size FROM forms WHERE diff_id = ?", (str(diff_id),)
        )
        found = []
        for form, digest_text, size in rows:
            digest = Digest.parse(str(digest_text))
            if isinstance(size, int) and self._store.size(digest) == size:
                media_type = str(form).partition(";")[0]
                found.append((str(form), Descriptor(media_type, digest, size)))
        return found
