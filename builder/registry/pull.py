"""Resolving names to images and fetching their blobs.

Owns what is asked for in which order and what must hold of the replies. Stores nothing itself.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager

from builder.errors import RegistryError
from builder.registry.body import ResumingBody, VerifiedReader, buffered
from builder.registry.platforms import is_image, rank, shown
from builder.registry.reply import RefusedError
from builder.registry.transport import Request
from cache.errors import DigestMismatchError, InvalidDocumentError, SizeMismatchError
from cache.hints import TYPE_CHECKING, BinaryIO
from cache.spec import hashes, oci
from cache.spec.config import ImageConfig
from cache.spec.digest import Digest
from cache.spec.manifest import Image, Index, Manifest, pair_layers
from cache.spec.oci import Descriptor, Platform
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.registry.reply import Reply
    from builder.registry.session import Session
    from cache.content import ContentStore
    from cache.spec.reference import Reference

_ACCEPT = ", ".join([*oci.MANIFEST_TYPES, *oci.INDEX_TYPES])
_MAX_DEPTH = 4  # indexes within indexes
_MAX_DOCUMENTS = 32  # indexes looked into for one name
_COPY = 1024 * 1024
_OK, _NOT_FOUND = 200, 404
_VAGUE = frozenset({"", "application/json", "application/octet-stream", "text/plain"})


@value
class ResolvedImage:
    """An image found: its name pinned to what the tag gave, and the documents as they came.

    `reference.digest` is that of the index where there is one; `image.manifest.digest` is that
    of the platform's manifest. `matches` is False when a name without an index gave an image of
    another platform, which is for the caller to warn of.
    """

    reference: Reference
    image: Image
    manifest: bytes
    config: bytes
    matches: bool


@value
class _Document:
    descriptor: Descriptor
    data: bytes

    @property
    def is_index(self) -> bool:
        return self.descriptor.media_type in oci.INDEX_TYPES


def resolve(session: Session, reference: Reference, platform: Platform) -> ResolvedImage:
    """Find the image of a name for a platform.

    Raises:
        RegistryError: not there, not allowed, or not for this platform.
        InvalidDocumentError: a document is malformed.
        DigestMismatchError: a document is not the one that was named.
    """
    top = _by_name(session, reference)
    found = _choose(session, reference, top, platform) if top.is_index else top
    manifest = Manifest.from_json(found.data, found.descriptor.media_type)
    data = _config(session, reference, manifest.config)
    config = ImageConfig.from_json(data)
    image = Image(found.descriptor, manifest.config, config, pair_layers(manifest, config))
    matches = rank(config.platform, platform) is not None
    return ResolvedImage(reference.pinned(top.descriptor.digest), image, found.data, data, matches)


def digest_of(session: Session, reference: Reference) -> Descriptor:
    """Ask what a name stands for now: media type, digest, size of its manifest or index.

    HEAD is tried first, since Docker Hub counts only GET against its pull limit.
    """
    name = str(reference.digest or reference.tag or "latest")
    request = Request("HEAD", session.place(reference, f"manifests/{name}"), {"Accept": _ACCEPT})
    access = session.access(reference, "pull")
    with session.call(request, access, {200, 405}, f"looking up {reference.name}") as reply:
        media_type = _stated_type(reply)
        text, size = reply.header("Docker-Content-Digest"), reply.length
        if reply.status == _OK and text and size and media_type:
            return Descriptor(media_type, reference.digest or Digest.parse(text), size)
    return _by_name(session, reference).descriptor


def _by_name(session: Session, reference: Reference) -> _Document:
    if reference.digest is not None:
        return _document(session, reference, str(reference.digest), reference.digest)
    return _document(session, reference, reference.tag or "latest", None)


def _document(
    session: Session, reference: Reference, name: str, digest: Digest | None
) -> _Document:
    request = Request("GET", session.place(reference, f"manifests/{name}"), {"Accept": _ACCEPT})
    what = f"pulling {reference.name}"

    def fetch() -> _Document:
        with session.once(request, session.access(reference, "pull"), {200}, what) as reply:
            data = reply.body(oci.MAX_DOCUMENT)
            return _checked(reply, data, digest)

    try:
        return session.retry.run(fetch)
    except RefusedError as error:
        if error.status != _NOT_FOUND:
            raise
        colon = "@" if digest else ":"
        msg = f"{reference.registry} has no {reference.repository}{colon}{name}"
        hint = f"check the {'digest' if digest else 'tag'} and the spelling"
        raise RefusedError(msg, status=_NOT_FOUND, codes=error.codes, hint=hint) from error


def _checked(reply: Reply, data: bytes, digest: Digest | None) -> _Document:
    actual = Digest.of(data)
    announced = reply.header("Docker-Content-Digest")
    for wanted in (digest, Digest.parse(announced) if announced else None):
        if wanted is not None and _same_algorithm(wanted, data) != wanted:
            msg = f"manifest {wanted} has the digest {actual}"
            raise DigestMismatchError(msg)
    media_type = _stated_type(reply) or _type_of(data)
    return _Document(Descriptor(media_type, digest or actual, len(data)), data)


def _same_algorithm(wanted: Digest, data: bytes) -> Digest:

    return Digest(wanted.algorithm, hashes.new(wanted.algorithm, data).hexdigest())


def _stated_type(reply: Reply) -> str:
    stated = reply.header("Content-Type").partition(";")[0].strip().lower()
    return "" if stated in _VAGUE else stated


def _type_of(data: bytes) -> str:
    body = oci.load_object(data, "manifest")
    if isinstance(text := body.get("mediaType"), str) and text:
        return text
    return oci.OCI_INDEX if "manifests" in body else oci.OCI_MANIFEST


def _choose(
    session: Session, reference: Reference, top: _Document, platform: Platform
) -> _Document:
    """Take the best manifest of the first index, breadth first, that has one for the platform."""
    waiting = deque([(top, 1)])
    offered: dict[str, None] = {}
    looked = 0
    while waiting:
        document, depth = waiting.popleft()
        looked += 1
        index = Index.from_json(document.data, document.descriptor.media_type)
        images = [entry for entry in index.manifests if is_image(entry)]
        ranked = [
            (place, number)
            for number, entry in enumerate(images)
            if (place := rank(entry.platform, platform)) is not None
        ]
        if ranked:
            return _child(session, reference, images[min(ranked)[1]])
        offered.update(dict.fromkeys(shown(entry.platform) for entry in images if entry.platform))
        inner = [entry for entry in index.manifests if entry.media_type in oci.INDEX_TYPES]
        if inner and (depth >= _MAX_DEPTH or looked + len(waiting) + len(inner) > _MAX_DOCUMENTS):
            msg = f"{reference}: indexes nested too deeply or too many"
            raise InvalidDocumentError(msg)
        waiting.extend((_child(session, reference, entry), depth + 1) for entry in inner)
    listed = ", ".join(list(offered)[:20]) or "none"
    msg = f"{reference.familiar} has no image for {platform}; it has {listed}"
    raise RegistryError(msg, hint="choose one of them with --platform")


def _child(session: Session, reference: Reference, entry: Descriptor) -> _Document:
    if entry.size > oci.MAX_DOCUMENT:
        msg = f"manifest {entry.digest} of {entry.size} bytes is over {oci.MAX_DOCUMENT}"
        raise InvalidDocumentError(msg)
    found = _document(session, reference, str(entry.digest), entry.digest)
    if len(found.data) != entry.size:
        msg = f"manifest {entry.digest} has {len(found.data)} bytes, {entry.size} announced"
        raise SizeMismatchError(msg)
    if entry.media_type and entry.media_type != found.descriptor.media_type:
        msg = f"manifest {entry.digest}: media type differs from the index's"
        raise InvalidDocumentError(msg)
    return found


def _config(session: Session, reference: Reference, descriptor: Descriptor) -> bytes:
    if descriptor.media_type not in {oci.OCI_CONFIG, oci.DOCKER_CONFIG}:
        msg = f"{reference}: config media type {descriptor.media_type[:80]!r} is no image's"
        raise InvalidDocumentError(msg)
    if descriptor.size > oci.MAX_DOCUMENT:
        msg = f"config {descriptor.digest} of {descriptor.size} bytes is over {oci.MAX_DOCUMENT}"
        raise InvalidDocumentError(msg)
    with blob(session, reference, descriptor) as stream:
        return stream.read(descriptor.size + 1)


@contextmanager
def blob(
    session: Session,
    reference: Reference,
    descriptor: Descriptor,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[BinaryIO]:
    """Stream a blob from the reference's repository; verified before its last byte comes.

    Raises:
        RegistryError: not there or not to be had.
        DigestMismatchError: on reading: other bytes.
        SizeMismatchError: on opening or reading: more or fewer bytes.
    """
    place = session.place(reference, f"blobs/{descriptor.digest}")
    access = session.access(reference, "pull")
    item = str(descriptor.digest)

    def part(offset: int) -> Reply:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        request = Request("GET", place, headers)
        # Only a resuming request may be answered by 206 or 416.
        ok = {200, 206, 416} if offset else {200}
        call = session.once if offset else session.call
        return call(request, access, ok, f"pulling blob {descriptor.digest} of {reference.name}")

    def seen(count: int) -> None:
        if progress is not None:
            progress(item, count, descriptor.size)

    body = ResumingBody(descriptor, part, session.retry)
    with buffered(VerifiedReader(body, descriptor, seen)) as stream:
        yield stream


def store_blob(
    session: Session,
    reference: Reference,
    descriptor: Descriptor,
    store: ContentStore,
    progress: Callable[[str, int, int], None] | None = None,
) -> Descriptor:
    """Bring a blob into a store, unless it is there.

    Bytes that turn out wrong are fetched once more from the start: a blob resumed over changing
    content cannot be mended otherwise.
    """
    if store.size(descriptor.digest) == descriptor.size:
        return descriptor
    try:
        return _stored(session, reference, descriptor, store, progress)
    except DigestMismatchError:
        return _stored(session, reference, descriptor, store, progress)


def _stored(
    session: Session,
    reference: Reference,
    descriptor: Descriptor,
    store: ContentStore,
    progress: Callable[[str, int, int], None] | None,
) -> Descriptor:
    with blob(session, reference, descriptor, progress) as stream, store.writer() as writer:
        while data := stream.read(_COPY):
            writer.write(data)
        return writer.commit(descriptor.media_type, descriptor.digest)
