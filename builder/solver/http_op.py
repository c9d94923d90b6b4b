"""ADD of a URL: fetched, verified against --checksum, kept by content, revalidated by ETag (K21)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from builder.solver.output import FileOutput, Output
from cache.errors import DigestMismatchError, PybuildError
from cache.spec.digest import Digest
from cache.value import value
from frontend.graph import HttpOp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.solver.scheduler import StepLog
    from cache.keys import CacheKey
    from cache.localstore import LocalStore
    from cache.memos import SqliteMemos
    from frontend.graph import Op

MAX_DOWNLOAD = 16 * 1024**3  # bytes of one fetched file
_SECOND = 1_000_000_000
_DOMAIN = "http"
_UNCHANGED = 304


@value
class Fetched:
    """A reply: status 200 or 304 and its validators."""

    status: int
    etag: str
    last_modified: str


class Fetcher(Protocol):
    """Gets URLs."""

    def __call__(
        self,
        url: str,
        sink: Callable[[bytes], object],
        etag: str | None,
        progress: Callable[[str, int, int], None],
    ) -> Fetched:
        """Fetch into a sink; with an etag the reply may be 304 and no bytes."""


class HttpHandler:
    """OpHandler for HttpOp; its output is a file, never a layer, so it has no key."""

    def __init__(self, fetch: Fetcher, store: LocalStore, memos: SqliteMemos) -> None:
        """Keep bodies in the store and validators in the memos."""
        self._fetch = fetch
        self._store = store
        self._memos = memos

    def key(self, op: Op, inputs: Sequence[Output]) -> CacheKey | None:
        """None: what a URL gives is asked anew by every build."""
        del op, inputs
        return None

    def known(self, op: HttpOp) -> FileOutput | None:
        """What a URL with a checksum gave before: the checksum names it, nobody is asked."""
        output, _ = self._remembered(op)
        return output if op.checksum is not None and output is not None else None

    def run(self, op: Op, inputs: Sequence[Output], log: StepLog) -> Output:
        """Fetch, or find unchanged.

        Raises:
            DigestMismatchError: the body does not have the checksum; it is not kept.
        """
        del inputs
        if not isinstance(op, HttpOp):
            raise TypeError(op)
        output, etag = self._remembered(op)
        with self._store.writer() as writer:
            reply = self._fetch(op.url, writer.write, etag or None, log.progress)
            if reply.status == _UNCHANGED and output is not None:
                return output
            try:
                blob = writer.commit("application/octet-stream", op.checksum)
            except DigestMismatchError as error:
                msg = f"digest mismatch for {op.filename}: {error.message}"
                raise DigestMismatchError(msg, hint="check --checksum and the URL") from error
        fresh = FileOutput(blob.digest, blob.size, _mtime(reply.last_modified))
        row = [str(fresh.digest), fresh.size, fresh.mtime, reply.etag]
        self._memos.put(_DOMAIN, _memo_key(op), json.dumps(row).encode())
        return fresh

    def _remembered(self, op: HttpOp) -> tuple[FileOutput | None, str]:
        try:
            digest, size, mtime, etag = json.loads(self._memos.get(_DOMAIN, _memo_key(op)) or b"[]")
            output = FileOutput(Digest.parse(digest), int(size), int(mtime))
        except (ValueError, TypeError, PybuildError):
            return None, ""
        if self._store.size(output.digest) != output.size:
            return None, ""
        if op.checksum is not None and op.checksum != output.digest:
            return None, ""
        return output, str(etag)


def _memo_key(op: HttpOp) -> str:
    return str(Digest.of(op.url.encode("utf-8", "surrogateescape")))


def _mtime(last_modified: str) -> int:
    """Nanoseconds of an HTTP date, 0 when there is none (A04)."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - only after a download

    try:
        return int(parsedate_to_datetime(last_modified).timestamp()) * _SECOND
    except (ValueError, TypeError, OverflowError):
        return 0
