"""Several platforms in one build: which are asked for, and their graphs as one (S08).

Knows graphs and values; resolves, runs and writes nothing.
"""

from __future__ import annotations

from builder.errors import UsageError
from cache.hints import TYPE_CHECKING
from cache.value import replace
from frontend.graph import Graph, GraphBuilder, Ref

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.request import BuildRequest
    from cache.spec.oci import Platform
    from frontend.dockerfile.lower import Lowered

_FOREIGN = "exec format error"  # what the kernel says of programs of another machine
_MULTI = "BUILDKIT_MULTI_PLATFORM"
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False", ""})


def platforms_of(request: BuildRequest) -> tuple[Platform, ...]:
    """Every platform to build for, once, in the order asked."""
    return tuple(dict.fromkeys(request.platforms)) or (request.platform,)


def makes_index(request: BuildRequest) -> bool:
    """Whether the result is an index: of several platforms, or of one when told so (O31).

    Raises:
        UsageError: the build argument that tells so is no boolean, or forbids what is asked.
    """
    text = dict(request.build_args).get(_MULTI, "")
    several = len(platforms_of(request)) > 1
    if text and text in _FALSE and several:
        msg = "conflicting config: returning multiple target platforms is not allowed"
        raise UsageError(msg, hint=f"leave out --build-arg {_MULTI}, or build one platform")
    if text not in _TRUE | _FALSE:
        msg = f"invalid boolean value for multi-platform: {text[:40]!r}"
        raise UsageError(msg, hint=f"write --build-arg {_MULTI}=1")
    return text in _TRUE or several


def joined(parts: Sequence[Lowered]) -> tuple[Lowered, ...]:
    """The same Dockerfile lowered for several platforms over one common graph.

    Equal operations on equal inputs, such as stages pinned to $BUILDPLATFORM, become one vertex.
    """
    if len(parts) == 1:
        return tuple(parts)
    builder = GraphBuilder()
    places = [_add(builder, part.graph) for part in parts]
    graph = builder.build()
    return tuple(_moved(part, graph, place) for part, place in zip(parts, places, strict=True))


def _add(builder: GraphBuilder, graph: Graph) -> list[Ref]:
    """Add a graph's vertices; gives where each is now."""
    place: list[Ref] = []
    for vertex in graph.vertices:
        inputs = (place[ref] for ref in vertex.inputs)
        place.append(
            builder.add(
                vertex.op,
                *inputs,
                name=vertex.name,
                span=vertex.span,
                stage=vertex.stage,
                fresh=vertex.fresh,
            )
        )
    return place


def _moved(part: Lowered, graph: Graph, place: list[Ref]) -> Lowered:
    return replace(
        part,
        graph=graph,
        result=place[part.result],
        history=tuple(
            entry if entry.ref is None else replace(entry, ref=place[entry.ref])
            for entry in part.history
        ),
        stages=tuple(replace(stage, ref=place[stage.ref]) for stage in part.stages),
        also=tuple(place[ref] for ref in part.also),
    )


def foreign_hint(log_tail: Sequence[str], host: Platform) -> str | None:
    """What to do when a step failed because its programs are for another machine."""
    if not any(line.endswith(_FOREIGN) for line in log_tail):
        return None
    return (
        f"this machine runs {host} programs: install an emulator for others (apt install"
        " qemu-user-static; user namespaces are needed, before Linux 6.7 also binfmt-support), or start the stage with"
        " FROM --platform=$BUILDPLATFORM and cross-compile"
    )
