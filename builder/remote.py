"""The network as a build sees it: base images, layers by where they come from, URLs, pushes."""

from __future__ import annotations

import contextlib
import threading

from builder.progress.current import CurrentProgress
from builder.solver.http_op import MAX_DOWNLOAD, Fetched
from cache.errors import ContentNotFoundError
from cache.hints import TYPE_CHECKING, BinaryIO
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from builder.git.source import GitSource
    from builder.registry.client import RegistryClient
    from builder.registry.early import EarlyUpload, EarlyUploads
    from builder.request import BuildRequest
    from cache.content import ContentProvider
    from cache.spec.digest import Digest
    from cache.spec.manifest import Image
    from cache.spec.oci import Descriptor, Platform

    Progress = Callable[[str, int, int], None]


class Network:
    """One registry client, made when something is first asked of it."""

    def __init__(self, environ: Mapping[str, str], insecure: tuple[str, ...] = ()) -> None:
        """Remember the settings; import and open nothing."""
        self._environ = environ
        self._insecure = insecure
        self._client: RegistryClient | None = None
        self._git: GitSource | None = None
        self._early: EarlyUploads | None = None
        self._guard = threading.Lock()
        self.progress = CurrentProgress()
        self.origin: Callable[[Digest], str | None] = _nowhere

    @property
    def client(self) -> RegistryClient:
        """The client."""
        if self._client is None:
            from builder.registry.client import RegistryClient  # noqa: PLC0415 - start-up time
            from builder.registry.settings import RegistryConfig  # noqa: PLC0415

            insecure = frozenset(self._insecure)
            config = RegistryConfig.from_environ(
                self._environ, insecure=insecure, unverified=insecure
            )
            self._client = RegistryClient(config)
        return self._client

    def fetch(self, reference: Reference, platform: Platform) -> tuple[Image, bytes, bytes]:
        """Resolve an image; no layer is fetched."""
        found = self.client.resolve(reference, platform)
        return found.image, found.manifest, found.config

    @contextlib.contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open a blob at the repository it is known to come from.

        Raises:
            ContentNotFoundError: nobody knows where it comes from.
        """
        repository = self.origin(descriptor.digest)
        if repository is None:
            msg = f"{descriptor.digest} is not in the store"
            raise ContentNotFoundError(msg, hint="build or pull its image again")
        reference = Reference.parse(f"{repository}@{descriptor.digest}")
        with self.client.fetch_blob(reference, descriptor, self.progress) as stream:
            yield stream

    def get(
        self,
        url: str,
        sink: Callable[[bytes], object],
        etag: str | None,
        progress: Progress,
        authorization: str = "",
    ) -> Fetched:
        """Fetch a URL."""
        from builder.registry.http_source import fetch_url  # noqa: PLC0415 - start-up time

        transport = self.client.session.transport
        reply = fetch_url(
            transport,
            url,
            sink,
            max_bytes=MAX_DOWNLOAD,
            etag=etag,
            progress=progress,
            authorization=authorization,
        )
        return Fetched(reply.status, reply.etag, reply.last_modified)

    def is_unchanged(self, url: str, etag: str, authorization: str) -> bool:
        """Ask whether a URL still has an ETag."""
        from builder.registry.http_source import is_unchanged  # noqa: PLC0415 - start-up time

        transport = self.client.session.transport
        return is_unchanged(transport, url, etag, authorization=authorization)

    def read(self, url: str, limit: int) -> bytes:
        """Fetch a small file.

        Raises:
            RegistryError: it is larger than `limit`, or cannot be had.
        """
        from builder.registry.http_source import fetch_url  # noqa: PLC0415 - start-up time

        pieces: list[bytes] = []
        fetch_url(self.client.session.transport, url, pieces.append, max_bytes=limit)
        return b"".join(pieces)

    def follow(
        self, name: Reference, provider: ContentProvider, reader: Callable[[], int]
    ) -> EarlyUpload | None:
        """Begin to push a blob that is still being made to where the image will be pushed."""
        from builder.registry.early import EarlyUploads  # noqa: PLC0415 - start-up time

        with self._guard:
            if self._early is None:
                self._early = EarlyUploads(self.client.pusher(name, provider))
        return self._early.follow(reader)

    def settle(self, digests: Collection[Digest], progress: Progress) -> None:
        """Let blobs arrive that are on their way."""
        if self._early is not None:
            self._early.settle(digests, progress)

    def close(self) -> None:
        """Stop what nobody waited for."""
        if self._early is not None:
            self._early.close()

    def git(self, root: str, request: BuildRequest, secrets: Mapping[str, bytes]) -> GitSource:
        """Git as this build may use it: with its secrets, and the agent of --ssh default."""
        if self._git is None:
            from builder.git.source import GitSource, agent_of  # noqa: PLC0415 - rarely used

            agent = agent_of(request, self._environ)
            self._git = GitSource(root, self._environ, secrets, agent)
        return self._git


def _nowhere(_digest: Digest) -> str | None:
    return None
