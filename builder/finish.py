"""From solved images to outputs: each in its form, named, written, pushed."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time

from builder.export.exporter import BlobForm, publish, publish_index
from builder.export.output import Compression, OutputSpec
from builder.progress.events import VertexDone, VertexFailed, VertexStarted, Warned
from builder.results import clamped, rewritten
from builder.solver.steplog import ReportedLog
from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.spec.reference import Reference
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.export.annotation import Annotation
    from builder.progress.deferred import DeferredReporter
    from builder.remote import Network
    from builder.request import BuildRequest, CachePlace
    from builder.results import Solved
    from builder.state import State
    from cache.records import Record
    from cache.spec.manifest import Image
    from cache.spec.oci import Descriptor

_STORED = BlobForm(compression=Compression.UNCOMPRESSED)


@value
class Made:
    """A result in one form: the image of every platform, and their index if there is one."""

    images: tuple[Image, ...]
    index: Descriptor | None = None

    @property
    def root(self) -> Descriptor:
        """What a name of the result leads to."""
        return self.index or self.images[0].manifest


@value
class Finished:
    """What was made: the result as the last output has it, names, destinations."""

    made: Made
    names: tuple[Reference, ...]
    written: tuple[str, ...]
    pushed: tuple[Reference, ...]

    @property
    def image(self) -> Image:
        """The image of the first platform."""
        return self.made.images[0]

    @property
    def id(self) -> str:
        """What `--iidfile` and `-q` say: the config's digest, or that of an index (O71)."""
        index = self.made.index
        return str(self.image.config_blob.digest if index is None else index.digest)


class Finisher:
    """Writes solved images to the local store and to outputs."""

    def __init__(
        self,
        request: BuildRequest,
        state: State,
        network: Network,
        reporter: DeferredReporter,
        first_id: int,
        *,
        makes_index: bool = False,
    ) -> None:
        """Report outputs as steps numbered from `first_id`; warnings say what one could not hold."""
        self._request = request
        self._state = state
        self._network = network
        self._reporter = reporter
        self._ids = itertools.count(first_id)
        self._makes_index = makes_index

    def finish(self, images: Sequence[Solved], outputs: tuple[OutputSpec, ...]) -> Finished:
        """Write everywhere; names move only after every output succeeded."""
        annotations = self._annotations(images)
        shown = local = self._publish(images, _STORED, annotations)
        written: list[str] = []
        pushed: list[Reference] = []
        kept: list[tuple[Made, tuple[Reference, ...]]] = [(local, self._request.tags)]
        for output in outputs:
            with self._step(f"exporting {output.type}") as progress:
                made = self._write(images, local, output, annotations)
                shown = made if made is not local else shown
                if output.push:
                    pushed += self._push(made, output, progress)
                kept += self._kept(made, output)
            if output.dest:
                written.append("standard output" if output.to_stdout else output.dest)
        if all(output.naming.store for output in outputs):
            for made, names in kept:
                self._state.images.put(replace(made.root, platform=None), names)
        named = [name for _, names in kept for name in names]
        named += [name for output in outputs for name in output.names]
        return Finished(shown, tuple(dict.fromkeys(named)), tuple(written), tuple(pushed))

    def keep_cache(
        self, place: CachePlace, records: Sequence[Record], selections: Mapping[bytes, bytes]
    ) -> None:
        """Write what steps gave where others can have it (--cache-to).

        Raises:
            PybuildError: it cannot be written, and errors are not to be ignored.
        """
        from builder.cachetransfer import write_cache  # noqa: PLC0415 - only when asked

        try:
            with self._step(f"exporting cache to {place.place}") as progress:
                platform = self._request.platform
                write_cache(
                    place, records, selections, platform, self._state, self._network, progress
                )
        except PybuildError as error:
            if not place.ignore_error:
                raise
            self._warn(f"no cache was written to {place.place}: {error.message}")

    def _annotations(self, images: Sequence[Solved]) -> tuple[Annotation, ...]:
        """Read --annotation; what nothing of the result can carry was refused before."""
        if not self._request.annotations:
            return ()
        from builder.export.annotation import parse_annotations  # noqa: PLC0415 - rarely asked for

        common = parse_annotations(self._request.annotations)
        built = {str(image.config.platform) for image in images}
        for unused in {str(text.platform) for text in common if text.platform} - built:
            self._warn(f"annotation of {unused}, which is not built, is not written")
        return common

    def _kept(self, made: Made, output: OutputSpec) -> list[tuple[Made, tuple[Reference, ...]]]:
        """What an output asks the store to know beside the tags: names, also by digest."""
        if not output.is_image or output.is_archive:
            return []
        naming, names = output.naming, output.names or self._request.tags
        found = list(output.names)
        if naming.canonical:
            found += [replace(name, digest=made.root.digest) for name in names]
        if naming.dangling and not (naming.dangling_only_empty and names):
            found.append(Reference.parse(f"{naming.dangling}@{made.root.digest}"))
        return [(made, tuple(found))] if found else []

    def _publish(
        self,
        images: Sequence[Solved],
        form: BlobForm,
        annotations: tuple[Annotation, ...],
        rewritten: int | None = None,
    ) -> Made:
        store, layers = self._state.store, self._state.layers
        made = tuple(
            publish(
                image.config,
                image.layers,
                base_layers=image.base_layers if form is _STORED else image.kept_layers,
                form=form,
                content=store,
                layer_store=layers,
                annotations=annotations,
                rewritten=rewritten,
                rewritten_from=image.base_layers,
            )
            for image in images
        )
        if not self._makes_index:
            return Made(made)
        return Made(made, publish_index(made, form=form, content=store, annotations=annotations))

    def _write(
        self,
        images: Sequence[Solved],
        local: Made,
        output: OutputSpec,
        annotations: tuple[Annotation, ...],
    ) -> Made:
        """Carry one output out; gives the result in the form that output has it."""
        from builder.export.write import Exporter  # noqa: PLC0415 - only with outputs

        epoch = output.times.over(self._request.source_date_epoch)
        made = local
        if output.is_image:
            formed, rewritten = self._timed(images, output, epoch)
            texts = (*annotations, *output.annotations)
            made = self._publish(formed, BlobForm.of(output), texts, rewritten)
            if output.is_archive:
                made = _dated(made, epoch)
        elif output.annotations:
            self._warn(f"type={output.type} has no manifest to annotate")
        layers = self._state.layers
        exporter = Exporter(layers, layers, sys.stdout.buffer, self._warn, epoch)
        exporter.write(output, made.images, self._request.tags, index=made.index)
        return made

    def _timed(
        self, images: Sequence[Solved], output: OutputSpec, epoch: int | None
    ) -> tuple[list[Solved], int | None]:
        """Give images the times of an output, and the epoch layers were rewritten to."""
        rewrite = output.times.rewrite and epoch is not None
        if output.times.rewrite and not rewrite:
            self._warn("rewrite-timestamp is specified, but no source-date-epoch was found")
        timed = list(images)
        if output.times.overridden and epoch is not None:
            timed = [clamped(image, epoch) for image in timed]
        if rewrite and epoch is not None:
            timed = [rewritten(image, epoch, self._state.layers) for image in timed]
        return timed, epoch if rewrite else None

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Callable[[str, int, int], None]]:
        """Show an output as a step; gives what its transfers are reported to."""
        self._reporter.begin()
        log = ReportedLog(next(self._ids), self._reporter)
        self._reporter.emit(VertexStarted(log.id, name, time.monotonic()))
        try:
            with self._network.progress.to(log.progress):
                yield log.progress
        except BaseException as error:
            failed = VertexFailed(log.id, str(error), cancelled=False, time=time.monotonic())
            self._reporter.emit(failed)
            raise
        self._reporter.emit(VertexDone(log.id, time.monotonic()))

    def _warn(self, text: str) -> None:
        self._reporter.emit(Warned(text))

    def _push(
        self, made: Made, output: OutputSpec, progress: Callable[[str, int, int], None]
    ) -> list[Reference]:
        from builder.pushing import push  # noqa: PLC0415 - only when asked

        names = output.names or self._request.tags
        if output.naming.by_digest:
            names = tuple(replace(name, tag=None) for name in names)
        for name in names:
            push(self._state, self._network, made.images, made.index, name, progress)
        return [replace(name, digest=made.root.digest) for name in names]


def _dated(made: Made, epoch: int | None) -> Made:
    """Say in the root's descriptor when it was made, as archives do (O35)."""
    from builder.export.layout import CREATED  # noqa: PLC0415 - for archives only
    from builder.export.timestamp import rfc3339  # noqa: PLC0415 - likewise

    created = made.images[0].config.created if epoch is None else rfc3339(epoch)
    annotations = {CREATED: created, **made.root.annotations}
    if made.index is not None:
        return replace(made, index=replace(made.index, annotations=annotations))
    first = made.images[0]
    manifest = replace(first.manifest, annotations=annotations)
    return replace(made, images=(replace(first, manifest=manifest),))
