"""From a solved graph to outputs: the config completed, the image named, written, pushed."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from typing import TYPE_CHECKING

from builder.errors import SandboxError, UsageError
from builder.export.exporter import BlobForm, assemble, publish
from builder.export.output import Compression, OutputSpec, OutputType, check_outputs
from builder.export.write import Exporter
from builder.progress.events import VertexDone, VertexFailed, VertexStarted, Warned
from builder.solver.output import TreeOutput
from builder.solver.steplog import ReportedLog
from cache.spec.config import History
from cache.value import replace, value
from frontend.graph import ImageOp, Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.clock import Clock
    from builder.progress.deferred import DeferredReporter
    from builder.remote import Network
    from builder.request import BuildRequest
    from builder.solver.output import Output
    from builder.state import State
    from cache.spec.config import ImageConfig
    from cache.spec.digest import Digest
    from cache.spec.manifest import Image
    from cache.spec.oci import Layer
    from cache.spec.reference import Reference
    from frontend.dockerfile.lower import Lowered

_STORED = BlobForm(compression=Compression.UNCOMPRESSED)


@value
class Solved:
    """An image before it has a form: config, layers, how many of them are the base's."""

    config: ImageConfig
    layers: tuple[Layer, ...]
    base_layers: int


@value
class Finished:
    """What was made: the image as the last output has it, names, destinations."""

    image: Image
    names: tuple[Reference, ...]
    written: tuple[str, ...]
    pushed: Digest | None


def outputs_of(request: BuildRequest, *, stdout_is_terminal: bool) -> tuple[OutputSpec, ...]:
    """Parse and check every -o, and --push as an output of its own.

    Raises:
        UsageError: an output that cannot be written, or a push without a name.
    """
    from builder.export.destination import check_destination  # noqa: PLC0415 - rarely needed
    from builder.export.option import parse_output  # noqa: PLC0415 - likewise

    outputs = [parse_output(text) for text in request.outputs]
    if request.push and not any(output.push for output in outputs):
        outputs.append(OutputSpec(OutputType.REGISTRY, push=True))
    check_outputs(outputs)
    for output in outputs:
        check_destination(output, stdout_is_terminal=stdout_is_terminal)
        if output.push and not (output.names or request.tags):
            msg = "tag is needed when pushing to registry"
            raise UsageError(msg, hint="name the image with -t REGISTRY/REPOSITORY:TAG")
    return tuple(outputs)


def solved(lowered: Lowered, outputs: Mapping[Ref, Output], clock: Clock) -> Solved:
    """Complete the config with history, times and diff_ids."""
    result = outputs[lowered.result]
    if not isinstance(result, TreeOutput):
        msg = "the target is no file system"
        raise SandboxError(msg)
    base_layers = _base_layers(lowered, outputs)
    history = [
        History(
            entry.created_by, _created(entry.ref, outputs), entry.comment, "", entry.ref is None
        )
        for entry in lowered.history
    ]
    config = assemble(
        lowered.config,
        history,
        result.layers,
        base_layers=base_layers,
        now=clock.seconds(),
        epoch=clock.epoch,
    )
    return Solved(config, result.layers, base_layers)


def _created(ref: Ref | None, outputs: Mapping[Ref, Output]) -> str:
    output = outputs[ref] if ref is not None else None
    return output.created if isinstance(output, TreeOutput) else ""


def _base_layers(lowered: Lowered, outputs: Mapping[Ref, Output]) -> int:
    """How many layers of the result are its base image's."""
    ref = lowered.result
    while lowered.graph[ref].inputs:
        ref = lowered.graph[ref].inputs[0]
    output = outputs[ref]
    is_image = isinstance(lowered.graph[ref].op, ImageOp)
    return len(output.layers) if is_image and isinstance(output, TreeOutput) else 0


def _outgoing(image: Solved) -> Solved:
    """Let an output keep the base's layers as far as they are compressed.

    A base that was built here is stored plain; it goes out in the form asked for, like new layers.
    """
    base = image.layers[: image.base_layers]
    plain = (n for n, layer in enumerate(base) if layer.blob.digest == layer.diff_id)
    return replace(image, base_layers=next(plain, image.base_layers))


class Finisher:
    """Writes a solved image to the local store and to outputs."""

    def __init__(
        self,
        request: BuildRequest,
        state: State,
        network: Network,
        reporter: DeferredReporter,
        first_id: int,
    ) -> None:
        """Report outputs as steps numbered from `first_id`; warnings say what one could not hold."""
        self._request = request
        self._state = state
        self._network = network
        self._reporter = reporter
        self._ids = itertools.count(first_id)
        epoch = request.source_date_epoch
        self._exporter = Exporter(state.layers, state.layers, sys.stdout.buffer, self._warn, epoch)

    def finish(self, image: Solved, outputs: tuple[OutputSpec, ...]) -> Finished:
        """Write everywhere; names move only after every output succeeded."""
        shown = local = self._publish(image, _STORED)
        written: list[str] = []
        pushed: Digest | None = None
        for output in outputs:
            with self._step(f"exporting {output.type}") as progress:
                made = self._write(image, local, output)
                shown = made if made is not local else shown
                if output.push:
                    pushed = self._push(made, output, progress)
            if output.dest:
                written.append("standard output" if output.to_stdout else output.dest)
        self._state.images.put(replace(local.manifest, platform=None), self._request.tags)
        return Finished(shown, self._names(outputs), tuple(written), pushed)

    def _names(self, outputs: tuple[OutputSpec, ...]) -> tuple[Reference, ...]:
        names = [*self._request.tags, *(name for output in outputs for name in output.names)]
        return tuple(dict.fromkeys(names))

    def _publish(self, image: Solved, form: BlobForm) -> Image:
        state = self._state
        return publish(
            image.config,
            image.layers,
            base_layers=image.base_layers,
            form=form,
            content=state.store,
            layer_store=state.layers,
        )

    def _write(self, image: Solved, local: Image, output: OutputSpec) -> Image:
        """Carry one output out; gives the image in the form that output has it."""
        is_tree = output.type in {OutputType.LOCAL, OutputType.TAR, OutputType.CACHEONLY}
        made = local if is_tree else self._publish(_outgoing(image), BlobForm.of(output))
        self._exporter.write(output, [made], self._request.tags)
        return made

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
        self, image: Image, output: OutputSpec, progress: Callable[[str, int, int], None]
    ) -> Digest:
        from builder.pushing import push  # noqa: PLC0415 - only when asked

        digest = image.manifest.digest
        for name in output.names or self._request.tags:
            digest = push(self._state, self._network, image, name, progress)
        return digest
