"""Git references: detection, fragment, query and its conflicts (A07, A08, B06, T73)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.dockerfile.giturl import git_reference, parse_git
from frontend.dockerfile.problems import MistakeError
from frontend.graph import GitOp

_HUB = "https://github.com/moby/buildkit.git"


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/",
        "https://example.com/foo",
        "https://example.com/foo.git/",
        "https://example.com/foo.git.bar",
        "custom.xyz/moby/buildkit.git",
        "https://github.com/moby/buildkit",
        "http://github.com/docker/docker.git:#branch",
        "./.git",
        "../x.git",
        ".git",
        "ftp://example.com/x.git",
        "file:///srv/x.git",
        "git+https://example.com/x.git",
        "https://exa mple.com/x.git",
        "https://example.com:port/x.git",
        "ssh://-oProxyCommand=x/y.git",
        "git@-oProxyCommand:x",
        "https://example.com/%zz.git",
        "user@host:x?a;b=1",
        "",
    ],
)
def test_what_is_no_git_reference(text: str) -> None:
    """A07: other schemes, other endings and paths are not git."""
    assert parse_git(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.com/foo.git", GitOp("https://example.com/foo.git")),
        ("HTTPS://example.com/foo.git#x", GitOp("https://example.com/foo.git", "x")),
        (f"{_HUB}#release/1.2", GitOp(_HUB, "release/1.2")),
        (f"{_HUB}#baz/qux:quux/quuz", GitOp(_HUB, "baz/qux", "quux/quuz")),
        (f"{_HUB}#:sub", GitOp(_HUB, "", "sub")),
        (f"{_HUB}#:../../sub/./x/", GitOp(_HUB, "", "sub/x")),
        ("git://example.com/foo", GitOp("git://example.com/foo")),
        ("ssh://git@example.com:22/foo", GitOp("ssh://git@example.com:22/foo")),
        ("git@github.com:moby/buildkit", GitOp("git@github.com:moby/buildkit")),
        ("git@github.com:m/b.git?subdir=/s#v1", GitOp("git@github.com:m/b.git", "v1", "s")),
        ("github.com/moby/buildkit#master", GitOp("https://github.com/moby/buildkit", "master")),
        (f"{_HUB}?ref=v1&subdir=/sub", GitOp(_HUB, "v1", "sub")),
        (f"{_HUB}?subdir=/sub#v1", GitOp(_HUB, "v1", "sub")),
        (f"{_HUB}?tag=v1", GitOp(_HUB, "refs/tags/v1")),
        (f"{_HUB}?tag=refs/tags/v1", GitOp(_HUB, "refs/tags/v1")),
        (f"{_HUB}?branch=b", GitOp(_HUB, "refs/heads/b")),
        (f"{_HUB}?checksum=ab&mtime=commit", GitOp(_HUB, checksum="ab", mtime="commit")),
        (f"{_HUB}?commit=ab&mtime=checkout", GitOp(_HUB, checksum="ab")),
        (f"{_HUB}?keep-git-dir&submodules=0", GitOp(_HUB, keep_git_dir=True, submodules=False)),
        (f"{_HUB}?keep-git-dir=false&submodules", GitOp(_HUB)),
        (f"{_HUB}?fetch-by-commit&checksum=ab", GitOp(_HUB, checksum="ab", fetch_by_commit=True)),
        (f"{_HUB}?ref=a&ref2;=x", GitOp(_HUB, "a")),
    ],
)
def test_what_references_say(text: str, expected: GitOp) -> None:
    """A08, B06, T73: fragment and query, every key."""
    assert parse_git(text) == expected


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("?ref=v1#v2", 'ref conflicts: "v2" vs "v1"'),
        ("?ref=v1&tag=v1", 'ref conflicts: "v1" vs "refs/tags/v1"'),
        ("?ref=v1&branch=b", 'ref conflicts: "v1" vs "refs/heads/b"'),
        ("?tag=v1&branch=b", "branch conflicts with tag"),
        ("?subdir=a#:b", 'subdir conflicts: "b" vs "a"'),
        ("?ref=a&ref=b", 'query "ref" has multiple values'),
        ("?ref=", 'query "ref" has no value'),
        ("?subdir", 'query "subdir" has no value'),
        ("?mtime=now", 'invalid mtime value: "now" (must be "checkout" or "commit")'),
        ("?keep-git-dir=x", 'invalid keep-git-dir value: "x"'),
        ("?submodules=x", 'invalid submodules value: "x"'),
        ("?fetch-by-commit=x", 'invalid fetch-by-commit value: "x"'),
        ("?invalid=123", 'unexpected query "invalid"'),
        ("#--upload-pack=x", "invalid git ref '--upload-pack=x'"),
        ("?ref=-x", "invalid git ref '-x'"),
    ],
)
def test_wrong_queries(tail: str, message: str) -> None:
    """A08, T73: every mistake has its own message."""
    with pytest.raises(MistakeError) as caught:
        parse_git(_HUB + tail)
    assert caught.value.message == message


def test_the_shorthand_is_told_apart() -> None:
    """A07: github.com/x/y is a path for ADD and a repository for a context."""
    reference = git_reference("github.com/moby/buildkit?tag=v1")
    assert reference is not None
    assert reference.shorthand
    assert reference.ref == "refs/tags/v1"


@given(
    st.text(max_size=60), st.sampled_from(["https://h/x.git", "git://h/x", "a@b:", "github.com/"])
)
def test_no_text_breaks_it(text: str, head: str) -> None:
    """T73: any text is read, passed over or refused; a subdirectory never climbs."""
    try:
        operation = parse_git(head + text)
    except MistakeError:
        return
    if operation is not None:
        assert ".." not in operation.subdir.split("/")
        assert not operation.ref.startswith("-")
