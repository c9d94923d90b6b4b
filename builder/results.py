"""A solved graph as images before they have a form: configs completed, times chosen.

Knows layers and documents as values; writes layers only to rewrite their times.
"""

from __future__ import annotations

from builder.errors import SandboxError
from builder.export.exporter import assemble
from builder.export.timestamp import rfc3339, seconds_of
from builder.solver.output import TreeOutput
from cache.hints import TYPE_CHECKING
from cache.spec.config import History
from cache.value import replace, value
from frontend.graph import ImageOp, Ref

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.clock import Clock
    from builder.solver.output import Output
    from cache.layers import LayerStore
    from cache.spec.config import ImageConfig
    from cache.spec.oci import Layer
    from frontend.dockerfile.lower import Lowered


@value
class Solved:
    """An image before it has a form: config, layers, how much of both is the base's."""

    config: ImageConfig
    layers: tuple[Layer, ...]
    base_layers: int
    base_history: int = 0

    @property
    def kept_layers(self) -> int:
        """How many of the base's layers an output can keep: as far as they are compressed.

        A base that was built here is stored plain; it goes out in the form asked for, like new
        layers.
        """
        base = self.layers[: self.base_layers]
        plain = (n for n, layer in enumerate(base) if layer.blob.digest == layer.diff_id)
        return next(plain, self.base_layers)


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
    return Solved(config, result.layers, base_layers, len(config.history) - len(history))


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


def clamped(image: Solved, epoch: int) -> Solved:
    """The image with no new history entry and no `created` later than an output's epoch (O23)."""
    base, added = (
        image.config.history[: image.base_history],
        image.config.history[image.base_history :],
    )
    history = (*base, *(replace(entry, created=_earlier(entry.created, epoch)) for entry in added))
    created = _earlier(image.config.created, epoch)
    return replace(image, config=replace(image.config, history=history, created=created))


def _earlier(created: str, epoch: int) -> str:
    seconds = seconds_of(created)
    return created if seconds is not None and seconds <= epoch else rfc3339(epoch)


def rewritten(image: Solved, epoch: int, store: LayerStore) -> Solved:
    """The image with no entry of a new layer later than the epoch (O22); base layers stay."""
    from builder.export.rewrite import rewrite_layer  # noqa: PLC0415 - rarely asked for

    kept = image.layers[: image.base_layers]
    new = (rewrite_layer(layer, store, epoch) for layer in image.layers[image.base_layers :])
    layers = (*kept, *new)
    config = replace(image.config, diff_ids=tuple(layer.diff_id for layer in layers))
    return replace(image, layers=layers, config=config)
