"""What vertices give: trees as stacks of layers, the context, fetched files."""

from __future__ import annotations

from cache.hints import TYPE_CHECKING
from cache.spec.oci import chain_id
from cache.value import field, value

if TYPE_CHECKING:
    from cache.spec.digest import Digest
    from cache.spec.oci import Layer


@value
class TreeOutput:
    """A tree: its layers, base first. `created` (RFC 3339) is when its top layer was made."""

    layers: tuple[Layer, ...]
    created: str = ""
    known: Digest | None = field(default=None, compare=False, repr=False)  # the chain, if it is

    @property
    def chain(self) -> Digest:
        """The output digest that children's keys are built on."""
        return self.known or chain_id([layer.diff_id for layer in self.layers])

    def with_layer(self, layer: Layer, created: str) -> TreeOutput:
        """Put a layer on top; its chain costs one digest, however many layers there are."""
        below = [self.chain] if self.layers else []
        return TreeOutput((*self.layers, layer), created, chain_id([*below, layer.diff_id]))


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
