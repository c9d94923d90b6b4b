"""What a command line asks to be written: every -o and --push, checked before anything is built."""

from __future__ import annotations

from builder.errors import UsageError
from builder.export.output import OutputSpec, OutputType, check_outputs
from builder.platforms import makes_index, platforms_of
from cache.hints import TYPE_CHECKING
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.request import BuildRequest

_DELETING = "buildx.local.delete"  # the entitlement that mode=delete takes


def outputs_of(request: BuildRequest, *, stdout_is_terminal: bool) -> tuple[OutputSpec, ...]:
    """Parse and check every -o, and --push as an output of its own.

    Raises:
        UsageError: an output that cannot be written, or a push without a name.
    """
    if not (request.outputs or request.push or request.annotations):
        return ()
    from builder.export.destination import check_destination  # noqa: PLC0415 - rarely needed
    from builder.export.option import parse_output  # noqa: PLC0415 - likewise

    outputs = [parse_output(text) for text in request.outputs]
    if request.push:
        outputs = [_pushed(output) for output in outputs]
        if not any(output.push for output in outputs):
            outputs.append(OutputSpec(OutputType.REGISTRY, push=True))
    check_outputs(outputs)
    for output in outputs:
        check_destination(output, stdout_is_terminal=stdout_is_terminal)
        if request.iidfile and output.type in {OutputType.LOCAL, OutputType.TAR}:
            msg = f"--iidfile names an image, which an output of type {output.type} is not"
            raise UsageError(msg, hint="leave --iidfile out, or write type=oci")
        _check_deleting(output, request.allow)
        if output.push and not (output.names or request.tags or output.naming.dangling):
            msg = "tag is needed when pushing to registry"
            raise UsageError(msg, hint="name the image with -t REGISTRY/REPOSITORY:TAG")
    _check_index(request, outputs)
    _check_annotations(request, outputs)
    return tuple(outputs)


def _check_index(request: BuildRequest, outputs: Sequence[OutputSpec]) -> None:
    archives = [output for output in outputs if output.type is OutputType.DOCKER and output.dest]
    if archives and makes_index(request):
        msg = "docker exporter does not currently support exporting manifest lists"
        raise UsageError(msg, hint="use type=oci, or build one platform")


def _check_annotations(request: BuildRequest, outputs: Sequence[OutputSpec]) -> None:
    """See that every output has what is annotated."""
    if not (request.annotations or any(output.annotations for output in outputs)):
        return
    from builder.export.annotation import (  # noqa: PLC0415 - rarely asked for
        check_annotations,
        parse_annotations,
    )

    common = parse_annotations(request.annotations)
    forms = [(output.annotations, output.oci_mediatypes) for output in outputs if output.is_image]
    for own, oci_types in forms if outputs else [((), True)]:
        check_annotations(
            (*common, *own),
            platforms_of(request),
            has_index=makes_index(request),
            oci_types=oci_types,
        )


def _pushed(output: OutputSpec) -> OutputSpec:
    """What --push makes of an output."""
    return replace(output, push=True) if output.type is OutputType.IMAGE else output


def _check_deleting(output: OutputSpec, allow: Sequence[str]) -> None:
    if output.delete and _DELETING not in allow:
        msg = f"mode=delete would remove what is in {output.dest!r} and not in the result"
        raise UsageError(msg, hint=f"add --allow {_DELETING} to let it")


def insecure_hosts(request: BuildRequest, outputs: Sequence[OutputSpec]) -> tuple[str, ...]:
    """Hosts that are spoken to without verification: those named, and of outputs that say so."""
    more = (
        name.registry
        for output in outputs
        if output.naming.insecure
        for name in output.names or request.tags
    )
    return tuple(dict.fromkeys((*request.insecure_registries, *more)))
