"""Files from http(s) URLs, for ADD and remote contexts.

Owns the conditional request and what is refused (B17). Verifies no checksum: who knows one
wraps the sink.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from builder.errors import RegistryError
from builder.registry.location import Location
from builder.registry.reply import refusal
from builder.registry.retry import Retry
from builder.registry.transport import Request, Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.registry.reply import Reply

_STEP = 256 * 1024
_NOT_MODIFIED = 304
_MAX_TAG = 1024  # characters of an ETag or date that are kept
_USERINFO = re.compile(r"\A(https?://)([^/?#]*)@", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
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

    What is temporary is tried again until the first byte; a connection that breaks after that
    is an error with `temporary` set, since the sink cannot take bytes back.

    Raises:
        RegistryError: refused URL or redirect, over `max_bytes`, any other status, broken.
    """
    request = _request(url, etag)
    shown = request.location.shown

    def begin() -> Reply:
        reply = transport.follow(request)
        if reply.status in {200, _NOT_MODIFIED}:
            return reply
        with reply:
            raise refusal(reply, f"fetching {shown}")

    with (retry or Retry.of(transport.config)).run(begin) as reply:
        size = 0
        total = reply.length or 0
        if total > max_bytes:
            raise _too_large(shown, max_bytes)
        while reply.status != _NOT_MODIFIED and (data := reply.read(_STEP)):
            size += len(data)
            if size > max_bytes:
                raise _too_large(shown, max_bytes)
            sink_write(data)
            if progress is not None:
                progress(shown, size, total)
        return UrlResult(
            status=reply.status,
            url=str(reply.location),
            etag=reply.header("ETag")[:_MAX_TAG],
            last_modified=reply.header("Last-Modified")[:_MAX_TAG],
            size=size,
        )


def _request(url: str, etag: str | None) -> Request:
    headers = {} if etag is None else {"If-None-Match": etag}
    match = _USERINFO.match(url)
    if match is not None:
        pair = unquote(match[2]).encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        url = match[1] + url[match.end() :]
    return Request("GET", Location.parse(url), headers)


def _too_large(shown: str, limit: int) -> RegistryError:
    return RegistryError(f"{shown} is larger than {limit} bytes")
