"""Logical lines: directives, comments, continuations, heredocs, flags, limits (P01-P53).

The expected splits were compared with the reference parser of 2026-08. Two results differ on
purpose: a file that is only an escape has no instruction, and comments lose their indentation.
"""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.dockerfile import parser
from frontend.source import DockerfileError, SourceFile, Span


def nodes(text):
    return parser.parse(SourceFile("Dockerfile", text))[1]


def directives(text):
    return parser.parse(SourceFile("Dockerfile", text))[0]


def problems(text):
    with pytest.raises(DockerfileError) as caught:
        parser.parse(SourceFile("Dockerfile", text))
    return [(d.span.start, d.message) for d in caught.value.diagnostics]


SPLIT = [
    ("FROM a\nRUN b", ["FROM a", "RUN b"]),
    ("\ufeffFROM a\n", ["FROM a"]),  # P01
    ("FROM a\r\nRUN b \\\r\n c\r\n", ["FROM a", "RUN b  c"]),  # P01
    ("  FROM a  \n\t# c\n\tRUN b", ["FROM a", "RUN b"]),  # P20, P21
    ("RUN echo # hi", ["RUN echo # hi"]),  # P20
    ("RUN a \\\n  # comment \\\n  b", ["RUN a   b"]),  # P22
    ("RUN a \\\n\n\n  b", ["RUN a   b"]),  # P23
    ("RUN a \\  \t\n b", ["RUN a  b"]),  # P24
    ("RUN a\\\\\nRUN b", ["RUN a\\\\", "RUN b"]),  # P24
    ("RUN a \\\\\\\nRUN b", ["RUN a \\\\\\", "RUN b"]),  # P24
    ("\\\nRUN a", ["RUN a"]),  # P24
    ("RUN a \\\n\\\n b", ["RUN a  b"]),  # P24
    ("RU\\\nN a", ["RUN a"]),  # P25
    ("RUN a\\\nb", ["RUN ab"]),  # P25
    ("RUN a \\", ["RUN a"]),  # P25
    ("RUN a \\\n", ["RUN a"]),
    ("RUN a \\\n# end", ["RUN a"]),
    ("RUN a \\\n# end\n\n", ["RUN a"]),
    ("CMD", ["CMD"]),
    ("CMD\n", ["CMD"]),
    ("run\v\f a", ["run\v\f a"]),  # P26
    ("RUN a\x0cb\x85c\u2028d", ["RUN a\x0cb\x85c\u2028d"]),
    ("\u00a0RUN a", ["RUN a"]),
    ("\\", [""]),
    ("\\\n\\\n", [""]),
    ("# only\n\n", []),
]


@pytest.mark.parametrize(("text", "lines"), SPLIT)
def test_splits(text, lines):
    """Physical lines become the logical lines of the reference (P01, P20-P26)."""
    assert [node.original for node in nodes(text)] == lines


def test_keyword_is_cut_at_blanks_of_any_kind():
    """Keywords are case-insensitive and end at a run of blanks (P26)."""
    (node,) = nodes("cOpY\t \v\f a  b ")
    assert (node.keyword, node.written_keyword, node.rest) == ("COPY", "cOpY", "a  b")


def test_spans_cover_continuations_and_heredocs():
    """The place of an instruction is its complete range of lines (P06)."""
    text = "FROM a\nRUN b \\\n # c\n d\n# e\nRUN <<A <<B\nx\nA\ny\nB\nCMD z \\\n\n"
    assert [node.span for node in nodes(text)] == [
        Span(1, 1),
        Span(2, 4),
        Span(6, 10),
        Span(11, 11),
    ]


def test_empty_continuation_is_noted():
    """Blank lines inside an instruction are remembered for the linter (P23)."""
    assert [n.empty_continuation for n in nodes("RUN a \\\n\n b\nRUN a \\\n # c\n b")] == [
        True,
        False,
    ]


def test_comments_are_attached():
    """Comments above an instruction accumulate; an empty one starts over; blanks do not (P27)."""
    text = "# lost\n#\n# one\n\n  # two\nFROM a\nRUN b \\\n# inside\n c\nRUN d\n# e\nRUN e"
    assert [node.comments for node in nodes(text)] == [("one", "two"), (), (), ("e",)]


def test_directives_are_no_comments():
    """Directive lines are not attached to the first instruction (P16)."""
    assert nodes("# syntax=x\n# doc\nFROM a")[0].comments == ("doc",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# escape=`\nFROM a", ("`", "", "")),
        ("#escape = ` \r\nFROM a", ("`", "", "")),
        ("  # \t ESCAPE=`\nFROM a", ("`", "", "")),
        ("# check=skip=all;error=true\n# escape=`\nFROM a", ("`", "", "skip=all;error=true")),
        ("# syntax=docker/dockerfile:1 x\nFROM a", ("\\", "docker/dockerfile:1 x", "")),
        ("# foo=bar\n# escape=`\nFROM a", ("\\", "", "")),
        ("\n# escape=`\nFROM a", ("\\", "", "")),
        ("# comment\n# escape=`\nFROM a", ("\\", "", "")),
        ("# escape=\n# syntax=x\nFROM a", ("\\", "", "")),
        ("FROM a\n# escape=`", ("\\", "", "")),
        ("#!/usr/bin/env x\n# syntax=y\n# escape=`\nFROM a", ("\\", "y", "")),
    ],
)
def test_directives(text, expected):
    """Directives are a run of known ones from the first line on (P10, P11, P13-P15)."""
    found = directives(text)
    assert (found.escape, found.syntax, found.check) == expected


def test_backtick_continues():
    """The escape directive changes what continues a line (P13)."""
    text = "# escape=`\nRUN dir c:\\\nRUN a `\n  b\n"
    assert [node.original for node in nodes(text)] == ["RUN dir c:\\", "RUN a   b"]


def test_bad_directives_are_reported_together():
    """Repeated and invalid directives are errors (P12, P13).

    The place of a repeated one begins a line early, as in the reference.
    """
    assert problems("# escape=x\n# syntax=a\n# SYNTAX=b\nFROM a") == [
        (1, 'invalid escape token "x"'),
        (2, "only one syntax parser directive can be used"),
    ]


@pytest.mark.parametrize(
    ("rest", "flags", "remainder"),
    [
        ("--a --b=c d --e", ("--a", "--b=c"), "d --e"),
        ("--a -- --b", ("--a",), "--b"),
        ("-- a", (), "a"),
        ("-a b", (), "-a b"),
        ("--a='b c' d", ("--a=b c",), "d"),
        ('--a="b\\"c"d e', ('--a=b"cd',), "e"),
        ("--a='b\\'c' d", ("--a=b'c",), "d"),
        ("--a=b\\ c d", ("--a=b c",), "d"),
        ("--a=\\", ("--a=",), ""),
        ("--a='open b", ("--a=open b",), ""),
        ("--", (), ""),
    ],
)
def test_flags(rest, flags, remainder):
    """Leading `--` words are flags, quotes and escapes removed, until `--` (P30, P31)."""
    (node,) = nodes(f"RUN {rest}")
    assert (node.flags, node.rest) == (flags, remainder)


def docs(text):
    return [
        (h.name, h.body, h.expand, h.chomp, h.descriptor)
        for node in nodes(text)
        for h in node.heredocs
    ]


HEREDOCS = [
    ("RUN <<EOF\na\n# b \\\n\nEOF\nRUN c", [("EOF", "a\n# b \\\n\n", True, False, "")]),
    ("COPY <<'A B' /x\na\nA B\n", [("A B", "a\n", False, False, "")]),
    ('ADD <<"E" /x\nE\n', [("E", "", False, False, "")]),
    ("RUN <<E\\OF\nEOF\n", [("EOF", "", True, False, "")]),
    ("RUN <<-EOF\n\ta\n\t\tEOF\n", [("EOF", "\ta\n", True, True, "")]),
    ("RUN 3<<A 4<<-B\n1\nA\n2\nB", [("A", "1\n", True, False, "3"), ("B", "2\n", True, True, "4")]),
    ("RUN cat << EOF\n1\nEOF", [("EOF", "1\n", True, False, "")]),
    ("RUN cat <<- EOF", []),
    ("RUN <<$EOF\n1\n$EOF", [("$EOF", "1\n", True, False, "")]),
    ("RUN a \\\n <<EOF\n1\nEOF", [("EOF", "1\n", True, False, "")]),
    ("ONBUILD RUN --network=none <<EOF\n1\nEOF", [("EOF", "1\n", True, False, "")]),
    ("RUN <<EOF\r\na\r\nEOF\r\n", [("EOF", "a\r\n", True, False, "")]),
    ("RUN <<EOF\n EOF\nEOF ", []),
    ("RUN cat <<< EOF", []),
    ('RUN echo "<<EOF"', []),
    ("RUN echo '<<EOF' 1<<", []),
    ("RUN echo a<<EOF", []),
    ("RUN cat <<-\tEOF", []),
    ('RUN ["<<EOF"]', []),
    ("RUN it's <<EOF", []),
    ("CMD <<EOF", []),
    ("LABEL a=<<EOF", []),
    ("ONBUILD CMD <<EOF", []),
]


@pytest.mark.parametrize(("text", "expected"), HEREDOCS)
def test_heredocs(text, expected):
    """Heredocs of RUN, COPY, ADD are seen where the reference sees them (P50-P53)."""
    if text.endswith("EOF "):
        assert problems(text) == [(1, 'unterminated heredoc "EOF"')]
    else:
        assert docs(text) == expected


def test_heredoc_bodies_are_raw():
    """Nothing inside a body is an instruction, a comment or a continuation (P53)."""
    text = "RUN <<EOF\nFROM x\nRUN <<FOO\n\\\nEOF\nRUN y"
    assert [node.original for node in nodes(text)] == ["RUN <<EOF", "RUN y"]


def test_long_lines_are_refused():
    """A physical line may have 65535 bytes, characters counted in UTF-8 (P02)."""
    fits = "RUN " + "a" * 65531
    assert len(nodes(fits)) == 1
    assert problems(f"FROM a\n{fits}a") == [(1, "line greater than max allowed size of 65535")]
    assert problems("RUN " + "ä" * 32766) == [(1, "line greater than max allowed size of 65535")]
    assert len(nodes(f"{fits} \\\n"[2:] + "b" * 60_000)) == 1


@pytest.mark.parametrize("text", ["FROM a\nRUN \udc80", "\ud800"])
def test_what_is_no_text_is_refused(text):
    """Undecodable bytes are errors with a line (G03)."""
    assert problems(text) == [(text.count("\n") + 1, "a Dockerfile must be UTF-8")]


def test_sizes_are_limited():
    """Empty, too large and too long files are errors with a place (P03, G03, G06)."""
    assert problems("") == [(1, "the Dockerfile cannot be empty")]
    assert problems("a" * (16 * 1024 * 1024 + 1))[0][0] == 1
    assert problems("\n" * 1_000_000)[0][0] == parser.MAX_LINES + 1
    assert "heredocs" in problems("RUN <<A\nA\n" * 10_001)[0][1]


@pytest.mark.parametrize(
    "text",
    [
        "RUN a \\\n" + "b \\\n" * 100_000,
        "RUN a \\\n" + "# b\n" * 100_000 + "c",
        "RUN a \\\n" + "\n" * 100_000 + "c",
        "\\\n" * 150_000,
        "# a\n" * 150_000 + "FROM a",
        "RUN " + ("--a " * 10_000 + "\\\n") * 20,
        "RUN " + "<<A " * 10_000,
        "RUN " + "<< " * 20_000,
        "RUN <<A\n" + "b\n" * 150_000,
        "RUN [" + "[" * 60_000,
        'RUN ["' + "\\" * 60_000,
        "RUN <<A " + '"' * 60_001,
        "RUN a\n" * 30_000,
    ],
)
def test_hostile_files_take_linear_time(text):
    """Huge continuations, comments, flags and heredocs stay quick (G03, G06)."""
    begin = time.process_time()
    with contextlib.suppress(DockerfileError):
        nodes(text)
    assert time.process_time() - begin < 4


@given(st.text("RUN<EOF\\\n# -'\"[`=", max_size=60))
def test_nodes_lie_in_order_inside_the_file(text):
    """Whatever the text, places ascend, do not overlap and stay inside the file (P06)."""
    try:
        found = nodes(text)
    except DockerfileError:
        return
    previous = 0
    for node in found:
        assert previous < node.span.start <= node.span.end <= text.count("\n") + 1
        previous = node.span.end
        assert node.original == node.original.strip()
