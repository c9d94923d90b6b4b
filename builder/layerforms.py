"""In which form the layer of each step will be wanted, as far as outputs and graph say it before.

A guess that is wrong costs time only. Must not know how layers are compressed or kept.
"""

from __future__ import annotations

from builder.export.exporter import BlobForm
from builder.export.output import Compression
from cache.hints import TYPE_CHECKING
from cache.value import replace, value
from frontend.graph import BindMount, CopyOp, ExecOp, MkdirOp, Ref

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.export.output import OutputSpec
    from frontend.graph import Graph, Op

_PLAIN = BlobForm().layer_type(Compression.UNCOMPRESSED)


@value
class LayerForm:
    """A media type to compress a layer to while it is written, "" for none.

    `alone`: nobody will ask for the tar.
    """

    media_type: str = ""
    alone: bool = False


TAR = LayerForm()


def form_of(outputs: Sequence[OutputSpec]) -> LayerForm:
    """What all outputs want new layers in; TAR if they do not agree."""
    types = {_media_type(output) for output in outputs}
    wanted = types - {"", _PLAIN}
    return LayerForm(wanted.pop(), len(types) == 1) if len(wanted) == 1 else TAR


def _media_type(output: OutputSpec) -> str:
    """The media type an output has its layers in; "" if that is not known before it is written."""
    if not output.is_image or output.compression_level is not None or output.times.rewrite:
        return ""
    return BlobForm.of(replace(output, oci_mediatypes=True)).layer_type(output.compression)


def forms(graph: Graph, results: Sequence[Ref], form: LayerForm) -> dict[int, LayerForm]:
    """By the identity of its operation, the form of each layer of a result that is not a tar only.

    What COPY wrote stays a tar too: the next COPY takes from it what did not change.
    """
    if not form.media_type:
        return {}
    read = _read(graph)
    beside = replace(form, alone=False)
    found: dict[int, LayerForm] = {}
    pending = set(results)
    while pending:
        ref = pending.pop()
        op, inputs = graph[ref].op, graph[ref].inputs
        pending.update(inputs[:1])
        mounts = op.mounts if isinstance(op, ExecOp) else ()
        if any(isinstance(mount, BindMount) for mount in mounts):
            continue  # it writes a layer of what is mounted, too
        found[id(op)] = form if isinstance(op, ExecOp) and ref not in read else beside
    return found


def _read(graph: Graph) -> set[Ref]:
    """The vertices out of whose layers other steps read files."""
    read: set[Ref] = set()
    for index in reversed(range(len(graph.vertices))):
        vertex = graph.vertices[index]
        read.update(vertex.inputs[1:])
        if Ref(index) in read or _asks_for_users(vertex.op):
            read.update(vertex.inputs[:1])
    return read


def _asks_for_users(op: Op) -> bool:
    """Whether an operation looks a name up in the tree that it works on."""
    if not isinstance(op, (CopyOp, MkdirOp)) or not op.owner:
        return False
    return not all(part.isdecimal() for part in op.owner.split(":"))
