"""Which SOURCE_DATE_EPOCH a build has."""

from __future__ import annotations

import pytest

from builder.dockerfile_input import BuildInput
from builder.epoch import with_epoch
from builder.request import BuildRequest
from frontend.dockerfile.instructions import parse_dockerfile
from frontend.dockerfile.problems import MistakeError
from frontend.source import SourceFile


def asked(text, given=None, changed=None, *, contexts=(), times=None, **build_args):
    """The request for a Dockerfile, its epoch known; `changed` is the time of the context."""
    request = BuildRequest(
        ".", build_args=tuple(build_args.items()), source_date_epoch=given, contexts=contexts
    )
    source = SourceFile("Dockerfile", text)
    return with_epoch(
        request,
        BuildInput(source, "", changed=lambda: changed),
        parse_dockerfile(source),
        lambda op: (times or {})[op.url],
    )


def epoch(text, given=None, **build_args):
    """The epoch of a Dockerfile built with these arguments."""
    return asked(text, given, **build_args).source_date_epoch


def test_the_command_line_comes_first():
    """What the command line or the environment says wins over the Dockerfile (O20)."""
    assert epoch("ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n", 7, SOURCE_DATE_EPOCH="7") == 7
    assert epoch("FROM scratch\n", 7) == 7


def test_a_global_default_counts():
    """A default before the first FROM is the epoch, expanded; one in a stage is not (O20)."""
    assert epoch("ARG T=12\nARG SOURCE_DATE_EPOCH=${T}34\nFROM scratch\n") == 1234
    assert epoch("ARG T=1\nARG SOURCE_DATE_EPOCH=$T\nFROM scratch\n", T="8") == 8
    assert epoch("FROM scratch\nARG SOURCE_DATE_EPOCH=5\n") is None
    assert epoch("ARG SOURCE_DATE_EPOCH\nFROM scratch\n") is None


def test_an_empty_build_argument_unsets_the_default():
    """`--build-arg SOURCE_DATE_EPOCH=` means no epoch; so does a local context's time (O20)."""
    assert epoch("ARG SOURCE_DATE_EPOCH=5\nFROM scratch\n", SOURCE_DATE_EPOCH="") is None
    assert epoch("ARG SOURCE_DATE_EPOCH=context\nFROM scratch\n") is None


def test_what_is_no_time_is_refused():
    """A default that is no number is an error that quotes it (O20)."""
    with pytest.raises(MistakeError, match="invalid SOURCE_DATE_EPOCH 'soon'"):
        epoch("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n")


@pytest.mark.parametrize("text", ["", "ARG SOURCE_DATE_EPOCH=context\n"])
def test_the_time_of_the_context(text):
    """`context` is when the context was changed, from the Dockerfile or an argument (O20)."""
    given = {} if text else {"SOURCE_DATE_EPOCH": "context"}
    request = asked(text + "FROM scratch\n", changed=1_500_000_000, **given)
    assert request.source_date_epoch == 1_500_000_000
    assert dict(request.build_args)["SOURCE_DATE_EPOCH"] == "1500000000"


def test_a_context_without_a_time():
    """A directory has no time: no epoch, and the build argument is empty (O20)."""
    request = asked("FROM scratch\n", SOURCE_DATE_EPOCH="context")
    assert request.source_date_epoch is None
    assert dict(request.build_args)["SOURCE_DATE_EPOCH"] == ""


def test_the_time_of_a_named_context():
    """A name is that of a context: a URL or a repository has a time, a directory has none (O20)."""
    contexts = (("u", "http://h/x"), ("g", "https://h/x.git#main"), ("d", "/srv"))
    times = {"http://h/x": 5, "https://h/x.git": 6}
    found = [
        asked("FROM scratch\n", contexts=contexts, times=times, SOURCE_DATE_EPOCH=name)
        for name in "ugd"
    ]
    assert [request.source_date_epoch for request in found] == [5, 6, None]


STAGE = "ARG HOST=h\nFROM scratch AS Dated\nARG N=x\nADD http://$HOST/$N /\nFROM scratch\n"


def test_the_time_of_a_stage():
    """A name is that of a stage with one remote ADD, its arguments expanded (O20)."""
    request = asked(STAGE, times={"http://h/y": 7}, SOURCE_DATE_EPOCH="dated", N="y")
    assert request.source_date_epoch == 7


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("FROM busybox AS a\nADD http://h/x /\n", "must use FROM scratch"),
        ("FROM scratch AS a\nENV b=c\n", "not ENV"),
        ("FROM scratch AS a\nCOPY x /\n", "not COPY"),
        ("FROM scratch AS a\nADD http://h/x /\nADD http://h/y /\n", "one remote ADD"),
        ("FROM scratch AS a\nADD http://h/x http://h/y /\n", "exactly one"),
        ("FROM scratch AS a\nADD x /\n", "must be a single HTTP"),
        ("FROM scratch AS a\n", "exactly one"),
        ("FROM scratch AS b\n", "invalid SOURCE_DATE_EPOCH 'a'"),
    ],
)
def test_stages_without_a_time(stage, message):
    """Stages of any other kind are refused, with what is expected (O20)."""
    with pytest.raises(MistakeError, match=message):
        asked(stage + "FROM scratch\n", SOURCE_DATE_EPOCH="a")
