"""Which SOURCE_DATE_EPOCH a build has."""

from __future__ import annotations

import pytest

from builder.epoch import epoch_of
from builder.errors import UsageError
from builder.request import BuildRequest
from frontend.dockerfile.instructions import parse_dockerfile
from frontend.source import SourceFile


def epoch(text, given=None, **build_args):
    """The epoch of a Dockerfile built with these arguments."""
    request = BuildRequest(".", build_args=tuple(build_args.items()), source_date_epoch=given)
    return epoch_of(request, text, parse_dockerfile(SourceFile("Dockerfile", text)))


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
    with pytest.raises(UsageError, match="invalid SOURCE_DATE_EPOCH 'soon'"):
        epoch("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n")
