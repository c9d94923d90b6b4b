"""One `--output` carried out for images that are in the store: chooses the writer by type.

Pushing is the registry's business, keeping images the store's; neither is done here.
"""

from __future__ import annotations

import os

from builder.errors import UsageError
from builder.export.destination import open_destination
from builder.export.output import OutputType
from cache.hints import TYPE_CHECKING, BinaryIO, assert_never
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.export.output import OutputSpec
    from cache.archive.tree import Tree
    from cache.content import ContentProvider
    from cache.layers import LayerStore
    from cache.spec.manifest import Image
    from cache.spec.oci import Descriptor
    from cache.spec.reference import Reference

_SECOND = 1_000_000_000


@value
class Exporter:
    """Writes outputs: where bytes come from, standard output, whom to warn, the epoch's time."""

    content: ContentProvider
    layer_store: LayerStore
    stdout: BinaryIO
    warn: Callable[[str], None]
    epoch: int | None = None

    def write(
        self,
        output: OutputSpec,
        images: Sequence[Image],
        names: Sequence[Reference],
        *,
        index: Descriptor | None = None,
    ) -> None:
        """Write images where an output says; those kept or pushed are left to others.

        `index` is the images' index when there are several; names of the output come on top
        of `names`.

        Raises:
            PybuildError: it could not be written; what was at the destination is intact.
        """
        match output.type:
            case OutputType.OCI | OutputType.DOCKER:
                if output.is_archive:
                    self._layout(output, images, _joined(names, output.names), index)
            case OutputType.TAR:
                self._tar(output, images, index)
            case OutputType.LOCAL:
                self._local(output, images, index)
            case OutputType.IMAGE | OutputType.REGISTRY | OutputType.CACHEONLY:
                pass
            case never:
                assert_never(never)

    def _layout(
        self,
        output: OutputSpec,
        images: Sequence[Image],
        names: Sequence[Reference],
        index: Descriptor | None,
    ) -> None:
        from builder.export import layout  # noqa: PLC0415 - each output loads its own writer
        from builder.export.dockerarchive import docker_bundle  # noqa: PLC0415 - likewise
        from builder.export.timestamp import rfc3339  # noqa: PLC0415 - likewise

        created = "" if self.epoch is None else rfc3339(self.epoch)
        if output.type is OutputType.DOCKER:
            bundle = docker_bundle(images, names, index=index, created=created)
        else:
            bundle = layout.bundle(images, names, index=index, created=created)
        if not output.tar:
            layout.write_directory(bundle, self.content, output.dest)
            return
        with open_destination(output.dest, self.stdout) as sink:
            layout.write_tar(bundle, self.content, sink)

    def _tar(self, output: OutputSpec, images: Sequence[Image], index: Descriptor | None) -> None:
        from builder.export.rootfs import write_platforms  # noqa: PLC0415 - likewise

        stacks = {_place(image) if index else "": image.layers for image in images}
        with open_destination(output.dest, self.stdout) as sink:
            write_platforms(stacks, self.layer_store, sink, epoch=self.epoch)

    def _local(self, output: OutputSpec, images: Sequence[Image], index: Descriptor | None) -> None:
        from builder.export.localdir import remove_others, write_local  # noqa: PLC0415 - likewise

        split = (index is not None) if output.platform_split is None else output.platform_split
        trees = [] if split and not output.delete else self._trees(images)
        if not split:
            _check_apart(images, trees)
        elif output.delete:
            remove_others(output.dest, {_place(image) for image in images})
        for number, image in enumerate(images):
            kept = trees[number : number + 1] if split else trees
            write_local(
                image.layers,
                self.layer_store,
                os.path.join(output.dest, _place(image)) if split else output.dest,
                warn=self.warn,
                epoch=self.epoch,
                kept=kept if output.delete else None,
            )
            if split:
                # The directory is no part of the image; its time is fixed all the same.
                time = (self.epoch or 0) * _SECOND
                os.utime(os.path.join(output.dest, _place(image)), ns=(time, time))

    def _trees(self, images: Sequence[Image]) -> list[Tree]:
        from builder.export.rootfs import merged  # noqa: PLC0415 - likewise

        return [merged(image.layers, self.layer_store) for image in images]


def _place(image: Image) -> str:
    """The directory of one platform among several (O40)."""
    return str(image.config.platform).replace("/", "_")


def _check_apart(images: Sequence[Image], trees: Sequence[Tree]) -> None:
    """Refuse that platforms in one directory write the same file (O40).

    Raises:
        UsageError: they would.
    """
    if len(trees) < 2:  # noqa: PLR2004 - one tree meets no other
        return
    from cache.archive.entry import Kind  # noqa: PLC0415 - for this case only

    seen: dict[str, str] = {}
    for image, tree in zip(images, trees, strict=True):
        platform = str(image.config.platform)
        for node in tree.walk():
            path = node.entry.path
            if node.entry.kind is Kind.DIRECTORY:
                continue
            if seen.setdefault(path, platform) != platform:
                msg = f"cannot overwrite {path} from {seen[path]} with {platform} when split option is disabled"
                raise UsageError(msg, hint="leave out platform-split=false")


def _joined(names: Sequence[Reference], more: Sequence[Reference]) -> tuple[Reference, ...]:
    return tuple(dict.fromkeys((*names, *more)))
