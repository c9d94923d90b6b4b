"""Named contexts: which names they stand for and what their values mean."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lowering import lowered

from cache.errors import PybuildError
from cache.spec.oci import Platform
from frontend.dockerfile.contexts import (
    Contexts,
    DirectorySource,
    FileSource,
    GitSource,
    ImageSource,
    StageSource,
    parse_source,
)
from frontend.dockerfile.problems import MistakeError
from frontend.graph import ContextOp, CopyOp, ExecOp, GitOp, HttpOp, ImageOp
from frontend.source import DockerfileError

AMD = Platform("linux", "amd64")
ARM = Platform.parse("linux/arm64")


def ops(result, kind):
    """The operations of one kind, in order."""
    return [vertex.op for vertex in result.graph.vertices if isinstance(vertex.op, kind)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", DirectorySource()),
        ("/srv/app", DirectorySource()),
        ("../app", DirectorySource()),
        ("app", DirectorySource()),
        ("ftp://host/x", DirectorySource()),
        ("docker-image://alpine:3", ImageSource("alpine:3")),
        ("docker-image://scratch", ImageSource("scratch")),
        ("oci-layout:///srv/layout:v1", ImageSource("oci-layout:///srv/layout:v1")),
        ("target:base", StageSource("base")),
        ("https://host/a.tar.gz", FileSource(HttpOp("https://host/a.tar.gz", "context"))),
        ("https://host/a.git#main", GitSource(GitOp("https://host/a.git", "main"))),
        ("git@host:a.git#:sub", GitSource(GitOp("git@host:a.git", subdir="sub"))),
        ("github.com/u/r", GitSource(GitOp("https://github.com/u/r"))),
    ],
)
def test_a_value_says_its_kind(text, expected) -> None:
    """S07: the beginning of a value says what it is; what says nothing is a directory."""
    assert parse_source(text) == expected


@pytest.mark.parametrize("text", ["docker-image://UPPER", "https://h/a.git?nothing=1"])
def test_a_malformed_value_is_an_error(text) -> None:
    """S07: an image name or a git query that is wrong is said to be so."""
    with pytest.raises(PybuildError):
        parse_source(text)


@pytest.mark.parametrize("name", ["Alpine", "a b", "", "-x", "n::", "n::nowhere"])
def test_a_wrong_name_is_refused(name) -> None:
    """S07: a name that no FROM could have is a mistake of the command line."""
    with pytest.raises(MistakeError, match="invalid context name"):
        Contexts([(name, "/x")])


def test_names_of_one_image_are_one_name() -> None:
    """S07, T90: alpine, alpine:latest and docker.io/library/alpine:latest are equal; the last wins."""
    contexts = Contexts([("alpine", "/old"), ("docker.io/library/alpine:latest", "/new")])
    for name in ("alpine", "alpine:latest", "library/alpine", "index.docker.io/library/alpine"):
        found = contexts.find(name, AMD)
        assert found is not None
        assert contexts.path(found.name) == "/new"
    assert contexts.find("alpine:3", AMD) is None


def test_a_name_with_the_platform_is_preferred() -> None:
    """S07: `name::os/arch` goes before `name`, for that platform only."""
    contexts = Contexts([("base", "/any"), ("base::linux/arm64", "/arm")])
    amd, arm = contexts.find("base", AMD), contexts.find("base", ARM)
    assert amd is not None
    assert arm is not None
    assert contexts.path(amd.name) == "/any"
    assert contexts.path(arm.name) == "/arm"


def test_a_from_looks_its_own_platform_up() -> None:
    """S07: FROM --platform chooses the context of that platform."""
    text = "FROM --platform=linux/arm64 base\nCOPY --from=base /a /\n"
    result = lowered(text, contexts=(("base", "/any"), ("base::linux/arm64", "/arm")), platform=AMD)
    assert {op.name for op in ops(result, ContextOp)} == {"base::linux/arm64", "base"}


@given(st.text(string.ascii_lowercase + "-./:@", max_size=20), st.text(max_size=40))
def test_no_name_and_value_crash(name, value) -> None:
    """G04: any name and value either mean something or are refused."""
    try:
        Contexts([(name, value)]).find(name, AMD)
    except PybuildError:
        return


def test_scratch_is_never_replaced() -> None:
    """S07: a context called scratch changes nothing."""
    result = lowered("FROM scratch\nCOPY --from=scratch / /\n", contexts=(("scratch", "/x"),))
    assert ops(result, ContextOp) == []


def test_the_main_context_is_never_replaced() -> None:
    """S07: a plain COPY reads the build context whatever --build-context context= says."""
    result = lowered("FROM scratch\nCOPY a /\n", contexts=(("context", "/x"),))
    assert ops(result, ContextOp) == [ContextOp("context")]


def test_a_context_called_context_is_another_one() -> None:
    """S07: COPY --from=context reads the named one, as in the reference."""
    result = lowered("FROM scratch\nCOPY --from=context a /\n", contexts=(("context", "/x"),))
    (op,) = ops(result, ContextOp)
    assert op != ContextOp("context")
    assert Contexts([("context", "/x")]).path(op.name) == "/x"


def test_a_stage_is_replaced_whole() -> None:
    """S07: none of its steps run, whoever uses it by whichever name."""
    text = "FROM busybox AS base\nRUN make\nFROM scratch\nCOPY --from=0 /a /\nFROM base\nCOPY x /\n"
    result = lowered(text, contexts=(("base", "docker-image://alpine"),))
    assert ops(result, ExecOp) == []
    assert [op.reference for op in ops(result, ImageOp)] == ["docker.io/library/alpine:latest"]


def test_a_replaced_stage_ignores_what_it_was_built_on() -> None:
    """S03, S07: an unknown base image of a replaced stage does not matter."""
    text = "FROM no/such AS base\nRUN make\nFROM base\nRUN x\n"
    lowered(text, contexts=(("base", "docker-image://busybox"),))


def test_an_unused_context_never_matters() -> None:
    """S07, T91: what no stage of the target names is not even read."""
    text = "FROM unused\nCOPY --from=two a /\nFROM busybox\nRUN x\n"
    contexts = (("unused", "docker-image://BROKEN"), ("two", "target:none"))
    assert ops(lowered(text, contexts=contexts), ContextOp) == []


def test_a_broken_context_is_reported_where_it_is_used() -> None:
    """S07: with the line of the COPY that names it."""
    text = "FROM busybox\nRUN a\nCOPY --from=broken /a /\n"
    with pytest.raises(DockerfileError) as caught:
        lowered(text, contexts=(("broken", "docker-image://BROKEN"),))
    (found,) = caught.value.diagnostics
    assert found.span.start == 3
    assert "broken" in found.message


def test_a_directory_as_a_base_is_copied() -> None:
    """S07: FROM a directory starts with its files and with scratch's config."""
    result = lowered("FROM base\nRUN x\n", contexts=(("base", "/srv"),))
    assert ops(result, ContextOp) == [ContextOp("base")]
    assert [op.dest for op in ops(result, CopyOp)] == ["/"]
    assert result.config.working_dir == "/"


def test_a_url_is_a_file_called_context() -> None:
    """S07: an http context is one file, archive or not, as in the reference."""
    result = lowered(
        "FROM busybox\nCOPY --from=n /context /\n", contexts=(("n", "http://h/a.tar"),)
    )
    assert ops(result, HttpOp) == [HttpOp("http://h/a.tar", "context")]


def test_the_history_of_a_url_has_no_password() -> None:
    """X05, O14: what an image is built FROM is described without its login."""
    result = lowered("FROM n\nENV A=b\n", contexts=(("n", "https://user:secret@h/x"),))
    assert "secret" not in "".join(entry.created_by for entry in result.history)
    assert "secret" not in "".join(vertex.name for vertex in result.graph.vertices)


def test_a_target_is_a_stage_of_the_file() -> None:
    """S07: target:NAME leads to that stage, even to one further down."""
    text = "FROM app AS last\nFROM busybox AS other\nRUN made\n"
    result = lowered(text, target="last", contexts=(("app", "target:other"),))
    assert [op.argv[-1] for op in ops(result, ExecOp)] == ["made"]


def test_a_target_of_its_own_name_is_the_stage_itself() -> None:
    """S07: base=target:base replaces nothing."""
    text = "FROM busybox AS base\nRUN made\nFROM base\nRUN more\n"
    result = lowered(text, contexts=(("base", "target:base"),))
    assert len(ops(result, ExecOp)) == 2


@pytest.mark.parametrize(
    "contexts",
    [
        (("a", "target:b"), ("b", "target:a")),
        (("a", "target:b"), ("b", "target:c"), ("c", "target:a")),
    ],
)
def test_targets_in_a_circle_are_refused(contexts) -> None:
    """S07: stages that stand for each other end in an error, not in a loop."""
    text = "FROM busybox AS a\nFROM busybox AS b\nFROM busybox AS c\nFROM a\nRUN x\n"
    with pytest.raises(DockerfileError, match="recursion"):
        lowered(text, contexts=contexts)


def test_a_target_that_builds_on_its_user_is_refused() -> None:
    """S07: a stage cannot be built on a later one that is built on it."""
    text = "FROM x AS one\nRUN a\nFROM one AS two\nRUN b\n"
    with pytest.raises(DockerfileError, match="recursion"):
        lowered(text, contexts=(("x", "target:two"),))


@pytest.mark.parametrize("name", ["a-", "a..b", "a_.b"])
def test_a_stage_that_no_context_could_replace(name) -> None:
    """S07: the reference refuses such names, also of stages that are not built."""
    with pytest.raises(DockerfileError, match="invalid reference format"):
        lowered(f"FROM busybox AS {name}\nFROM busybox\n")


def test_an_unknown_target_is_refused() -> None:
    """S07: with the nearest name."""
    with pytest.raises(DockerfileError, match="could not be found"):
        lowered("FROM busybox AS built\nFROM x\n", contexts=(("x", "target:bulit"),))
