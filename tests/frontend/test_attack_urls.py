"""Credentials in web addresses reach the server and nothing that is kept or shown (S-I07, S-I09)."""

from __future__ import annotations

import time

import pytest
from support.lowering import lowered

from frontend.source import SourceFile, Span, redacted

URL = "https://user:p4ss@example.com/file"


def test_history_and_steps_have_no_credentials() -> None:
    """S-I09: of an ADD, written out or through a variable; what is fetched keeps them."""
    result = lowered(f"FROM scratch\nARG T=p4ss\nADD {URL} https://$T@example.com/g /d/\n")
    told = [entry.created_by for entry in result.history] + [v.name for v in result.graph.vertices]
    assert not any("p4ss@" in text for text in told)
    assert any(
        text.startswith("ADD https://example.com/file https://example.com/g") for text in told
    )
    urls = [vertex.op.url for vertex in result.graph.vertices if hasattr(vertex.op, "url")]
    assert urls == [URL, "https://p4ss@example.com/g"]


def test_excerpts_have_no_credentials() -> None:
    """S-I07: a line is shown for what is wrong with it, not for its password."""
    source = SourceFile("Dockerfile", f"FROM scratch\nRUN curl {URL} {'x' * 1000}\n")
    assert "p4ss" not in source.excerpt(Span(2, 2))
    assert "curl https://example.com/file" in source.excerpt(Span(2, 2))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://a@b/c", "http://b/c"),
        ("HTTPS://a:b@c@d:1/e@f", "HTTPS://d:1/e@f"),
        ("https://a/b@c", "https://a/b@c"),
        ("https://a?b@c", "https://a?b@c"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("a@b://c", "a@b://c"),
        ("https://a@b https://c:d@e", "https://b https://e"),
    ],
)
def test_what_credentials_are(text, shown) -> None:
    """User information ends at the last @ of the authority, and is nowhere else."""
    assert redacted(text) == shown


def test_long_texts_are_looked_through_once() -> None:
    """A line of megabytes costs what its length costs (S-G03)."""
    before = time.process_time()
    redacted("https://" * 500_000 + "@")
    redacted("http://" + "@" * 4_000_000 + " ")
    assert time.process_time() - before < 5
