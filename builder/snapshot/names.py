"""Which directory holds which committed tree. The records keep it; this is the port.

What is kept for a chain is the directory's name and, after a space, what `seals` notes of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from cache.spec.digest import Digest


class SnapshotNames(Protocol):
    """Chain IDs to directory names. Written last, so a name here means a complete tree.

    Shared by all threads and processes that use a state directory; every method is atomic.
    """

    def get(self, chain: Digest) -> str | None:
        """Name of the committed tree of a chain, None when there is none."""

    def put(self, chain: Digest, name: str) -> str:
        """Name a complete tree and return the chain's name: the first one put wins."""

    def remove(self, chain: Digest) -> None:
        """Forget a chain; unknown is success."""

    def replace(self, chain: Digest, before: str, after: str | None) -> bool:
        """Note something else, or nothing, if it still is `before`; whether it was."""

    def holds(self, name: str) -> bool:
        """Whether any chain has this name, with a note or without."""
