"""The one sqlite file of a store: schema, connection, transactions. Knows no meaning of rows."""

from __future__ import annotations

import contextlib
import os
import threading

from cache.errors import StoreError
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

try:
    import _sqlite3 as sqlite3  # the same without types for dates, which take longer to load
except ImportError:
    import sqlite3  # type: ignore[no-redef] # the same names

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE records (key TEXT PRIMARY KEY, parts TEXT NOT NULL, output TEXT NOT NULL,
  layer TEXT, created TEXT NOT NULL, slot TEXT NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX records_slot ON records (slot, used);
CREATE TABLE forms (diff_id TEXT, media_type TEXT, digest TEXT NOT NULL, size INTEGER NOT NULL,
  PRIMARY KEY (diff_id, media_type)) WITHOUT ROWID;
CREATE TABLE origins (digest TEXT PRIMARY KEY, reference TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshots (chain TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE names (name TEXT PRIMARY KEY, image TEXT NOT NULL, updated INTEGER NOT NULL)
  WITHOUT ROWID;
CREATE TABLE images (digest TEXT PRIMARY KEY, manifest TEXT NOT NULL, created INTEGER NOT NULL)
  WITHOUT ROWID;
CREATE TABLE memos (domain TEXT, key TEXT, value BLOB NOT NULL, used INTEGER NOT NULL,
  PRIMARY KEY (domain, key)) WITHOUT ROWID;
"""
_BUSY_SECONDS = 30.0
_ELSEWHERE = "name another state directory with --root or PYBUILD_ROOT"
_ROOM = "free some space or run `pybuild prune`"
_REPAIR = "it is damaged: `pybuild prune --all` starts a new one, without the names of images"
_ADVICE = {
    sqlite3.SQLITE_CORRUPT: _REPAIR,
    sqlite3.SQLITE_NOTADB: _REPAIR,
    sqlite3.SQLITE_FULL: _ROOM,
    sqlite3.SQLITE_IOERR: f"{_ROOM}; `ulimit -f` may forbid large files",
    sqlite3.SQLITE_BUSY: "wait for the other builds to end",
}
_UNUSABLE = f"it must be a file that you can write to: move it away, or {_ELSEWHERE}"
_KIND = 0xFF  # of a code that says more


class Database:
    """A connection shared by the threads of one build, one statement or transaction at a time."""

    def __init__(self, path: str) -> None:
        """Open or create.

        Raises:
            StoreError: unreadable, damaged, or written by a newer pybuild.
        """
        self._path = path
        self._lock = threading.RLock()
        with self._mapped():
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._prepare()

    def _prepare(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            msg = f"the store {self._path} was written by a newer pybuild (schema {version})"
            raise StoreError(msg, hint=f"use that version, or {_ELSEWHERE}")
        if version == 0:
            self._connection.execute("PRAGMA journal_mode=WAL")
            with self.transaction():
                if self._connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _SCHEMA.split(";"):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        # A power cut may lose the newest rows, never their order after the blobs they name.
        self._connection.execute("PRAGMA synchronous=NORMAL")

    def rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """Run one statement and fetch everything."""
        with self._lock, self._mapped():
            return self._connection.execute(statement, parameters).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Group statements of this thread: all or nothing."""
        with self._lock, self._mapped():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close; idempotent."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            msg = f"the store's database {self._path} failed: {error}"
            kind = getattr(error, "sqlite_errorcode", 0) & _KIND
            raise StoreError(msg, hint=_ADVICE.get(kind, _UNUSABLE)) from error


def drop_damaged(path: str) -> bool:
    """Delete a database that cannot be read, and say whether it was one; nobody may use it.

    Raises:
        StoreError: it cannot be deleted.
    """
    if not os.path.lexists(path):
        return False
    try:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                return False
    except sqlite3.Error:
        pass  # no database, or a directory or a closed file in its place
    try:
        for name in (path, f"{path}-wal", f"{path}-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    except OSError as error:
        msg = f"cannot delete the damaged database {path}: {error.strerror}"
        raise StoreError(msg, hint="delete it by hand") from error
    return True
