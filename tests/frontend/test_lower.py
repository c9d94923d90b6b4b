"""Lowering as a whole: reachability, resolution, limits, and that no input breaks it."""

from __future__ import annotations

import contextlib
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_resolver import IMAGES, FakeResolver, UnknownImageError
from support.lowering import lowered

from cache.errors import PybuildError
from cache.spec.config import ImageConfig
from cache.spec.oci import Platform
from frontend.dockerfile import remote
from frontend.dockerfile.instructions import parse_dockerfile
from frontend.dockerfile.lower import LoweringError, LowerRequest, lower
from frontend.dockerfile.lower_copy import destination, source_path
from frontend.dockerfile.problems import MistakeError
from frontend.graph import CopyOp, ExecOp, ImageOp
from frontend.source import DockerfileError, SourceFile

ARM = Platform("linux", "arm64")


def test_only_needed_images_are_resolved_each_once() -> None:
    """S03, F08: unreachable stages ask nothing; a base used twice is asked for once."""
    resolver = FakeResolver()
    lowered(
        "FROM nosuch AS unused\nFROM busybox AS a\nRUN a\nFROM busybox\nCOPY --from=a /x /\n"
        "COPY --from=docker.io/library/busybox:latest /y /\n",
        resolver=resolver,
    )
    assert resolver.asked == [("busybox", Platform())]


def test_resolver_is_asked_for_the_stage_platform() -> None:
    """F03, V41: --platform chooses the base; the stage's image op says so; the result is the target's."""
    resolver = FakeResolver()
    result = lowered(
        "FROM --platform=$BUILDPLATFORM golang AS b\nRUN x\nFROM busybox\nCOPY --from=b /x /\n",
        resolver=resolver,
        platform=ARM,
    )
    assert resolver.asked == [("busybox", ARM), ("golang", Platform())]
    platforms = {v.op.platform for v in result.graph.vertices if isinstance(v.op, ImageOp)}
    assert platforms == {ARM, Platform()}
    assert result.config.platform == ARM


def test_ports_are_told_in_the_order_of_their_words() -> None:
    """O11: EXPOSE sorts what is written, before variables are expanded."""
    result = lowered("FROM busybox\nENV W='80 443/udp'\nEXPOSE 9 $W 22\n")
    assert "EXPOSE [80/tcp 443/udp 22/tcp 9/tcp]" in str(result)


def test_keywords_are_shown_in_capitals() -> None:
    """O15: a step's name has its keyword in capitals and all else as written."""
    result = lowered("FROM busybox\nrUn  echo Hi\ncopy A /b\n")
    names = [vertex.name for vertex in result.graph.vertices]
    assert "[2/3] RUN  echo Hi" in names
    assert "[3/3] COPY A /b" in names


def test_needed_images_are_announced() -> None:
    """F08: what will be asked for is known beforehand, unreachable and wrong names left out."""
    source = SourceFile(
        "Dockerfile",
        "FROM nosuch AS unused\nFROM --platform=linux/arm64 busybox AS a\n"
        "FROM alpine\nCOPY --from=a x /\nCOPY --from=9 x /\n"
        "RUN --mount=from=golang,target=/m x\nCOPY --from=scratch x /\n",
    )
    told: list[tuple[tuple[str, Platform], ...]] = []
    with pytest.raises(DockerfileError):
        lower(
            source,
            parse_dockerfile(source),
            LowerRequest(),
            FakeResolver(),
            announce=told.append,
        )
    assert [set(wanted) for wanted in told] == [
        {("alpine", Platform()), ("golang", Platform()), ("busybox", ARM)}
    ]


def test_resolver_failure_knows_the_from() -> None:
    """P05: a base image that cannot be had shows the FROM's line and keeps its cause."""
    with pytest.raises(LoweringError) as caught:
        lowered("# first\nFROM nosuch:1\nRUN x\n")
    error = caught.value
    assert isinstance(error.cause, UnknownImageError)
    assert error.span.start == 2
    assert ">>> FROM nosuch:1" in error.render()
    assert error.hint == "check the name"


def test_target_unknown_suggests_the_nearest() -> None:
    """T88: a mistyped target is no error of the file but of the request."""
    with pytest.raises(MistakeError, match="could not be found") as caught:
        lowered("FROM busybox AS build\n", target="bulid")
    assert caught.value.hint == 'did you mean "build"?'


def test_named_context_replaces_stage_and_image() -> None:
    """S06, S07: a named context wins over a stage and an image of that name; scratch stays empty."""
    text = "FROM busybox AS golang\nRUN x\nFROM scratch\nCOPY --from=golang /a /\n"
    result = lowered(text, contexts=(("golang", ""), ("scratch", "")))
    assert not any(isinstance(v.op, ExecOp) for v in result.graph.vertices)
    assert "context" in result.graph.dump()


def test_ten_thousand_stages_in_a_chain() -> None:
    """G04: a chain of stages needs no recursion and no quadratic time."""
    lines = ["FROM busybox AS s0", "RUN first"]
    lines += [f"FROM s{n} AS s{n + 1}\nENV N=x" for n in range(10_000)]
    begin = time.monotonic()
    result = lowered("\n".join([*lines, "RUN last", ""]))
    assert time.monotonic() - begin < 20
    assert len(result.graph.vertices) == 3
    assert len(result.history) == 10_002
    assert len(result.stages) == 10_001


def test_diamonds_of_stages_are_walked_once() -> None:
    """G04: stages that are read along 2^60 paths are lowered once each."""
    lines = ["FROM busybox AS s0", "RUN x"]
    for n in range(60):
        lines += [f"FROM s{n} AS s{n + 1}", f"COPY --from=s{n} /a /b"]
    result = lowered("\n".join(lines) + "\n")
    assert len(result.graph.vertices) == 62


@pytest.mark.parametrize("keyword", ["ARG", "ENV", "LABEL"])
def test_doubling_variables_end_in_an_error(keyword: str) -> None:
    """G01: values that double are stopped at a limit, with the line."""
    head = "" if keyword == "ARG" else "FROM busybox\n"
    middle = "\n".join(
        f"{'ARG' if keyword == 'ARG' else 'ENV'} a{n + 1}=$a{n}$a{n}" for n in range(60)
    )
    tail = "\nFROM busybox\n" if keyword == "ARG" else "\nLABEL x=$a60\n"
    first = f"{'ARG' if keyword == 'ARG' else 'ENV'} a0=xx\n"
    with pytest.raises(DockerfileError) as caught:
        lowered(head + first + middle + tail)
    assert "longer than" in caught.value.diagnostics[0].message or "larger" in caught.value.message


def test_many_copies_of_long_texts_end_in_an_error() -> None:
    """G01: an ARG that is long and shown by every later RUN cannot fill memory."""
    text = f"FROM busybox\nARG A={'x' * 60_000}\n" + "".join(f"RUN {n}\n" for n in range(1000))
    with pytest.raises(DockerfileError, match="too much text"):
        lowered(text)


def test_port_ranges_are_bounded() -> None:
    """G01: full ranges of ports, again and again, are stopped too."""
    with pytest.raises(DockerfileError, match="too much text"):
        lowered("FROM busybox\n" + "EXPOSE 0-65535\n" * 200)


def test_errors_reported_are_limited() -> None:
    """P05: a file with thousands of mistakes shows the first hundred."""
    with pytest.raises(DockerfileError) as caught:
        lowered("FROM busybox\n" + "STOPSIGNAL no\n" * 1000)
    assert len(caught.value.diagnostics) == 100


def test_warnings_are_given_once() -> None:
    """T14: a rule that fires twice at one place counts once."""
    result = lowered("FROM busybox\nWORKDIR $x$x\n")
    assert [w.rule for w in result.warnings] == ["UndefinedVar", "WorkdirRelativePath"]


def test_check_argument_replaces_the_directive() -> None:
    """P15: BUILDKIT_DOCKERFILE_CHECK wins over the file's own directive."""
    text = "# check=error=true\nFROM busybox\nCMD x\n"
    assert lowered(text, build_args=(("BUILDKIT_DOCKERFILE_CHECK", "skip=all"),)).warnings == ()


def test_history_refers_to_the_vertices_of_layers() -> None:
    """O10: layers point at the vertex that makes them, in order; metadata at none."""
    result = lowered("FROM busybox\nENV A=1\nRUN a\nCOPY --link x /x\nWORKDIR /\nWORKDIR /w\n")
    kinds = [
        None if entry.ref is None else type(result.graph[entry.ref].op).__name__
        for entry in result.history
    ]
    assert kinds == [None, "ExecOp", "LinkOp", None, "MkdirOp"]
    assert result.history[-1].ref == result.result
    assert {entry.comment for entry in result.history} == {"buildkit.dockerfile.v0"}


def test_base_triggers_of_an_image_do_not_survive() -> None:
    """I13: triggers run once and are gone from the result."""
    images = {**IMAGES, "t": ImageConfig(on_build=("ENV A=1", "LABEL b=2"))}
    result = lowered("FROM t\n", resolver=FakeResolver(images))
    assert result.config.on_build == ()
    assert ("A", "1") in result.config.env
    assert result.config.labels == (("b", "2"),)


def test_hostname_comes_from_the_build_argument() -> None:
    """R10, V43: BUILDKIT_SANDBOX_HOSTNAME names the sandbox."""
    result = lowered("FROM busybox\nRUN x\n", build_args=(("BUILDKIT_SANDBOX_HOSTNAME", "h"),))
    op = result.graph[result.result].op
    assert isinstance(op, ExecOp)
    assert op.hostname == "h"


def test_proxies_are_no_part_of_identity() -> None:
    """V42: another proxy gives an equal operation."""

    def op(value: str) -> object:
        result = lowered("FROM busybox\nRUN x\n", build_args=(("HTTP_PROXY", value),))
        return result.graph[result.result].op

    assert op("a") == op("b")
    assert op("a").proxies != op("b").proxies  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("a", "/a"),
        (".", "/"),
        ("", "/"),
        ("../a/../../b/", "/b"),
        ("//a//b", "/a/b"),
        ("sub/*/[a-c]?", "/sub/*/[a-c]?"),
    ],
)
def test_sources_are_cleaned(path: str, cleaned: str) -> None:
    """C20: sources are rooted in their tree and cannot leave it."""
    assert source_path(path, parents=False) == cleaned


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("./a/b", "/a/b"),
        ("a/./b", "/a/./b"),
        ("/./b", "/./b"),
        ("a/./b/./c", "/a/./b/c"),
        ("a/.", "/a"),
        ("a/./", "/a/./"),
        ("a/./../b", "/a/./b"),
        ("../x/./y", "/x/./y"),
    ],
)
def test_sources_with_parents_keep_the_pivot(path: str, cleaned: str) -> None:
    """CP05: the first pivot stays, later ones and leading or trailing dots do not."""
    assert source_path(path, parents=True) == cleaned


@given(st.text("ab./*", max_size=12), st.booleans())
def test_sources_never_leave_the_root(path: str, parents: bool) -> None:
    """C20: whatever is written, the result is absolute and has no `..`."""
    result = source_path(path, parents=parents)
    assert result.startswith("/")
    assert ".." not in result.split("/")
    assert source_path(result, parents=parents) == result


@pytest.mark.parametrize(
    ("workdir", "dest", "absolute"),
    [
        ("/", "x", "/x"),
        ("/w", "", "/w/"),
        ("/w", ".", "/w/"),
        ("/w", "./", "/w/"),
        ("/w", "../y", "/y"),
        ("/w", "../../../y/", "/y/"),
        ("/w/", "a/.", "/w/a/"),
        ("/w", "/", "/"),
        ("/", ".", "/"),
    ],
)
def test_destinations_are_absolute(workdir: str, dest: str, absolute: str) -> None:
    """C01, T51: relative to WORKDIR, a final slash or dot kept as a slash."""
    assert destination(workdir, dest) == absolute


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.txt?x=/y#z", "b.txt"),
        ("http://h/p/", "p"),
        ("http://h", "__unnamed__"),
        ("http://h?x/y", "__unnamed__"),
        ("http://h/%2e%2e", "download"),
        ("http://h/a%2f..%2fb", "b"),
        ("http://h/a%00b", "__unnamed__"),
        ("http://h/a%0ab", "__unnamed__"),
        ("http://h/" + "a" * 300, "__unnamed__"),
    ],
)
def test_url_file_names_are_safe(url: str, name: str) -> None:
    """A04: the last part of the path, or a fixed name when there is none that is safe."""
    assert remote.filename(url) == name


@given(st.text(max_size=30))
def test_url_file_names_are_always_file_names(path: str) -> None:
    """A04: no URL gives a name that is a path."""
    name = remote.filename(f"https://h/{path}")
    assert "/" not in name
    assert name not in {"", ".", ".."}
    assert "\0" not in name


@pytest.mark.parametrize(
    ("source", "git"),
    [
        ("git@host:a/b", True),
        ("ssh://host/a", True),
        ("git://host/a", True),
        ("https://host/a.git", True),
        ("https://host/a.git?ref=x", True),
        ("https://host/a.git#v1:sub", True),
        ("https://host/a", False),
        ("github.com/x/y", False),
        ("dir/a.git", False),
        ("a@b", False),
    ],
)
def test_git_sources_are_recognised(source: str, *, git: bool) -> None:
    """A07: schemes, scp-like names and .git paths; the github shorthand is a local path."""
    assert remote.is_git(source) is git


def test_lowering_twice_gives_the_same() -> None:
    """T111: equal input gives an equal graph, config and history."""
    text = "FROM busybox AS a\nENV A=1\nRUN a\nFROM alpine\nCOPY --from=a /x /y\nLABEL b=$c\n"
    first, second = lowered(text), lowered(text)
    assert first.graph.dump() == second.graph.dump()
    assert (first.config, first.history) == (second.config, second.history)


LINES = st.sampled_from(
    [
        "FROM busybox AS a",
        "FROM a AS b",
        "FROM b",
        "FROM scratch",
        "FROM nosuch",
        "FROM --platform=$P x$Y",
        "ARG A=1",
        "ARG B=$A$A",
        "ENV A=${A:+x}$B",
        "RUN echo $A",
        "RUN --mount=from=a,target=/m x",
        "RUN --mount=type=cache,target=$A x",
        "RUN <<EOF\n#!/bin/sh\nEOF",
        "COPY --from=0 x y",
        "COPY --from=a x y",
        "COPY --from=b --link x y",
        "COPY <<EOF /x\n$A\nEOF",
        "ADD http://h/$A /x/",
        "WORKDIR $A",
        "WORKDIR ../x",
        "USER $B",
        "EXPOSE $A 80",
        "LABEL a=$A b=c",
        "VOLUME $A",
        "ONBUILD RUN x",
        "ONBUILD COPY --from=b x y",
        'SHELL ["x"]',
        "CMD x",
        "ENTRYPOINT []",
        "HEALTHCHECK CMD x",
        "STOPSIGNAL $A",
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(LINES, max_size=12), st.sampled_from(["", "a", "b"]))
def test_any_order_of_instructions_lowers_or_is_refused(lines: list[str], target: str) -> None:
    """P05: whatever is written, there is a sound result or an error for the user."""
    try:
        result = lowered("\n".join(["FROM busybox", *lines]) + "\n", target=target)
    except PybuildError:
        return
    assert 0 <= result.result < len(result.graph.vertices)
    for entry in result.history:
        assert entry.ref is None or entry.ref <= max(result.result, 0)
    for vertex in result.graph.vertices:
        if isinstance(vertex.op, CopyOp):
            assert vertex.op.dest.startswith("/")
            assert all(getattr(s, "input", 0) < len(vertex.inputs) for s in vertex.op.sources)


@settings(max_examples=200, deadline=None)
@given(st.text(string.printable + "é\0\x85\ud7ff", max_size=60))
def test_any_text_lowers_or_is_refused(text: str) -> None:
    """P05: arbitrary text after a FROM never ends in anything but a result or an error."""
    with contextlib.suppress(PybuildError):
        lowered(f"FROM busybox\n{text}")
