"""Files from http(s) URLs, for ADD and remote contexts.

Owns the conditional request and what is refused (B17). Verifies no checksum: who knows one
wraps the sink.
"""

from __future__ import annotations

import base64
import re
from contextlib import closing
from urllib.parse import quote, unquote

from builder.errors import RegistryError
from builder.registry.location import Location
from builder.registry.retry import TEMPORARY, Retry, TemporaryError, retry_after
from builder.registry.transport import Request, Transport
from cache.hints import TYPE_CHECKING
from cache.value import replace, state, value

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from builder.registry.reply import Reply

_STEP = 256 * 1024
_GZIP = "gzip"
_OK = 200
# What is not an error holds a file; redirects and 304 are seen before.
_SUCCESS = frozenset(range(200, 400))
_DENIED = (401, 403)
_PARTIAL = 206
_NOT_MODIFIED = 304
_MAX_RESUMES = 20  # broken connections that one file survives
_MAX_TAG = 1024  # characters of an ETag or date that are kept
_BEYOND = re.compile(r"[ \u0080-\U0010ffff]")
_BAD_ESCAPE = re.compile(r"\A[^?#]*%(?![0-9A-Fa-f]{2})")
_USERINFO = re.compile(r"\A(https?://)([^/?#]*)@", re.IGNORECASE)


@value
class UrlResult:
    """What came: status 200 or 304, where it came from in the end, and its validators."""

    status: int
    url: str
    etag: str
    last_modified: str
    size: int


def fetch_url(
    transport: Transport,
    url: str,
    sink_write: Callable[[bytes], object],
    *,
    max_bytes: int,
    etag: str | None = None,
    retry: Retry | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    authorization: str = "",
) -> UrlResult:
    """Fetch a URL into a sink; with an `etag`, 304 and no bytes when it is unchanged.

    `authorization` goes to the URL's own host only, and before a user name in the URL. A body
    that was compressed for the way is written as it was before.

    What is temporary is tried again. A connection that breaks midway is resumed when the file
    has a strong ETag, which proves that the rest belongs to what came before; else the error has
    `temporary` set and the caller may begin anew, since the sink cannot take bytes back.

    Raises:
        RegistryError: refused URL or redirect, over `max_bytes`, any other status, broken.
    """
    request = _request(url, etag, authorization)
    download = _Download(request, transport, retry or Retry.of(transport.config))
    first = download.begin()
    with closing(download.body(first)) as pieces:
        for data in pieces:
            download.count(data, first, max_bytes)
            sink_write(data)
            if progress is not None:
                progress(download.shown, download.size, _announced(first))
    return UrlResult(
        status=first.status,
        url=str(first.location),
        etag=first.header("ETag")[:_MAX_TAG],
        last_modified=first.header("Last-Modified")[:_MAX_TAG],
        size=download.size,
    )


def is_unchanged(transport: Transport, url: str, etag: str, *, authorization: str = "") -> bool:
    """Ask with HEAD, which some servers answer better than If-None-Match, whether a tag holds.

    Whatever goes wrong means that it may have changed: the fetch that follows tells.
    """
    request = replace(_request(url, etag, authorization), method="HEAD")
    try:
        with transport.follow(request) as reply:
            found = reply.header("ETag")[:_MAX_TAG]
            if reply.status == _NOT_MODIFIED and not found:
                return True
            same = _strong(found) == _strong(etag) and bool(etag)
            return same and reply.status in {_OK, _NOT_MODIFIED}
    except RegistryError:
        return False


def _announced(reply: Reply) -> int:
    """Bytes of the file to come, 0 where that is not known."""
    return 0 if _is_packed(reply) else reply.length or 0


def _is_packed(reply: Reply) -> bool:
    return reply.header("Content-Encoding").strip().lower() == _GZIP


def _strong(etag: str) -> str:
    return etag.removeprefix("W/")


@state
class _Download:
    request: Request
    transport: Transport
    retry: Retry
    size: int = 0
    resumes: int = 0

    @property
    def shown(self) -> str:
        return self.request.location.shown

    def begin(self) -> Reply:
        return self.retry.run(lambda: self._send(self.request, set(_SUCCESS)))

    def count(self, data: bytes, first: Reply, max_bytes: int) -> None:
        """Take note of what came, and of what is said to come."""
        self.size += len(data)
        if max(_announced(first), self.size) > max_bytes:
            msg = f"{self.shown} is larger than {max_bytes} bytes"
            raise RegistryError(msg)

    def body(self, first: Reply) -> Generator[bytes, None, None]:
        """The file, without a compression that was for the way."""
        with closing(self.pieces(first)) as raw:
            yield from _gunzipped(raw, self.shown) if _is_packed(first) else raw

    def pieces(self, first: Reply) -> Generator[bytes, None, None]:
        """The body over as many connections as it takes; the last of them is closed at the end."""
        reply = first
        try:
            while reply.status != _NOT_MODIFIED:
                try:
                    data = reply.read(_STEP)
                except RegistryError as error:
                    reply.close()
                    reply = self.resume(first, error)
                    continue
                if not data:
                    return
                yield data
        finally:
            reply.close()

    def resume(self, first: Reply, error: RegistryError) -> Reply:
        """Ask for the rest, provided it is the rest of the same file."""
        validator = first.header("ETag")
        self.resumes += 1
        if first.header("Content-Encoding"):
            raise error  # what a part of it is of is not told
        if not validator.startswith('"') or not error.temporary or self.resumes > _MAX_RESUMES:
            raise error
        headers = {**self.request.headers, "If-Range": validator, "Range": f"bytes={self.size}-"}
        headers.pop("If-None-Match", None)
        self.retry.pause(0, error)
        request = Request("GET", self.request.location, headers)
        reply = self.retry.run(lambda: self._send(request, {200, _PARTIAL}))
        starts = reply.header("Content-Range").startswith(f"bytes {self.size}-")
        if reply.status != _PARTIAL or not starts or reply.header("ETag") != validator:
            reply.close()
            raise error
        return reply

    def _send(self, request: Request, ok: set[int]) -> Reply:
        reply = self.transport.follow(request)
        if reply.status in ok:
            return reply
        with reply:
            raise self._refused(reply)

    def _refused(self, reply: Reply) -> RegistryError:
        status = reply.status
        message = f"invalid response status {status} for {self.shown}"
        if status in TEMPORARY:
            wait = retry_after(reply.header("Retry-After"))
            return TemporaryError(message, status=status, wait=wait)
        host = self.request.location.origin.host
        hint = f"give a token with --secret id=HTTP_AUTH_TOKEN_{host},env=NAME"
        return RegistryError(message, status=status, hint=hint if status in _DENIED else None)


def _gunzipped(pieces: Iterable[bytes], shown: str) -> Iterator[bytes]:
    """Undo a compression that was for the way only; a bounded piece at a time."""
    import zlib  # noqa: PLC0415 - few servers compress unasked

    decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for piece in pieces:
            data = piece
            while data and not decoder.eof:
                yield decoder.decompress(data, _STEP)
                data = decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as error:
        msg = f"{shown}: the body is not the gzip stream it is said to be"
        raise RegistryError(msg) from error
    if not decoder.eof:
        msg = f"{shown}: the gzip stream ends early"
        raise RegistryError(msg, temporary=True)


def _request(url: str, etag: str | None, authorization: str) -> Request:
    headers = {} if etag is None else {"If-None-Match": etag}
    match = _USERINFO.match(url)
    if match is not None:
        pair = unquote(match[2]).encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        url = match[1] + url[match.end() :]
    if authorization:
        headers["Authorization"] = authorization
    return Request("GET", Location.parse(_encoded(url)), headers)


def _encoded(url: str) -> str:
    """Write blanks and letters beyond ASCII after the host as escapes, as browsers do.

    Raises:
        RegistryError: an escape that is none.
    """
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    if _BAD_ESCAPE.search(path):
        msg = f"invalid URL escape in {Location.parse(f'{scheme}{mark}{host}').shown}/…"
        raise RegistryError(msg, hint="write a percent sign as %25")
    return f"{scheme}{mark}{host}{slash}{_BEYOND.sub(_escaped, path)}"


def _escaped(found: re.Match[str]) -> str:
    return quote(found[0], errors="replace")
