"""Pushing images: blobs that are missing, then the manifest.

Owns the order and the fallbacks (exists, mount, upload). How one upload goes is upload's.
"""

from __future__ import annotations

import threading

from builder.errors import RegistryError
from builder.registry.reply import RefusedError
from builder.registry.transport import Request
from builder.registry.upload import Upload, attempts, check_digest, next_location, smallest_part
from cache.hints import TYPE_CHECKING
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor
from cache.value import field, value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.registry.auth import Access
    from builder.registry.reply import Reply
    from builder.registry.session import Session
    from cache.content import ContentProvider
    from cache.spec.reference import Reference

_UNKNOWN = frozenset({"BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})
_NOT_FOUND = 404
_CREATED = 201
_CONFIGS = frozenset({oci.OCI_CONFIG, oci.DOCKER_CONFIG})


def _quiet(_item: str, _current: int, _total: int) -> None:
    """Take no notice."""


@value
class Pusher:
    """Pushes to one repository; blobs may go as soon as they are ready."""

    session: Session
    reference: Reference
    provider: ContentProvider
    progress: Callable[[str, int, int], None] = _quiet
    stop: threading.Event = field(default_factory=threading.Event)

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether the repository has a blob of this digest and size."""
        place = self.session.place(self.reference, f"blobs/{descriptor.digest}")
        access = self.session.access(self.reference, "pull,push")
        doing = f"looking for blob {descriptor.digest} in {self.reference.name}"
        request = Request("HEAD", place)
        with self.session.call(request, access, {200, _NOT_FOUND}, doing) as reply:
            return reply.status != _NOT_FOUND and reply.length in {None, descriptor.size}

    def holds(self, descriptor: Descriptor) -> bool:
        """Whether the reference already stands for this manifest or index.

        A repository that has it has what it names: registries take no manifest before its parts.
        Who does not answer this is asked for each part instead.
        """
        name = self.reference.tag or descriptor.digest
        place = self.session.place(self.reference, f"manifests/{name}")
        access = self.session.access(self.reference, "pull,push")
        request = Request("HEAD", place, {"Accept": descriptor.media_type})
        doing = f"looking for {self.reference.name}"
        try:
            with self.session.call(request, access, {200}, doing) as reply:
                same = reply.header("Docker-Content-Digest") == str(descriptor.digest)
                return same and reply.length in {None, descriptor.size}
        except RefusedError:
            return False

    def blob(self, descriptor: Descriptor, mount_from: Reference | None = None) -> None:
        """See that the repository has a blob: it may, or may get it by mount or upload.

        Raises:
            RegistryError: refused, or broken too often.
        """
        if self.has_blob(descriptor):
            return self._done(descriptor)
        opened: list[Upload] = []
        if mount_from is not None and self._mounted(descriptor, mount_from, opened):
            return self._done(descriptor)
        first = True

        def open_upload() -> Upload | None:
            nonlocal first
            if not first and self.has_blob(descriptor):
                return None
            first = False
            # A registry that will not mount opens an upload in place of it.
            return opened.pop() if opened else self._begin(descriptor)

        attempts(open_upload, stop=self.stop)
        return self._done(descriptor)

    def _done(self, descriptor: Descriptor) -> None:
        self.progress(str(descriptor.digest), descriptor.size, descriptor.size)

    def upload(self, descriptor: Descriptor) -> None:
        """Send a blob whether or not the registry says it has it (F21)."""
        attempts(lambda: self._begin(descriptor), stop=self.stop)

    def _begin(self, descriptor: Descriptor) -> Upload:
        access = self.session.access(self.reference, "pull,push")
        place = self.session.place(self.reference, "blobs/uploads/")
        request = Request("POST", place, {"Content-Length": "0"}, b"")
        doing = f"pushing to {self.reference.name}"
        with self.session.call(request, access, {202}, doing) as reply:
            return self._opened(reply, access, descriptor)

    def _opened(self, reply: Reply, access: Access, descriptor: Descriptor) -> Upload:
        return Upload(
            session=self.session,
            access=access,
            descriptor=descriptor,
            provider=self.provider,
            stop=self.stop,
            progress=self.progress,
            location=next_location(reply, access),
            smallest=smallest_part(reply),
        )

    def _mounted(self, descriptor: Descriptor, source: Reference, opened: list[Upload]) -> bool:
        """Ask for the blob of another repository; any refusal means to upload it (F20)."""
        other, mine = source, self.reference
        if other.registry != mine.registry or other.repository == mine.repository:
            return False
        access = self.session.access(mine, "pull,push", f"repository:{other.repository}:pull")
        place = self.session.place(mine, "blobs/uploads/").with_query(
            [("mount", str(descriptor.digest)), ("from", other.repository)]
        )
        request = Request("POST", place, {"Content-Length": "0"}, b"")
        try:
            doing = f"mounting blob {descriptor.digest}"
            with self.session.once(request, access, {_CREATED, 202}, doing) as reply:
                if reply.status == _CREATED:
                    check_digest(reply, descriptor)
                    return True
                opened.append(self._opened(reply, access, descriptor))
        except RegistryError:
            return False
        return False

    def manifest(self, data: bytes, media_type: str, tag: str | None) -> Descriptor:
        """Put a manifest or index under a tag, or under its digest for None.

        Raises:
            RefusedError: refused; its codes tell of missing blobs.
            DigestMismatchError: the registry says it stored another digest.
        """
        descriptor = Descriptor(media_type, Digest.of(data), len(data))
        place = self.session.place(self.reference, f"manifests/{tag or descriptor.digest}")
        access = self.session.access(self.reference, "pull,push")
        request = Request("PUT", place, {"Content-Type": media_type}, data)
        doing = f"pushing manifest of {self.reference.name}"
        with self.session.call(request, access, {200, 201, 202}, doing) as reply:
            check_digest(reply, descriptor)
        return descriptor


def push_image(
    pusher: Pusher,
    manifest: bytes,
    media_type: str,
    blobs: Sequence[Descriptor],
    mount_from: Mapping[Digest, Reference],
) -> Descriptor:
    """Push layers side by side, then configs, then the manifest under the reference's tag.

    A registry that said it had a blob and then misses it gets all blobs sent once more.

    Raises:
        RegistryError: of the first blob that failed; the others were stopped.
    """
    unique = list({blob.digest: blob for blob in blobs}.values())
    layers = [blob for blob in unique if blob.media_type not in _CONFIGS]
    configs = [blob for blob in unique if blob.media_type in _CONFIGS]
    _side_by_side(pusher, layers, lambda blob: pusher.blob(blob, mount_from.get(blob.digest)))
    for blob in configs:
        pusher.blob(blob)
    tag = pusher.reference.tag
    try:
        return pusher.manifest(manifest, media_type, tag)
    except RefusedError as error:
        if not _UNKNOWN.intersection(error.codes):
            raise
        _side_by_side(pusher, unique, pusher.upload)
        return pusher.manifest(manifest, media_type, tag)


def _side_by_side(
    pusher: Pusher, blobs: Sequence[Descriptor], push: Callable[[Descriptor], None]
) -> None:
    if len(blobs) <= 1:
        for blob in blobs:
            push(blob)
        return
    from concurrent.futures import (  # noqa: PLC0415 - imports logging
        FIRST_EXCEPTION,
        ThreadPoolExecutor,
        wait,
    )

    workers = max(1, min(pusher.session.config.uploads, len(blobs)))
    with ThreadPoolExecutor(workers, thread_name_prefix="push") as pool:
        futures = [pool.submit(push, blob) for blob in blobs]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            pusher.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        failed = [future for future in futures if future in done and future.exception()]
        if failed:
            pusher.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            failed[0].result()
