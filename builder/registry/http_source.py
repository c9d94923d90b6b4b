"""Files from http(s) URLs, for ADD and remote contexts.

Owns the conditional request and what is refused (B17). Verifies no checksum: who knows one
wraps the sink.
"""

from __future__ import annotations

import base64
import re
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import unquote

from builder.errors import RegistryError
from builder.registry.location import Location
from builder.registry.reply import refusal
from builder.registry.retry import Retry
from builder.registry.transport import Request, Transport
from cache.value import state, value

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from builder.registry.reply import Reply

_STEP = 256 * 1024
_PARTIAL = 206
_NOT_MODIFIED = 304
_MAX_RESUMES = 20  # broken connections that one file survives
_MAX_TAG = 1024  # characters of an ETag or date that are kept
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
) -> UrlResult:
    """Fetch a URL into a sink; with an `etag`, 304 and no bytes when it is unchanged.

    What is temporary is tried again. A connection that breaks midway is resumed when the file
    has a strong ETag, which proves that the rest belongs to what came before; else the error has
    `temporary` set and the caller may begin anew, since the sink cannot take bytes back.

    Raises:
        RegistryError: refused URL or redirect, over `max_bytes`, any other status, broken.
    """
    download = _Download(_request(url, etag), transport, retry or Retry.of(transport.config))
    first = download.begin()
    total = first.length or 0
    with closing(download.pieces(first)) as pieces:
        for data in pieces:
            download.size += len(data)
            if max(total, download.size) > max_bytes:
                msg = f"{download.shown} is larger than {max_bytes} bytes"
                raise RegistryError(msg)
            sink_write(data)
            if progress is not None:
                progress(download.shown, download.size, total)
    return UrlResult(
        status=first.status,
        url=str(first.location),
        etag=first.header("ETag")[:_MAX_TAG],
        last_modified=first.header("Last-Modified")[:_MAX_TAG],
        size=download.size,
    )


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
        return self.retry.run(lambda: self._send(self.request, {200, _NOT_MODIFIED}))

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
            raise refusal(reply, f"fetching {self.shown}")


def _request(url: str, etag: str | None) -> Request:
    headers = {} if etag is None else {"If-None-Match": etag}
    match = _USERINFO.match(url)
    if match is not None:
        pair = unquote(match[2]).encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        url = match[1] + url[match.end() :]
    return Request("GET", Location.parse(url), headers)
