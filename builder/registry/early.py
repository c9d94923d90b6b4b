"""Sending blobs while they are being made: the end, and with it the digest, comes last.

Owns uploads of which nobody has heard yet. What goes wrong here is told by nobody: the push that
follows looks for each blob, sends what is missing, and says what is wrong.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from builder.errors import RegistryError
from builder.registry.transport import Request
from builder.registry.upload import next_location
from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from builder.registry.location import Location
    from builder.registry.push import Pusher
    from cache.spec.digest import Digest
    from cache.spec.oci import Descriptor

    Progress = Callable[[str, int, int], None]

_LARGE = 8 << 20  # bytes; what stays smaller is sent when it is known whether it is there
_LONG = 16 << 20  # bytes left at the end for which that is still worth asking
_STEP = 256 * 1024  # bytes of one chunk
_TICK = 0.1  # seconds between two reports
_PATIENCE = 1.0  # seconds that an upload nobody wants gets to take itself back


class EarlyUpload:
    """One blob that grows in a file of ours; told of it by the thread that writes there."""

    def __init__(self, pusher: Pusher, open_reader: Callable[[], int]) -> None:
        """Nothing is opened before the blob is worth it."""
        self._pusher = pusher
        self._open = open_reader
        self._fd = -1
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.descriptor: Descriptor | None = None
        self.sent = 0

    def grown(self, size: int) -> None:
        """So many bytes are in the file."""
        with self._changed:
            if self._thread is None and size >= _LARGE and not self._stopped:
                self._start()
            self._changed.notify()

    def ended(self, descriptor: Descriptor) -> None:
        """All of it is in the file, and this is what it is."""
        with self._changed:
            self.descriptor = descriptor
            self._changed.notify()

    def dropped(self) -> None:
        """Nobody wants it, or no more of it will come."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def wait(self, seconds: float) -> bool:
        """Whether no upload is under way after some time."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def _start(self) -> None:
        try:
            self._fd = self._open()
            thread = threading.Thread(target=self._run, name="early push", daemon=True)
            thread.start()
            self._thread = thread  # which may be joined from now on
        except (OSError, PybuildError, RuntimeError):
            self._stopped = True
            if self._fd >= 0:
                os.close(self._fd)

    def _run(self) -> None:
        with suppress(PybuildError, OSError):
            self._send()
        os.close(self._fd)

    def _send(self) -> None:
        session, reference = self._pusher.session, self._pusher.reference
        access = session.access(reference, "pull,push")
        doing = f"pushing a layer to {reference.name} while it is made"
        empty = {"Content-Length": "0"}
        place = session.place(reference, "blobs/uploads/")
        with session.once(Request("POST", place, empty, b""), access, {202}, doing) as reply:
            place = next_location(reply, access)
        try:
            stream = Request(
                "PATCH", place, {"Content-Type": "application/octet-stream"}, self._pieces
            )
            with session.once(stream, access, {202, 204}, doing) as reply:
                place = next_location(reply, access)
            session.once(self._end(place, empty), access, {201, 204}, doing).close()
        except BaseException:
            with suppress(PybuildError):
                session.once(Request("DELETE", place), access, {200, 202, 204}, doing).close()
            raise

    def _end(self, place: Location, fields: dict[str, str]) -> Request:
        place = place.with_query([("digest", str(self._known().digest))])
        return Request("PUT", place, fields, b"")

    def _known(self) -> Descriptor:
        if self.descriptor is None or self._stopped:
            msg = "the layer did not come to its end"
            raise RegistryError(msg)
        return self.descriptor

    def _pieces(self) -> Iterator[bytes]:
        """What is in the file, and what comes, to the end."""
        asked = False
        while self._more():
            if self.descriptor is not None and not asked:
                asked = True
                self._ask(self.descriptor)
            data = os.pread(self._fd, _STEP, self.sent)
            if not data:
                msg = "the layer is shorter than it is said to be"
                raise RegistryError(msg)
            self.sent += len(data)
            yield data

    def _more(self) -> bool:
        """Wait for more; False when all was sent."""
        with self._changed:
            while True:
                if self._stopped:
                    msg = "nobody wants the layer"
                    raise RegistryError(msg)
                if self.descriptor is not None:
                    return self.sent < self.descriptor.size
                if os.fstat(self._fd).st_size > self.sent:
                    return True
                self._changed.wait()

    def _ask(self, descriptor: Descriptor) -> None:
        """Send no long rest of what is there."""
        if descriptor.size - self.sent > _LONG and self._pusher.has_blob(descriptor):
            msg = f"{descriptor.digest} is there"
            raise RegistryError(msg)


class EarlyUploads:
    """The blobs on their way to one repository."""

    def __init__(self, pusher: Pusher) -> None:
        """Nothing is under way."""
        self._pusher = pusher
        self._guard = threading.Lock()
        self._uploads: list[EarlyUpload] = []

    def follow(self, open_reader: Callable[[], int]) -> EarlyUpload | None:
        """Begin with a blob; None where enough are under way, or a registry wants small parts."""
        config = self._pusher.session.config
        with self._guard:
            busy = sum(not upload.wait(0) for upload in self._uploads)
            if config.chunk or busy >= config.uploads:
                return None
            upload = EarlyUpload(self._pusher, open_reader)
            self._uploads.append(upload)
        return upload

    def settle(self, digests: Collection[Digest], progress: Progress) -> None:
        """Wait for those of some blobs that are still under way."""
        for upload in self._uploads:
            found = upload.descriptor
            if found is None or found.digest not in digests:
                continue
            while not upload.wait(_TICK):
                progress(str(found.digest), upload.sent, found.size)

    def close(self) -> None:
        """Stop what is under way."""
        for upload in self._uploads:
            upload.dropped()
        for upload in self._uploads:
            upload.wait(_PATIENCE)
