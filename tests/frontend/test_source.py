"""Excerpts: the guilty lines marked, long ones cut, control characters harmless."""

from __future__ import annotations

from frontend.source import SourceFile, Span, printable


def test_excerpt_marks_the_span_and_shows_its_neighbours():
    """Two lines around the span, the span itself marked (P05)."""
    source = SourceFile("Dockerfile", "a\nb\nc\nd\ne\nf\n")
    assert source.excerpt(Span(3, 4)).split("\n") == [
        "   1 |     a",
        "   2 |     b",
        "   3 | >>> c",
        "   4 | >>> d",
        "   5 |     e",
        "   6 |     f",
    ]


def test_long_lines_and_spans_are_cut():
    """A megabyte is not printed to say that something in it is wrong."""
    source = SourceFile("Dockerfile", "x" * 1_000_000 + "\n" * 5000)
    assert len(source.excerpt(Span(1, 1))) < 1000
    assert source.excerpt(Span(1, 5000)).endswith("more lines")
    assert len(source.excerpt(Span(1, 5000))) < 5000


def test_control_characters_are_shown_not_obeyed():
    """No escape sequence of a Dockerfile reaches the terminal."""
    assert printable("a\x1b[31m\r\x07") == "a\\x1b[31m\\x0d\\x07"
