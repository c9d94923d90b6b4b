"""Memos: remembered answers to pure questions (stat fingerprints, tree digests, URL validators)."""

from __future__ import annotations

import time

from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from cache.database import Database

KEPT_PER_DOMAIN = 4096


class SqliteMemos:
    """Byte values by (domain, key); losing one costs time, never correctness."""

    def __init__(self, database: Database) -> None:
        """Use an open database."""
        self._database = database

    def get(self, domain: str, key: str) -> bytes | None:
        """Look up."""
        rows = self._database.rows(
            "SELECT value FROM memos WHERE domain = ? AND key = ?", (domain, key)
        )
        return bytes(rows[0][0]) if rows and isinstance(rows[0][0], bytes) else None

    def put(self, domain: str, key: str, value: bytes) -> None:
        """Remember, replacing."""
        self._database.rows(
            "INSERT OR REPLACE INTO memos VALUES (?, ?, ?, ?)", (domain, key, value, time.time_ns())
        )
