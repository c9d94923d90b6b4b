"""USER text against hostile account files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import SandboxError
from builder.sandbox.credentials import MAX_ID, Credentials, resolve

PASSWD = b"""\
root:x:0:0:root:/root:/bin/sh
bob:x:1000:100:Bob:/home/bob:/bin/sh
bob:x:7:7:again:/again:/bin/sh
42:x:77:77:a name of digits:/digits:/bin/sh
"""
GROUP = b"root:x:0:\nwheel:x:10:root,bob\nvideo:x:20:bob\nbob:x:100:\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Credentials(0, 0, (0, 10), "/root")),
        ("root", Credentials(0, 0, (0, 10), "/root")),
        ("0", Credentials(0, 0, (0, 10), "/root")),
        ("bob", Credentials(1000, 100, (100, 10, 20), "/home/bob")),
        ("1000", Credentials(1000, 100, (100, 10, 20), "/home/bob")),
        ("bob:wheel", Credentials(1000, 10, (10,), "/home/bob")),
        ("1000:0", Credentials(1000, 0, (0,), "/home/bob")),
        ("1042:1043", Credentials(1042, 1043, (1043,), "/")),
        ("1042", Credentials(1042, 0, (0,), "/")),
        ("bob:", Credentials(1000, 100, (100, 10, 20), "/home/bob")),
        (":wheel", Credentials(0, 10, (10,), "/root")),
        ("42", Credentials(77, 77, (77,), "/digits")),
        (str(MAX_ID), Credentials(MAX_ID, 0, (0,), "/")),
    ],
)
def test_user_forms(user, expected):
    """Names and numbers give the ids, groups and home of the files (I06, T76, D13)."""
    assert resolve(user, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    "user",
    [
        "4294967295",
        "4294967296",
        "2147483648",
        "-1",
        "0x0",
        " root",
        "root\n",
        "../x",
        "x" * 10240,
        "٣",
        "0:4294967296",
        "0:-1",
    ],
)
def test_text_that_is_no_id_is_refused(user):
    """Nothing wraps to uid 0 and nothing is trimmed into a name (D14)."""
    with pytest.raises(SandboxError):
        resolve(user, PASSWD, GROUP)


def test_unknown_names_are_named():
    """The messages are the known ones (I06)."""
    with pytest.raises(SandboxError, match=r"^unable to find user zoe: no matching entries in pas"):
        resolve("zoe", PASSWD, GROUP)
    with pytest.raises(
        SandboxError, match=r"^unable to find group zoe: no matching entries in gro"
    ):
        resolve("bob:zoe", PASSWD, GROUP)


def test_malformed_lines_are_skipped():
    """Short lines, NIS entries, non-numbers, CRLF and binary do not match or crash (E11)."""
    passwd = b"+::\none\n:x:0:0::/:\nbob:x:-1:0::/:\nbob:x:9:\xff:\xff:/:\r\nbob:x:5:6::/b:\r\n"
    assert resolve("bob", passwd, b"\x00\xff\ngroup:x\n") == Credentials(5, 6, (6,), "/b")


@given(st.text(max_size=30), st.binary(max_size=200), st.binary(max_size=200))
def test_any_input_gives_ids_in_range_or_an_error(user, passwd, group):
    """Whatever the files hold, ids are in range or the text is refused (E11, D14)."""
    try:
        found = resolve(user, passwd, group)
    except SandboxError:
        return
    assert 0 <= found.uid <= MAX_ID
    assert found.groups[0] == found.gid
    assert all(0 <= gid <= MAX_ID for gid in found.groups)
