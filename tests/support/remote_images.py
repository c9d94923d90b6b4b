"""Small images for registries, and a client for them whose retries do not sleep."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from builder.registry.client import RegistryClient
from builder.registry.credentials import Credential, Lookup
from builder.registry.retry import Retry
from builder.registry.settings import RegistryConfig
from cache.errors import ContentNotFoundError
from cache.spec import oci
from cache.spec.config import ImageConfig
from cache.spec.digest import Digest
from cache.spec.manifest import Index, Manifest
from cache.spec.oci import Descriptor, Platform
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.registry import FakeRegistry

AMD64 = Platform("linux", "amd64")


@dataclass
class MemoryContent:
    """A content provider over a dictionary."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    opened: list[Digest] = field(default_factory=list)

    def add(self, data: bytes, media_type: str = oci.OCI_LAYER) -> Descriptor:
        """Keep bytes."""
        digest = Digest.of(data)
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data))

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open a blob."""
        self.opened.append(descriptor.digest)
        if descriptor.digest not in self.blobs:
            raise ContentNotFoundError(str(descriptor.digest))
        yield io.BytesIO(self.blobs[descriptor.digest])


@dataclass(frozen=True)
class OneCredential:
    """A credential source with one credential for one registry."""

    registry: str = ""
    credential: Credential | None = None

    def lookup(self, registry: str) -> Lookup:
        """Give it for its registry only."""
        found = self.credential if registry == self.registry else None
        return Lookup(found, "the test's credential")


@dataclass
class Pauses:
    """A retry policy on a clock of its own; remembers each sleep."""

    slept: list[float] = field(default_factory=list)

    def policy(self, attempts: int = 5, patience: float = 120.0) -> Retry:
        """Make the policy."""
        return Retry(
            attempts, 0.5, patience, self.slept.append, lambda: sum(self.slept), lambda: 1.0
        )


@dataclass(frozen=True)
class SmallImage:
    """An image in memory: its manifest and all its blobs."""

    content: MemoryContent
    manifest: bytes
    blobs: tuple[Descriptor, ...]


def small_image(layers: tuple[bytes, ...] = (b"one", b"two"), arch: str = "amd64") -> SmallImage:
    """Make an image of uncompressed layers (they need not be tar for a registry)."""
    content = MemoryContent()
    parts = tuple(content.add(data) for data in layers)
    config = ImageConfig(Platform("linux", arch), diff_ids=tuple(part.digest for part in parts))
    head = content.add(config.to_json(), oci.OCI_CONFIG)
    return SmallImage(content, Manifest(head, parts).to_json(), (head, *parts))


def publish(registry: FakeRegistry, repository: str, tag: str, image: SmallImage) -> Descriptor:
    """Put an image into the registry from behind."""
    for data in image.content.blobs.values():
        registry.put_blob(repository, data)
    registry.put_manifest(repository, tag, oci.OCI_MANIFEST, image.manifest)
    return Descriptor(oci.OCI_MANIFEST, Digest.of(image.manifest), len(image.manifest))


def publish_index(
    registry: FakeRegistry, repository: str, tag: str, entries: tuple[Descriptor, ...]
) -> Descriptor:
    """Put an index into the registry from behind."""
    data = Index(entries).to_json()
    registry.put_manifest(repository, tag, oci.OCI_INDEX, data)
    return Descriptor(oci.OCI_INDEX, Digest.of(data), len(data))


def changed(descriptor: Descriptor, **fields: object) -> Descriptor:
    """A copy with some fields changed."""
    names = ("media_type", "digest", "size", "annotations", "platform")
    return Descriptor(**{name: fields.get(name, getattr(descriptor, name)) for name in names})


def client_for(
    registry: FakeRegistry,
    credential: Credential | None = None,
    *,
    pauses: Pauses | None = None,
    config: RegistryConfig | None = None,
) -> RegistryClient:
    """A client that never sleeps."""
    return RegistryClient(
        config or RegistryConfig(idle_timeout=5.0, connect_timeout=2.0),
        credentials=OneCredential(registry.host, credential),
        retry=(pauses or Pauses()).policy(),
    )


def name(registry: FakeRegistry, rest: str = "team/app:v1") -> Reference:
    """A name in the registry."""
    return Reference.parse(f"{registry.host}/{rest}")
