"""Small images in memory, for tests of what is done with images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.memory_store import MemoryContent, MemoryLayers, make_layer

from builder.export.exporter import BlobForm, assemble, publish
from cache.archive.entry import Entry, Kind
from cache.spec.config import History, ImageConfig

if TYPE_CHECKING:
    from cache.spec.manifest import Image
    from cache.spec.oci import Layer


@dataclass
class World:
    """A store and its layers."""

    content: MemoryContent = field(default_factory=MemoryContent)

    def __post_init__(self) -> None:
        self.layers = MemoryLayers(self.content)

    def layer(self, *items: Entry | tuple[Entry, bytes]) -> Layer:
        """Make a layer."""
        return make_layer(self.layers, *items)

    def image(self, *layers: Layer, form: BlobForm = BlobForm(), now: int = 0) -> Image:
        """Make an image of new layers."""
        history = [History("COPY x # buildkit", "2024-01-01T00:00:00Z") for _ in layers]
        config = ImageConfig(cmd=("/hello",), env=(("PATH", "/bin"),), working_dir="/")
        return publish(
            assemble(config, history, layers, base_layers=0, now=now),
            layers,
            base_layers=0,
            form=form,
            content=self.content,
            layer_store=self.layers,
        )

    def small(self, form: BlobForm = BlobForm()) -> Image:
        """An image of two layers with the usual kinds of entries."""
        below = self.layer(
            Entry("bin", Kind.DIRECTORY, 0o755),
            (Entry("bin/tool", Kind.FILE, 0o4755), b"tool" * 1000),
            Entry("bin/alias", Kind.HARDLINK, linkname="bin/tool"),
            Entry("bin/link", Kind.SYMLINK, 0o777, linkname="tool"),
            (Entry("gone", Kind.FILE), b"old"),
        )
        above = self.layer(
            Entry(".wh.gone", Kind.FILE),
            Entry("etc", Kind.DIRECTORY, 0o755, mtime=1_000_000_000),
            (Entry("etc/name", Kind.FILE, 0o600, 1, 2, mtime=1_500_000_000), b"x"),
        )
        return self.image(below, above, form=form)
