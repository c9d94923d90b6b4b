"""ADD of a URL: fetched, verified against --checksum, kept by content, revalidated by ETag (K21)."""

from __future__ import annotations

import contextlib
import json

from builder.solver.output import FileOutput, Output
from cache.errors import DigestMismatchError, PybuildError
from cache.hints import TYPE_CHECKING, Protocol
from cache.spec.digest import Digest
from cache.value import value
from frontend.graph import HttpOp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
        authorization: str,
    ) -> Fetched:
        """Fetch into a sink; with an etag the reply may be 304 and no bytes."""


class Validator(Protocol):
    """Asks whether a URL's content is still the one of an ETag."""

    def __call__(self, url: str, etag: str, authorization: str) -> bool:
        """Whether it is; False when that is not known."""


class HttpHandler:
    """OpHandler for HttpOp; its output is a file, never a layer, so it has no key."""

    def __init__(
        self,
        fetch: Fetcher,
        store: LocalStore,
        memos: SqliteMemos,
        secrets: Mapping[str, bytes] | None = None,
        is_unchanged: Validator | None = None,
    ) -> None:
        """Keep bodies in the store and validators in the memos; log in with what is in `secrets`."""
        self._fetch = fetch
        self._store = store
        self._memos = memos
        self._secrets = secrets or {}
        self._is_unchanged = is_unchanged
        self._asked: dict[HttpOp, FileOutput | None] = {}

    def key(self, op: Op, inputs: Sequence[Output]) -> CacheKey | None:
        """None: what a URL gives is asked anew by every build."""
        del op, inputs
        return None

    def known(self, op: HttpOp) -> FileOutput | None:
        """What a URL gave before, if its checksum names it or the server says it still does.

        The server is asked once a build.
        """
        output, etag = self._remembered(op)
        if output is None or op.checksum is not None or self._is_unchanged is None:
            return output if op.checksum is not None else None
        if op not in self._asked:
            same = bool(etag) and self._is_unchanged(op.url, etag, self._authorization(op.url))
            self._asked[op] = output if same else None
        return self._asked[op]

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
            authorization = self._authorization(op.url)
            reply = self._fetch(op.url, writer.write, etag or None, log.progress, authorization)
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

    def _authorization(self, url: str) -> str:
        """What the build's secrets say for a URL's host; a token before a header (A06)."""
        if not self._secrets:
            return ""
        from urllib.parse import urlsplit  # noqa: PLC0415 - few builds log in

        with contextlib.suppress(ValueError):
            host = urlsplit(url).hostname or ""
            token = self._secrets.get(f"HTTP_AUTH_TOKEN_{host}")
            header = self._secrets.get(f"HTTP_AUTH_HEADER_{host}", b"")
            value = header if token is None else b"Bearer " + token
            return value.rstrip(b"\r\n").decode("latin-1")
        return ""

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
    from calendar import timegm  # noqa: PLC0415 - only after a download
    from email.utils import parsedate  # noqa: PLC0415 - the same

    # In GMT, or the form of asctime, which ends with the year and means GMT.
    if not last_modified.endswith("GMT") and not last_modified[-5:].replace(" ", "0").isdigit():
        return 0
    try:
        parts = parsedate(last_modified)
        return 0 if parts is None else timegm(parts) * _SECOND
    except (ValueError, TypeError, OverflowError):
        return 0
