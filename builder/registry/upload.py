"""One blob upload: the session a registry opens, its parts, its end.

Owns the upload protocol (distribution-spec, "Pushing blobs"): where to send next, how far the
registry is, and what to do when a connection breaks. Knows nothing of manifests.
"""

from __future__ import annotations

import re
from contextlib import suppress

from builder.errors import RegistryError
from builder.registry.location import Location
from builder.registry.transport import Request, check_downgrade
from cache.errors import DigestMismatchError, SizeMismatchError
from cache.hints import TYPE_CHECKING
from cache.value import state

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from builder.registry.auth import Access
    from builder.registry.reply import Reply
    from builder.registry.session import Session
    from cache.content import ContentProvider
    from cache.spec.oci import Descriptor

_STEP = 256 * 1024  # bytes of one write
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})\Z")
_RESTARTS = 3  # upload sessions opened for one blob
_ACCEPTED = frozenset({200, 201, 202, 204})
_GONE = frozenset({404, 410})
_UNAUTHORIZED = 401
_UNSATISFIABLE = 416


class _LostError(Exception):
    """The registry has forgotten the upload; a new one may work."""


@state
class Upload:
    """An upload under way; made by `begin`, ended by `run` or `abort`."""

    session: Session
    access: Access
    descriptor: Descriptor
    provider: ContentProvider
    stop: threading.Event
    progress: Callable[[str, int, int], None]
    location: Location
    smallest: int = 0
    offset: int = 0
    failures: int = 0

    def run(self) -> None:
        """Send what is missing and finish.

        Raises:
            RegistryError: refused, or broken too often.
            _LostError: the registry no longer knows this upload.
        """
        while self.offset < self.descriptor.size:
            try:
                self._send_part()
                self.failures = 0
            except RegistryError as error:
                self._recover(error)
        self._finish()

    def abort(self) -> None:
        """Tell the registry to forget it, as a courtesy."""
        with suppress(RegistryError):
            self._once("DELETE", {}).close()

    def _doing(self) -> str:
        return f"pushing blob {self.descriptor.digest}"

    def _once(
        self,
        method: str,
        headers: dict[str, str],
        body: Callable[[], Iterator[bytes]] | None = None,
    ) -> Reply:
        request = Request(method, self.location, headers, body)
        return self.session.once(request, self.access, _ACCEPTED, self._doing())

    def _send_part(self) -> None:
        left = self.descriptor.size - self.offset
        chunk = self.session.config.chunk
        count = min(left, max(chunk, self.smallest)) if chunk else left
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(count)}
        if count != self.descriptor.size:
            headers["Content-Range"] = f"{self.offset}-{self.offset + count - 1}"
        start = self.offset
        with self._once("PATCH", headers, lambda: self._bytes(start, count)) as reply:
            self._moved(reply)
            reached = _reached(reply)
        self.offset = start + count if reached is None else reached
        if not start < self.offset <= start + count:
            msg = f"{self._doing()}: the registry counts {self.offset} bytes of {start + count}"
            raise SizeMismatchError(msg)

    def _bytes(self, start: int, count: int) -> Iterator[bytes]:
        item, size = str(self.descriptor.digest), self.descriptor.size
        with self.provider.open(self.descriptor) as stream:
            skip, left = start, count
            while skip or left:
                if self.stop.is_set():
                    msg = "push was stopped because another blob failed"
                    raise RegistryError(msg)
                data = stream.read(min(_STEP, skip or left))
                if not data:
                    msg = f"blob {item} ended {skip + left} bytes before its size of {size}"
                    raise SizeMismatchError(msg)
                if skip:
                    skip -= len(data)
                    continue
                left -= len(data)
                yield data
                self.progress(item, start + count - left, size)

    def _recover(self, error: RegistryError) -> None:
        """After a failed part: wait, ask how far the registry came, go on from there."""
        if self.stop.is_set():
            raise error
        if error.status in _GONE:
            raise _LostError from error
        refused = error.status in {_UNAUTHORIZED, _UNSATISFIABLE}
        if refused and self.failures >= 2:  # noqa: PLR2004 - a fresh token or offset was tried
            raise error
        if not refused:
            self.session.retry.pause(self.failures, error)
        self.failures += 1
        try:
            # The status request also answers a 401, so that the next part has a fresh token.
            with self._once("GET", {}) as reply:
                self._moved(reply, required=False)
                self.offset = min(_reached(reply) or 0, self.descriptor.size)
        except RegistryError as second:
            raise _LostError from second

    def _moved(self, reply: Reply, *, required: bool = True) -> None:
        if required or reply.header("Location"):
            self.location = next_location(reply, self.access)

    def _finish(self) -> None:
        digest = str(self.descriptor.digest)
        place = self.location.with_query([("digest", digest)])
        request = Request("PUT", place, {"Content-Length": "0"}, b"")
        try:
            with self.session.once(request, self.access, {201, 204}, self._doing()) as reply:
                check_digest(reply, self.descriptor)
        except RegistryError as error:
            if not error.temporary and error.status not in _GONE:
                raise
            # It may have been stored although the reply was lost: whoever opens the next
            # upload looks first.
            raise _LostError from error


def next_location(reply: Reply, access: Access) -> Location:
    """Where to send next (F07): relative or absolute; other origins get no authorization.

    Raises:
        RegistryError: missing, malformed, or from https to http.
    """
    text = reply.header("Location")
    if not text:
        msg = f"{access.registry} opened an upload without saying where"
        raise RegistryError(msg)
    place = Location.parse(text, reply.location)
    check_downgrade(access.origin, place.origin)
    return place


def check_digest(reply: Reply, descriptor: Descriptor) -> None:
    """Compare the digest a registry says it stored, if it says one.

    Raises:
        DigestMismatchError: it is another.
    """
    stored = reply.header("Docker-Content-Digest")
    same = stored.partition(":")[0] == descriptor.digest.algorithm
    if same and stored != str(descriptor.digest):
        msg = f"pushed {descriptor.digest}, the registry says it stored {stored[:140]!r}"
        raise DigestMismatchError(msg)


def _reached(reply: Reply) -> int | None:
    """How many bytes the registry has; None when it does not say."""
    match = _RANGE.match(reply.header("Range"))
    # "0-0" is one byte by the letter; registries say it for none, and then no byte is missed
    # because the part is sent again from the start.
    if match is None:
        return None
    return 0 if int(match[1]) == 0 else int(match[1]) + 1


def smallest_part(reply: Reply) -> int:
    """The registry's OCI-Chunk-Min-Length, 0 when it has none."""
    text = reply.header("OCI-Chunk-Min-Length")
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) else 0


def attempts(open_upload: Callable[[], Upload | None], *, stop: threading.Event) -> None:
    """Upload, opening a new session when the registry lost one.

    `open_upload` gives None when the blob is already there.

    Raises:
        RegistryError: refused, or lost too often.
    """
    for number in range(_RESTARTS):
        upload = open_upload()
        if upload is None:
            return
        try:
            upload.run()
        except _LostError as lost:
            cause = lost.__cause__
            if number + 1 == _RESTARTS and isinstance(cause, RegistryError):
                raise cause from None
            if isinstance(cause, RegistryError) and cause.temporary and not stop.is_set():
                upload.session.retry.pause(number, cause)
        except BaseException:
            upload.abort()
            raise
        else:
            return
