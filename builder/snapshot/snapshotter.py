"""Snapshots: committed trees stacked as overlay lowers, and active ones a step writes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from builder.sandbox.spec import Overlay, PlainRoot, Recorded
    from cache.spec.digest import Digest
    from cache.spec.oci import Layer


@value
class Active:
    """A writable snapshot on top of `parent` (a chain ID), private to one step.

    `recorded` is what files of the tree are meant to be where they cannot be it on disk.
    """

    key: str
    parent: Digest
    root: Overlay | PlainRoot
    recorded: tuple[Recorded, ...] = ()


class Snapshotter(Protocol):
    """Prepares trees for RUN. Returns mounts as data; mounts nothing a step would see.

    A committed snapshot is named by the chain ID of its layers and never changes. `lowers`
    extracts what is missing. An active snapshot ends in exactly one of commit or discard.
    """

    @property
    def base(self) -> str:
        """The absolute directory that committed trees' names are relative to."""

    def lowers(self, layers: Sequence[Layer]) -> tuple[str, ...]:
        """Names under `base` of the committed trees of a stack, topmost first."""

    def lent(self, layers: Sequence[Layer]) -> AbstractContextManager[tuple[str, ...]]:
        """The same for a mount that a step may change: its changes are thrown away (S-C09)."""

    def recorded(self, layers: Sequence[Layer]) -> tuple[Recorded, ...]:
        """What files of a stack are meant to be where they cannot be it on disk."""

    def prepare(self, layers: Sequence[Layer]) -> Active:
        """Begin a writable snapshot on a stack."""

    def diff(
        self,
        active: Active,
        stubs: Sequence[tuple[str, int]],
        recorded: Sequence[Recorded] = (),
    ) -> Layer:
        """Write the change as a layer into the content store, mount stubs removed.

        `recorded` is what the sandbox recorded of files beside them.
        """

    def commit(self, active: Active, layer: Layer) -> None:
        """Turn the active tree into the committed snapshot of parent + layer."""

    def discard(self, active: Active) -> None:
        """Throw an active snapshot away; unknown is success."""
