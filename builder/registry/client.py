"""The registry client: one object that pulls, pushes and logs in.

Owns the wiring of settings, credentials, transport and retries. Import is cheap: sockets
and TLS are imported when a connection is made.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

from builder.errors import RegistryError
from builder.registry.auth import Authenticator
from builder.registry.credentials import CredentialSource, DockerCredentials
from builder.registry.retry import Retry
from builder.registry.session import Session
from builder.registry.transport import Request, Transport
from cache.errors import ContentNotFoundError
from cache.hints import TYPE_CHECKING, BinaryIO, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from builder.registry.pull import ResolvedImage
    from builder.registry.push import Pusher
    from builder.registry.settings import RegistryConfig
    from cache.content import ContentProvider, ContentStore
    from cache.spec.digest import Digest
    from cache.spec.oci import Descriptor, Platform
    from cache.spec.reference import Reference

    Progress = Callable[[str, int, int], None]

_NOT_FOUND = 404


def _quiet(_item: str, _current: int, _total: int) -> None:
    """Take no notice."""


class RegistryClient:
    """Pulls and pushes; safe for several threads; tokens live as long as the client."""

    def __init__(
        self,
        config: RegistryConfig,
        *,
        credentials: CredentialSource | None = None,
        transport: Transport | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Wire up; nothing is read or opened yet."""
        transport = transport or Transport(config)
        source = credentials or DockerCredentials(config)
        self.session = Session(
            config, transport, Authenticator(transport, source), retry or Retry.of(config)
        )

    def resolve(self, reference: Reference, platform: Platform) -> ResolvedImage:
        """Find the image of a name for a platform; see `pull.resolve`."""
        from builder.registry import pull  # noqa: PLC0415 - a push may need nothing of it

        return pull.resolve(self.session, reference, platform)

    def digest(self, reference: Reference) -> Descriptor:
        """What a name stands for now: a manifest's or index's type, digest and size."""
        from builder.registry import pull  # noqa: PLC0415 - a push may need nothing of it

        return pull.digest_of(self.session, reference)

    def fetch_blob(
        self, reference: Reference, descriptor: Descriptor, progress: Progress = _quiet
    ) -> AbstractContextManager[BinaryIO]:
        """Stream a blob; see `pull.blob`."""
        from builder.registry import pull  # noqa: PLC0415 - a push may need nothing of it

        return pull.blob(self.session, reference, descriptor, progress)

    def store_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        store: ContentStore,
        progress: Progress = _quiet,
    ) -> Descriptor:
        """Bring a blob into a store unless it is there; see `pull.store_blob`."""
        from builder.registry import pull  # noqa: PLC0415 - a push may need nothing of it

        return pull.store_blob(self.session, reference, descriptor, store, progress)

    def pusher(
        self, reference: Reference, provider: ContentProvider, progress: Progress = _quiet
    ) -> Pusher:
        """Begin a push whose blobs go one by one as they get ready."""
        from builder.registry.push import Pusher  # noqa: PLC0415 - not every build pushes

        return Pusher(self.session, reference, provider, progress)

    def push_image(
        self,
        reference: Reference,
        manifest: bytes,
        media_type: str,
        blobs: Sequence[Descriptor],
        provider: ContentProvider,
        mount_from: Mapping[Digest, Reference] | None = None,
        progress: Progress = _quiet,
    ) -> Descriptor:
        """Push a whole image; see `push.push_image`."""
        from builder.registry.push import push_image  # noqa: PLC0415 - not every build pushes

        pusher = self.pusher(reference, provider, progress)
        return push_image(pusher, manifest, media_type, blobs, mount_from or {})

    def check_push(self, reference: Reference) -> None:
        """Find out before a long build whether a push would be allowed (C36).

        Raises:
            RegistryError: it would not.
        """
        access = self.session.access(reference, "pull,push")
        place = self.session.place(reference, "blobs/uploads/")
        request = Request("POST", place, {"Content-Length": "0"}, b"")
        doing = f"asking to push to {reference.name}"
        with self.session.call(request, access, {202}, doing) as reply:
            upload = reply.header("Location")
        if upload:
            self._drop_upload(reference, upload)

    def _drop_upload(self, reference: Reference, text: str) -> None:
        from builder.registry.location import Location  # noqa: PLC0415 - used here only

        access = self.session.access(reference, "pull,push")
        try:
            request = Request("DELETE", Location.parse(text, self.session.place(reference, "")))
            self.session.once(request, access, {200, 202, 204}, "ending an upload").close()
        except RegistryError:
            # The registry expires it by itself; what we wanted to know, we know.
            return

    def login(self, registry: str, username: str, password: str) -> str:
        """Check a credential and keep it; gives the place it is kept in."""
        from builder.registry import login as accounts  # noqa: PLC0415 - used here only

        return accounts.login(self.session, registry, username, password)

    def logout(self, registry: str) -> bool:
        """Forget a credential; False when none was kept."""
        from builder.registry import login as accounts  # noqa: PLC0415 - used here only

        return accounts.logout(self.session.config, registry)

    def close(self) -> None:
        """Close idle connections."""
        self.session.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteContent:
    """The blobs of one repository as a content provider."""

    def __init__(
        self, client: RegistryClient, reference: Reference, progress: Progress = _quiet
    ) -> None:
        """Name the repository."""
        self._client = client
        self._reference = reference
        self._progress = progress

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open a blob; verified as it is read.

        Raises:
            ContentNotFoundError: the repository does not have it.
        """
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(
                    self._client.fetch_blob(self._reference, descriptor, self._progress)
                )
            except RegistryError as error:
                if error.status == _NOT_FOUND:
                    msg = f"{self._reference.name} has no blob {descriptor.digest}"
                    raise ContentNotFoundError(msg) from error
                raise
            yield stream
