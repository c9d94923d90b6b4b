"""Git URLs: which are taken, where credentials go, what is relative to what (A09, B17)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.git.program import GitError
from builder.git.remote import Remotes, redacted, relative
from builder.git.source import agent_of
from builder.request import BuildRequest, SshSource


def _header(remote):
    assert len(remote.auth) <= 1
    return remote.auth[0][1].removeprefix("Authorization: ") if remote.auth else None


def _basic(text):
    return f"basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /x",
        "file:///etc",
        "/srv/repository",
        "../other",
        "-u",
        "--upload-pack=touch /x",
        "ssh://-oProxyCommand=touch/x",
        "ssh://-oProxyCommand=touch@host/x",
        "-oProxyCommand=x:y",
        "host:-u",
        "https://",
        "http::https://host/x",
        "ftp://host/x",
        "https://host/x\n",
        "https://host/" + "x" * 5000,
        "git@host\0:x",
        "",
    ],
)
def test_dangerous_urls_are_refused(url):
    """A09: what git, ssh or a helper could take for something else never reaches them."""
    with pytest.raises(GitError, match="is refused"):
        Remotes({}).of(url)


def test_credentials_leave_the_url():
    """A09: user and password become a header; neither the URL nor what is shown has them."""
    remote = Remotes({}).of("https://us%65r:pa%3Ass@host:8443/x.git")
    assert remote.url == remote.shown == "https://host:8443/x.git"
    assert _header(remote) == _basic("user:pa:ss")
    assert "pa" not in repr(remote).replace("path", "")
    assert remote.full == "https://us%65r:pa%3Ass@host:8443/x.git"


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ({}, None),
        ({"GIT_AUTH_TOKEN": b"t\n"}, _basic("x-access-token:t")),
        ({"GIT_AUTH_HEADER": b"Bearer x"}, "Bearer x"),
        ({"GIT_AUTH_HEADER": b"h", "GIT_AUTH_TOKEN": b"t"}, "h"),
        ({"GIT_AUTH_HEADER": b"h", "GIT_AUTH_TOKEN.host:1": b"t"}, _basic("x-access-token:t")),
        ({"GIT_AUTH_TOKEN.host:1": b"t", "GIT_AUTH_HEADER.host:1": b"own"}, "own"),
        ({"GIT_AUTH_TOKEN.other": b"t"}, None),
    ],
)
def test_secrets_by_host(secrets, expected):
    """A09: the host's own secret before the general one, a header before a token."""
    assert _header(Remotes(secrets).of("https://host:1/x.git")) == expected


def test_a_secret_of_several_lines_is_refused():
    """A09: nothing adds a second header."""
    with pytest.raises(GitError, match="more than one line"):
        Remotes({"GIT_AUTH_HEADER": b"a\r\nX-Evil: 1"}).of("https://host/x.git")


@pytest.mark.parametrize(
    ("main", "url", "sent"),
    [
        ("https://host/a.git", "https://host/b.git", False),
        ("https://host/a.git", "https://host/a.git/b", True),
        ("https://host/a.git", "https://evil/a.git", False),
        ("https://github.com/a/b.git", "https://github.com/c/d.git", True),
        ("https://github.com/a/b.git", "https://github.com.evil/c/d.git", False),
        ("https://github.com/a/b.git", "http://github.com/c/d.git", False),
    ],
)
def test_submodules_get_no_secrets_of_others(main, url, sent):
    """A09: a secret reaches the repository it is for, and all of github.com from there."""
    remotes = Remotes({"GIT_AUTH_TOKEN": b"t"})
    assert (_header(remotes.of(url, remotes.of(main))) is not None) is sent


@pytest.mark.parametrize(
    ("base", "url", "expected"),
    [
        ("https://h/a/b.git", "../c.git", "https://h/a/c.git"),
        ("https://h/a/b.git/", "../../c.git", "https://h/c.git"),
        ("https://h/a/b.git", "./c", "https://h/a/b.git/c"),
        ("https://u:p@h/a/b", "../c/", "https://u:p@h/a/c"),
        ("git@h:a/b", "../c", "git@h:a/c"),
        ("git@h:a", "../c", "git@h:c"),
        ("https://h/a", "https://x/y", "https://x/y"),
        ("https://h/a", "/etc/x", "/etc/x"),
    ],
)
def test_relative_urls(base, url, expected):
    """A09: `./` and `../` of a submodule are relative to its parent's remote."""
    assert relative(base, url) == expected


@pytest.mark.parametrize("url", ["../../../c", "../../../../c", "../" * 50 + "etc"])
def test_relative_urls_stay_with_the_host(url):
    """A09: more `../` than the URL has parts is an error, not another host."""
    with pytest.raises(GitError, match="leaves its host"):
        relative("https://h/a/b", url)


@given(st.text(max_size=40), st.sampled_from(["https://h/", "h:", "ssh://h/", "git://", ""]))
def test_no_url_becomes_an_option(text, head):
    """A09: a URL that is taken begins with a scheme or a host, never with a dash."""
    try:
        remote = Remotes({}).of(head + text)
    except GitError:
        return
    assert not remote.url.startswith(("-", "/", "."))
    assert "::" not in remote.url.partition("/")[0] or "[" in remote.url
    assert remote.url.isprintable()


def test_messages_have_no_credentials():
    """A09: what git says is shown without user names and passwords."""
    text = "fatal: unable to access 'https://me:secret@host/x.git/': no"
    assert redacted(text) == "fatal: unable to access 'https://host/x.git/': no"


def test_ssh_agent_of_a_build(tmp_path):
    """A09: --ssh default lends an agent or keys; an ssh context lends the agent unasked."""
    environ = {"SSH_AUTH_SOCK": "/agent", "HOME": str(tmp_path)}
    assert not agent_of(BuildRequest("."), environ)
    assert agent_of(BuildRequest("git@h:x.git"), environ).socket == "/agent"
    assert agent_of(BuildRequest("ssh://h/x.git"), environ).socket == "/agent"
    assert not agent_of(BuildRequest("https://h/x.git"), environ)
    assert agent_of(BuildRequest(".", ssh=(SshSource(),)), environ).socket == "/agent"
    keys = agent_of(BuildRequest(".", ssh=(SshSource("default", ("/k1", "/k2")),)), environ)
    assert keys.keys == ("/k1", "/k2")
    assert not agent_of(BuildRequest(".", ssh=(SshSource("other", ("/k",)),)), environ)
