"""Ports to content: who can give bytes by descriptor, and who can keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from cache.spec.digest import Digest
    from cache.spec.oci import Descriptor


class ContentProvider(Protocol):
    """Something bytes can be had from: a store, a registry, a layout on disk."""

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BinaryIO]:
        """Open a blob for reading.

        Raises:
            ContentNotFoundError: no such blob here.
        """


class Writer(Protocol):
    """An ingest: invisible until commit; leaving its with-block without one discards it."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Append bytes."""

    def commit(self, media_type: str, expected: Digest | None = None) -> Descriptor:
        """Make what was written durable and visible under its sha256 digest; idempotent.

        That there is such a name is certain to outlive a loss of power after `settle` only.

        Raises:
            DigestMismatchError: the digest is not the expected one; nothing is published.
        """


class ContentStore(ContentProvider, Protocol):
    """Blobs by digest. Publishing is atomic; concurrent equal commits both succeed."""

    def writer(self) -> AbstractContextManager[Writer]:
        """Begin an ingest."""

    def size(self, digest: Digest) -> int | None:
        """Size in bytes of a stored blob, None when absent."""

    def settle(self) -> None:
        """Make the names of all published blobs durable; before what cannot do without them."""

    def delete(self, digest: Digest) -> None:
        """Remove a blob; absent is success."""

    def __iter__(self) -> Iterator[Digest]:
        """Yield every stored digest."""
