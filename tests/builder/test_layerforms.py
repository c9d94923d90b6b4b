"""Which layers are compressed while they are written, and which of them instead of being stored."""

from __future__ import annotations

import pytest

from builder.export.option import parse_output
from builder.layerforms import TAR, LayerForm, form_of, forms
from cache.spec import oci
from frontend.graph import CopyOp, ExecOp, GraphBuilder, MkdirOp, PathSource, ScratchOp

ZSTD = "type=oci,dest=a,compression=zstd"
ALONE = LayerForm(oci.OCI_LAYER_ZSTD, alone=True)
BESIDE = LayerForm(oci.OCI_LAYER_ZSTD)


@pytest.mark.parametrize(
    ("outputs", "form"),
    [
        ([ZSTD], ALONE),
        ([ZSTD, "type=docker,dest=b,compression=zstd"], ALONE),
        ([ZSTD, "type=local,dest=b"], BESIDE),
        ([ZSTD, "type=oci,dest=b,compression=uncompressed"], BESIDE),
        ([ZSTD, "type=oci,dest=b,compression=gzip"], TAR),
        (["type=oci,dest=b,compression=uncompressed"], TAR),
        (["type=oci,dest=b,compression=gzip,compression-level=9"], TAR),
        (["type=local,dest=b"], TAR),
    ],
)
def test_outputs_say_what_layers_are_wanted_in(outputs, form):
    """Only what every output wants stands alone; a level or another tree needs the tar (O34)."""
    assert form_of([parse_output(text) for text in outputs]) == form


class Steps:
    """A graph in the making."""

    def __init__(self):
        self.builder = GraphBuilder()
        self.base = self.builder.add(ScratchOp())

    def run(self, text, below):
        return self.builder.add(ExecOp((text,)), below)

    def copy(self, below, source, owner=""):
        op = CopyOp((PathSource(1, "/a"),), "/", owner=owner)
        return self.builder.add(op, below, source)

    def alone(self, result):
        """The commands of the steps whose layers are stored in one form."""
        graph = self.builder.build()
        found = forms(graph, [result], ALONE)
        ops = {id(vertex.op): vertex.op for vertex in graph.vertices}
        return {ops[key].argv[0] for key, form in found.items() if form.alone}


def test_run_stands_alone_and_copy_does_not():
    """COPY takes from its layer of before what did not change, so that stays a tar."""
    steps = Steps()
    source = steps.run("build", steps.base)
    first = steps.run("first", steps.base)
    copied = steps.copy(first, source)
    assert steps.alone(steps.run("last", copied)) == {"first", "last"}


def test_what_a_copy_reads_is_stored_as_a_tar():
    """Also what lies below the step that is named."""
    steps = Steps()
    first = steps.run("first", steps.base)
    second = steps.run("second", first)
    third = steps.run("third", second)
    assert steps.alone(steps.copy(third, second)) == {"third"}


@pytest.mark.parametrize(
    ("owner", "alone"), [("", {"first"}), ("1:2", {"first"}), ("app", set()), ("1:app", set())]
)
def test_names_of_users_are_read_from_the_layers_below(owner, alone):
    """--chown by name looks into /etc/passwd, WORKDIR under USER too (CP02, I05)."""
    steps = Steps()
    first = steps.run("first", steps.base)
    assert steps.alone(steps.copy(first, steps.base, owner)) == alone
    made = steps.builder.add(MkdirOp("/a", owner), first)
    assert steps.alone(made) == alone
