"""Which directory holds the committed tree of which chain, in the store's database."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cache.database import Database
    from cache.spec.digest import Digest


SINGLE = "single "  # trees whose files all belong to one id, whatever the layers say


class SqliteSnapshotNames:
    """Chain IDs to directory names; every method is one statement or transaction."""

    def __init__(self, database: Database, kind: str = "") -> None:
        """Use an open database; trees of one kind are not found as those of another."""
        self._database = database
        self._kind = kind

    def get(self, chain: Digest) -> str | None:
        """Name of a chain's tree, None when there is none."""
        rows = self._database.rows(
            "SELECT name FROM snapshots WHERE chain = ?", (self._kind + str(chain),)
        )
        return str(rows[0][0]) if rows else None

    def put(self, chain: Digest, name: str) -> str:
        """Name a complete tree; the first name put wins and is returned."""
        with self._database.transaction():
            self._database.rows(
                "INSERT INTO snapshots VALUES (?, ?) ON CONFLICT (chain) DO NOTHING",
                (self._kind + str(chain), name),
            )
            rows = self._database.rows(
                "SELECT name FROM snapshots WHERE chain = ?", (self._kind + str(chain),)
            )
        return str(rows[0][0])

    def remove(self, chain: Digest) -> None:
        """Forget a chain."""
        self._database.rows("DELETE FROM snapshots WHERE chain = ?", (self._kind + str(chain),))

    def replace(self, chain: Digest, before: str, after: str | None) -> bool:
        """Note something else, or nothing, if it still is `before`; whether it was."""
        with self._database.transaction():
            if self.get(chain) != before:
                return False
            if after is None:
                self.remove(chain)
            else:
                self._database.rows(
                    "UPDATE snapshots SET name = ? WHERE chain = ?",
                    (after, self._kind + str(chain)),
                )
        return True

    def holds(self, name: str) -> bool:
        """Whether any chain has this name, with a note after a space or without."""
        return bool(
            self._database.rows(
                "SELECT 1 FROM snapshots WHERE name = ?1"
                " OR substr(name, 1, length(?1) + 1) = ?1 || ' '",
                (name,),
            )
        )
