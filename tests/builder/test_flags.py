"""The grammar of flags: what docker's command line accepts."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import UsageError
from builder.flags import Grammar, Words, parse
from builder.options import GRAMMAR

SMALL = Grammar(
    frozenset({"tag", "file", "output"}),
    frozenset({"quiet", "push", "debug"}),
    {"t": "tag", "f": "file", "q": "quiet", "D": "debug"},
)
FLAGS = sorted(GRAMMAR.valued | GRAMMAR.switches)


def given_to(*argv):
    """What is given to each flag of the small grammar, and the positional words."""
    words = parse(argv, SMALL)
    return {name: words.every(name) for name in words.order}, words.positional


@pytest.mark.parametrize(
    ("argv", "flags", "positional"),
    [
        (["--tag", "a", "."], {"tag": ["a"]}, ["."]),
        (["--tag=a", "."], {"tag": ["a"]}, ["."]),
        (["--tag="], {"tag": [""]}, []),
        (["-t", "a", "-t", "b"], {"tag": ["a", "b"]}, []),
        (["-ta"], {"tag": ["a"]}, []),
        (["-t=a"], {"tag": ["a"]}, []),
        (["-t="], {"tag": ["="]}, []),
        (["-qt", "a"], {"quiet": ["true"], "tag": ["a"]}, []),
        (["-qDta"], {"quiet": ["true"], "debug": ["true"], "tag": ["a"]}, []),
        (["-q=false"], {"quiet": ["false"]}, []),
        (["-Dq=F"], {"debug": ["true"], "quiet": ["F"]}, []),
        (["--push=false", "."], {"push": ["false"]}, ["."]),
        ([".", "--push", "-t", "a"], {"push": ["true"], "tag": ["a"]}, ["."]),
        (["--tag", "--push"], {"tag": ["--push"]}, []),
        (["-f", "-", "-"], {"file": ["-"]}, ["-"]),
        (["--push", "--", "--tag", "-q"], {"push": ["true"]}, ["--tag", "-q"]),
    ],
)  # fmt: skip
def test_words_are_read_as_docker_reads_them(argv, flags, positional):
    """Long, short, bundled and attached forms; flags after words; nothing is a flag after --."""
    assert given_to(*argv) == (flags, positional)


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["--tagg", "a"], "unknown flag --tagg", "--tag?"),
        (["--tag-", "a"], "unknown flag --tag-", "--tag?"),
        (["-x"], "unknown flag -x", "--help"),
        (["-qx"], "unknown flag -x in -qx", "--help"),
        (["-push"], "unknown flag -p in -push", "--push?"),
        (["---"], "unknown flag ---", "--help"),
        (["--=x"], "unknown flag --", "--help"),
        (["--tag"], "--tag needs a value", "--help"),
        (["-qt"], "-t needs a value", "--help"),
        (["--push=maybe"], "--push=maybe: neither true nor false", "--push=false"),
        (["--push="], "--push=: neither true nor false", "--push"),
    ],
)
def test_mistakes_are_named_with_the_way_out(argv, message, hint):
    """An unknown flag names the nearest one; a missing value names its flag (G14)."""
    with pytest.raises(UsageError) as caught:
        parse(argv, SMALL)
    assert caught.value.message == message
    assert hint in (caught.value.hint or "")


def test_the_last_of_a_single_flag_counts():
    """A flag that counts once has its last value, switches too."""
    words = parse(["-fa", "--push", "--file", "b", "--push=0"], SMALL)
    assert (words.last("file"), words.switch("push"), words.last("output", "none")) == (
        "b",
        False,
        "none",
    )


@given(st.lists(st.text(max_size=12) | st.sampled_from([f"--{name}" for name in FLAGS])))
def test_any_words_give_a_result_or_a_usage_error(argv):
    """No word breaks the parser, and every word ends up somewhere."""
    words = Words()
    with contextlib.suppress(UsageError):
        words = parse(argv, GRAMMAR)
        assert len(words.positional) + len(words.order) <= sum(max(1, len(word)) for word in argv)
    assert set(words.order) <= set(FLAGS)
