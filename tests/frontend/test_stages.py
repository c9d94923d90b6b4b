"""Grouping into stages and finding them by name."""

from __future__ import annotations

import pytest

from cache.spec.oci import Platform
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.stages import Stages, group, platform_args
from frontend.dockerfile.syntax import Arg, Command, Directives, From, Node, Parsed, Run
from frontend.source import Span


def node(line: int, keyword: str) -> Node:
    return Node(keyword, (), "", (), Span(line, line), keyword)


def from_(line: int, name: str = "") -> From:
    return From("busybox", "", name, node(line, "FROM"))


def run(line: int) -> Run:
    return Run(Command(("x",), shell_form=True), (), "", "", (), node(line, "RUN"))


def grouped(*instructions: object) -> Stages:
    return group(Parsed(Directives(), instructions))  # type: ignore[arg-type]


def test_stages_begin_at_each_from() -> None:
    """S10: ARG before the first FROM is global; after it, it belongs to the stage."""
    arg = Arg((("A", "1"),), node(1, "ARG"))
    inner = Arg((("B", "1"),), node(3, "ARG"))
    stages = grouped(arg, from_(2, "a"), inner, from_(4), run(5))
    assert stages.global_args == (arg,)
    assert [s.instructions for s in stages.stages] == [(inner,), (run(5),)]
    assert [s.name for s in stages.stages] == ["a", "stage-1"]


def test_target_is_the_last_stage_or_the_named_one() -> None:
    """S02: names are case-insensitive; of equal names the last is meant."""
    stages = grouped(from_(1, "a"), from_(2, "b"), from_(3, "a"), from_(4))
    assert stages.target("").index == 3
    assert stages.target("A").index == 2


@pytest.mark.parametrize(
    ("name", "hint"), [("bulid", 'did you mean "build"?'), ("0", "named stages: build")]
)
def test_target_unknown_is_suggested(name: str, hint: str) -> None:
    """T88, S02: an unknown target names the nearest stage; numbers are no targets."""
    with pytest.raises(MistakeError) as caught:
        grouped(from_(1, "build"), from_(2)).target(name)
    assert caught.value.message == f'target stage "{name}" could not be found'
    assert caught.value.hint == hint


def test_from_sees_earlier_stages_only() -> None:
    """F02: the nearest earlier definition counts; later and own ones are images."""
    stages = grouped(from_(1, "a"), from_(2, "b"), from_(3, "a"), from_(4, "c"))
    assert stages.base("a", 0) is None
    assert stages.base("A", 1) is None
    assert stages.base("a", 1) == 0
    assert stages.base("a", 2) == 0
    assert stages.base("a", 3) == 2
    assert stages.base("busybox", 3) is None


@pytest.mark.parametrize(
    ("name", "user", "message"),
    [
        ("b", 0, 'cannot copy from stage "b", it needs to be defined before current stage "a"'),
        ("1", 0, 'cannot copy from stage "1", it needs to be defined before current stage "a"'),
        ("b", 1, "circular dependency detected on stage: b"),
        ("1", 1, "circular dependency detected on stage: b"),
        ("7", 1, "invalid stage index 7"),
        ("9" * 5000, 1, "invalid stage index " + "9" * 20),
    ],
)
def test_copy_from_wrong_stage(name: str, user: int, message: str) -> None:
    """CP01, T87: later, own and missing stages are refused."""
    with pytest.raises(MistakeError) as caught:
        grouped(from_(1, "a"), from_(2, "b")).copied(name, user)
    assert caught.value.message == message


def test_copy_from_a_name_of_several_stages_means_the_last() -> None:
    """CP01, S01: even where an earlier one could be meant, which FROM would take."""
    stages = grouped(from_(1, "a"), from_(2, "b"), from_(3, "a"), from_(4, "c"))
    assert stages.copied("a", 3) == 2
    assert stages.mounted("A", 3) == 2
    with pytest.raises(MistakeError, match="circular dependency"):
        stages.copied("a", 2)
    for find in (stages.copied, stages.mounted):
        with pytest.raises(MistakeError, match="needs to be defined before"):
            find("a", 1)


def test_mount_from_knows_no_numbers() -> None:
    """M06, V22: a number is an image, and so is a name with a trailing dollar."""
    stages = grouped(from_(1, "a"), from_(2, "b"))
    assert stages.mounted("0", 1) is None
    assert stages.mounted("A", 1) == 0
    assert stages.mounted("x$", 1) is None
    with pytest.raises(MistakeError, match='cannot mount from stage "b"'):
        stages.mounted("b", 0)


def test_platform_args_describe_both_platforms() -> None:
    """V40: nothing is left out; what does not apply is empty."""
    args = platform_args(Platform("linux", "arm", "v7"), Platform(), "final")
    assert args["TARGETPLATFORM"] == "linux/arm/v7"
    assert args["TARGETVARIANT"] == "v7"
    assert args["BUILDPLATFORM"] == "linux/amd64"
    assert args["BUILDVARIANT"] == ""
    assert args["TARGETSTAGE"] == "final"
    assert len(args) == 11
