"""The grammars inside single flags."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import flagvalues
from builder.errors import UsageError
from builder.request import SecretSource, SshSource
from frontend.graph import Ulimit


@pytest.mark.parametrize(
    ("texts", "hosts"),
    [
        (["a:1.2.3.4"], [("a", "1.2.3.4")]),
        (["a=1.2.3.4"], [("a", "1.2.3.4")]),
        (["a=::1"], [("a", "::1")]),
        (["a:::1"], [("a", "::1")]),
        (["a=[::1]", "a:[2001:DB8::1]"], [("a", "::1"), ("a", "2001:db8::1")]),
        (["a=[1.2.3.4]"], [("a", "1.2.3.4")]),
        (["a=1.2.3.4,b=5.6.7.8"], [("a", "1.2.3.4"), ("b", "5.6.7.8")]),
        (["a=1.2.3.4,5.6.7.8,::1"], [("a", "1.2.3.4"), ("a", "5.6.7.8"), ("a", "::1")]),
        (['"a=1.2.3.4,5.6.7.8"'], [("a", "1.2.3.4"), ("a", "5.6.7.8")]),
        (["h:host-gateway", "g=HOST-GATEWAY"], [("h", "127.0.0.1"), ("g", "127.0.0.1")]),
        ([""], []),
    ],
)
def test_hosts(texts, hosts):
    """`:` and `=`, IPv6 with and without brackets, lists, and this host."""
    assert flagvalues.parse_hosts(texts) == tuple(hosts)


@pytest.mark.parametrize(
    "text", ["x", "x=", "=1.2.3.4", ":1.2.3.4", "x=y", "x=1.2.3", "x=[]", "1.2.3.4", "a=fe80::1%lo",
             "a b=1.2.3.4", "a\n=1.2.3.4", 'a="1.2.3.4', "a=1.2.3.4,", "a=1.2.3.4,b"],
)  # fmt: skip
def test_bad_hosts(text):
    """A name or an address that is missing or wrong is named."""
    with pytest.raises(UsageError, match="invalid"):
        flagvalues.parse_hosts([text])


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("id=a", SecretSource("a")),
        ("id=a,src=f", SecretSource("a", "f")),
        ("ID=a,Source=f", SecretSource("a", "f")),
        ("type=file,id=a,src=f", SecretSource("a", "f")),
        ("type=env,id=a,src=V", SecretSource("a", env="V")),
        ("type=env,id=a,env=V", SecretSource("a", env="V")),
        ("type=env,id=a", SecretSource("a")),
        ("id=a,env=V", SecretSource("a", env="V")),
        ("id=a,src=f,env=V", SecretSource("a", "f", "V")),
        ('id=a,"src=f,g"', SecretSource("a", "f,g")),
        ("id=a,id=b", SecretSource("b")),
        ("id=a,src=", SecretSource("a")),
    ],
)
def test_secrets(text, source):
    """Where a secret comes from, in every way to write it (M13)."""
    assert flagvalues.parse_secret(text) == source


@pytest.mark.parametrize(
    "text", ["", "a", "id", "src=f", "id=", "id=a,b=c", "id=a,type=x", '"id=a']
)
def test_bad_secrets(text):
    """An id is needed; keys are those docker has."""
    with pytest.raises(UsageError, match="invalid --secret"):
        flagvalues.parse_secret(text)


def test_ssh():
    """An id, and sockets or keys of it; each id once."""
    assert flagvalues.parse_ssh(["default", "git=/a,/b", "x="]) == (
        SshSource(),
        SshSource("git", ("/a", "/b")),
        SshSource("x"),
    )
    assert flagvalues.parse_ssh(["=/a"]) == (SshSource("default", ("/a",)),)
    for texts in (["a", "a=/x"], ["", "default"], ["a=raw=true"]):
        with pytest.raises(UsageError, match="--ssh"):
            flagvalues.parse_ssh(texts)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("64", 64), ("64b", 64), ("1k", 1024), ("64m", 64 << 20), ("64 MB", 64 << 20),
     ("2GiB", 2 << 30), ("1.5g", 3 << 29), ("1.k", 1024), ("1t", 1 << 40), ("1P", 1 << 50)],
)  # fmt: skip
def test_sizes(text, size):
    """Bytes with the binary units docker reads."""
    assert flagvalues.parse_size("--shm-size", text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "-1", "1x", "1kk", "1i", "1ib", ".5m", "1e3", "1 000", "9" * 18 + "p", "٣"]
)
def test_bad_sizes(text):
    """Anything else is no size."""
    with pytest.raises(UsageError, match="--shm-size"):
        flagvalues.parse_size("--shm-size", text)


def test_ulimits():
    """Soft and hard limits by name; the last of a name counts; sorted, so order is no identity."""
    assert flagvalues.parse_ulimits(["nproc=5", "nofile=1:2", "nofile=10:-1", "core=-1"]) == (
        Ulimit("core", -1, -1),
        Ulimit("nofile", 10, -1),
        Ulimit("nproc", 5, 5),
    )
    for text in (
        "nofile",
        "nofile=",
        "x=1",
        "nofile=2:1",
        "nofile=-1:5",
        "nofile=1:2:3",
        "nofile=a",
    ):
        with pytest.raises(UsageError, match="invalid --ulimit"):
            flagvalues.parse_ulimits([text])


def test_contexts():
    """NAME=VALUE, the last of a name counting (S07)."""
    assert flagvalues.parse_contexts(["a=.", "b=docker-image://x?y=z", "a=.."]) == (
        ("a", ".."),
        ("b", "docker-image://x?y=z"),
    )
    for text in ("", "a", "=x", "a=", "a=\0"):
        with pytest.raises(UsageError, match="invalid --build-context"):
            flagvalues.parse_contexts([text])


def test_entitlements():
    """Those a build can be given, each once."""
    allowed = ["network.host", "security.insecure", "network.host", "device=vendor.com/x=y"]
    assert flagvalues.parse_allow(allowed) == (*allowed[:2], allowed[3])
    for text in ("", "host", "network.host=x", "fs.read=/"):
        with pytest.raises(UsageError, match="invalid --allow"):
            flagvalues.parse_allow([text])


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("", ("build", "text", False)),
        ("check", ("check", "text", False)),
        ("lint,format=json", ("check", "json", False)),
        ("format=json,outline", ("outline", "json", False)),
        ("check,ignorestatus=1", ("check", "text", True)),
        ("subrequests.describe", ("subrequests.describe", "text", False)),
    ],
)
def test_calls(text, call):
    """A name and its options, in any order (O77)."""
    assert flagvalues.parse_call(text) == call


@pytest.mark.parametrize(
    "text", ["bogus", "check,outline", "check,format=xml", "check,a=b", "check,ignorestatus=x"]
)
def test_bad_calls(text):
    """Only known names and options."""
    with pytest.raises(UsageError, match="--call"):
        flagvalues.parse_call(text)


PARSERS = [
    flagvalues.parse_secret,
    flagvalues.parse_call,
    lambda text: flagvalues.parse_size("--shm-size", text),
    lambda text: flagvalues.parse_hosts([text]),
    lambda text: flagvalues.parse_ssh([text]),
    lambda text: flagvalues.parse_ulimits([text]),
    lambda text: flagvalues.parse_contexts([text]),
    lambda text: flagvalues.parse_allow([text]),
    lambda text: flagvalues.check_annotations([text]),
]


@given(st.text(max_size=40) | st.text('=,:"[]ids0.-k', max_size=20))
def test_any_text_gives_a_value_or_a_usage_error(text):
    """No text breaks a parser."""
    for parse in PARSERS:
        with contextlib.suppress(UsageError):
            parse(text)
