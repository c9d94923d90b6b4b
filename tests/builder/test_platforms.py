"""Several platforms: which are asked for, and one graph for all of them."""

from __future__ import annotations

import pytest

from builder.errors import UsageError
from builder.platforms import foreign_hint, joined, makes_index, platforms_of
from builder.request import BuildRequest
from cache.spec.config import ImageConfig
from cache.spec.oci import Platform
from frontend.dockerfile.history import PendingHistory
from frontend.dockerfile.lower import Lowered, LoweredStage
from frontend.graph import ContextOp, GraphBuilder, MkdirOp, ScratchOp
from frontend.source import Span

AMD, ARM = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def request(*platforms, **build_args):
    """A request for platforms."""
    return BuildRequest(
        ".", platform=AMD, platforms=platforms, build_args=tuple(build_args.items())
    )


def lowered(*paths):
    """One WORKDIR after the other, beside a context that is not used."""
    graph = GraphBuilder()
    graph.add(ContextOp())
    ref = graph.add(ScratchOp())
    history = []
    for path in paths:
        ref = graph.add(MkdirOp(path), ref, name=f"mkdir {path}", stage="s")
        history.append(PendingHistory(f"WORKDIR {path}", ref))
    history.append(PendingHistory("ENV a=b", None))
    stage = LoweredStage(0, "s", "scratch", ref, Span(1, 1))
    return Lowered(graph.build(), ref, ImageConfig(), tuple(history), (), (stage,))


def test_each_platform_is_built_once():
    """Platforms keep their order; the same one twice is one, none is the machine's own (O31)."""
    assert platforms_of(request(ARM, AMD, ARM)) == (ARM, AMD)
    assert platforms_of(request()) == (AMD,)
    assert not makes_index(request(AMD))
    assert makes_index(request(AMD, ARM))


def test_an_index_can_be_asked_for():
    """BUILDKIT_MULTI_PLATFORM makes an index of one, and may not forbid one of several (O31)."""
    assert makes_index(request(AMD, BUILDKIT_MULTI_PLATFORM="1"))
    assert not makes_index(request(AMD, BUILDKIT_MULTI_PLATFORM="false"))
    with pytest.raises(UsageError, match="invalid boolean"):
        makes_index(request(AMD, BUILDKIT_MULTI_PLATFORM="perhaps"))
    with pytest.raises(UsageError, match="multiple target platforms is not allowed"):
        makes_index(request(AMD, ARM, BUILDKIT_MULTI_PLATFORM="0"))


def test_equal_steps_become_one_vertex():
    """What two platforms have in common is in the graph once; refs follow (S08)."""
    one, two = joined([lowered("/a", "/b"), lowered("/a", "/c")])
    assert one.graph is two.graph
    made = [v.op.path for v in one.graph.vertices if isinstance(v.op, MkdirOp)]
    assert made == ["/a", "/b", "/c"]
    assert one.graph[one.result].op.path == "/b"
    assert two.graph[two.result].op.path == "/c"
    assert [two.graph[entry.ref].op.path for entry in two.history[:2]] == ["/a", "/c"]
    assert two.history[2].ref is None
    assert two.graph[two.stages[0].ref].op.path == "/c"


def test_one_platform_stays_as_it_is():
    """A build for one platform is not touched."""
    alone = lowered("/a")
    assert joined([alone]) == (alone,)


def test_a_program_of_another_machine_is_told_apart():
    """A RUN that cannot start what the image holds says how to build for the platform (S08)."""
    hint = foreign_hint(('exec: "/bin/sh": exec format error',), AMD)
    assert "linux/amd64" in hint
    assert "$BUILDPLATFORM" in hint
    assert foreign_hint(("not found",), AMD) is None
