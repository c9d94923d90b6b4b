"""What vertices give: trees as stacks of layers, the context, fetched files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.spec.oci import chain_id
from cache.value import value

if TYPE_CHECKING:
    from cache.spec.digest import Digest
    from cache.spec.oci import Layer


@value
class TreeOutput:
    """A tree: its layers, base first. `created` (RFC 3339) is when its top layer was made."""

    layers: tuple[Layer, ...]
    created: str = ""

    @property
    def chain(self) -> Digest:
        """The output digest that children's keys are built on."""
        return chain_id([layer.diff_id for layer in self.layers])


@value
class ContextOutput:
    """A local directory, by its name in the request."""

    name: str


@value
class FileOutput:
    """A fetched file in the content store; mtime in nanoseconds."""

    digest: Digest
    size: int
    mtime: int


Output = TreeOutput | ContextOutput | FileOutput
