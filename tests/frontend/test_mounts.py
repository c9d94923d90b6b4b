"""The options of RUN --mount: what they mean, in which order they are checked, what is said."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lowering import lowered

from frontend.dockerfile.mountoptions import parse_mount
from frontend.dockerfile.mounts import parse
from frontend.dockerfile.problems import MistakeError
from frontend.graph import CacheMount, ExecOp, SshMount, TmpfsMount
from frontend.source import DockerfileError

MISTAKES = [
    ("typ=tmpfs", "unexpected key 'typ' in 'typ=tmpfs'", 'did you mean "type"?'),
    ("type=tmp", 'unsupported mount type "tmp"', 'did you mean "tmpfs"?'),
    ("type=cache,sharing=lock", 'unsupported sharing value "lock"', 'did you mean "locked"?'),
    ("target", "invalid field 'target' must be a key=value pair", None),
    ("required,type=secret", "unexpected key 'required' for mount type 'bind'", None),
    ("size=1,type=tmpfs", "unexpected key 'size' for mount type 'bind'", None),
    ("type=tmpfs,size=1mbs", "invalid value for size: 1mbs", None),
    ("type=tmpfs,size=-1", "invalid value for size: -1", None),
    ("ro=tRUE", "invalid value for ro: tRUE", None),
    ("type=cache,mode=0o7", "invalid value 0o7 for mode", None),
    ("type=cache,uid=4294967296", "invalid value 4294967296 for uid", None),
    ("mode=1", 'mode not allowed for "bind" type mounts', None),
    ("type=tmpfs,gid=1", 'gid not allowed for "tmpfs" type mounts', None),
    ("type=secret,sharing=shared,id=a", "secret mount should not define sharing", None),
    ("type=secret,from=a,id=a", "secret mount should not have a from", None),
    ("type=secret", "invalid secret mount. one of source, target required", None),
    ("type=secret,id=a,source=b", "both source and id can't be set", None),
    ("type=tmpfs,sharing=locked", "invalid cache sharing set for tmpfs mount", None),
    ("type=ssh,source=a", "ssh does not support source", None),
]


def read(text):
    return parse(parse_mount(text), lambda word: word)


def exec_op(text, **request):
    graph = lowered(f"FROM busybox\n{text}\n", **request).graph
    return next(v.op for v in reversed(graph.vertices) if isinstance(v.op, ExecOp))


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES)
def test_mistakes(text, message, hint):
    """Each mistake has the reference's words, and a suggestion where there is one (M01-M03, T95)."""
    with pytest.raises(MistakeError) as caught:
        read(text)
    assert caught.value.message == message
    assert hint is None or hint == caught.value.hint


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("128m", 128 << 20), ("1kb", 1024), ("2 GiB", 2 << 30), (".5k", 512), ("1e3", 1000)],
)
def test_sizes(text, size):
    """Sizes are read as docker reads them (M12)."""
    assert read(f"type=tmpfs,size={text}").size == size


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    """Whatever stands behind --mount= is read or is a mistake (M01)."""
    with contextlib.suppress(MistakeError):
        read(text)


def test_parents_are_mounted_first():
    """A mount below another is made after it, whatever the order of the flags (M05)."""
    op = exec_op("RUN --mount=type=cache,target=/a/b --mount=type=tmpfs,target=/a,ro x")
    assert [mount.target for mount in op.mounts] == ["/a", "/a/b"]
    assert op.mounts[0] == TmpfsMount("/a", readonly=True)


def test_what_is_not_built_may_have_wrong_mounts():
    """A stage that is not built is not checked but for what has no variables (M01)."""
    lowered("FROM busybox AS a\nRUN --mount=typ=x true\nFROM busybox\nRUN true\n")
    with pytest.raises(DockerfileError):
        lowered("FROM busybox AS a\nRUN --mount=from=$x,target=/x true\nFROM busybox\nRUN true\n")


def test_agents():
    """Agents have sockets by number, the first one is named, unless the Dockerfile does (M14)."""
    op = exec_op("RUN --mount=type=ssh --mount=type=ssh,id=x,uid=5,mode=7640 y")
    assert op.mounts == (
        SshMount("default", "/run/buildkit/ssh_agent.0"),
        SshMount("x", "/run/buildkit/ssh_agent.1", mode=0o640, uid=5),
    )
    assert dict(op.env)["SSH_AUTH_SOCK"] == "/run/buildkit/ssh_agent.0"
    relative = exec_op("WORKDIR /w\nRUN --mount=type=ssh,target=s y")
    assert dict(relative.env)["SSH_AUTH_SOCK"] == "s"
    assert relative.mounts[0].target == "/w/s"
    assert (
        dict(exec_op("ENV SSH_AUTH_SOCK=/m\nRUN --mount=type=ssh y").env)["SSH_AUTH_SOCK"] == "/m"
    )


def test_entitlements():
    """Insecure steps and the host's network need to be allowed (R20, R21)."""
    for flag, name in (
        ("security=insecure", "security.insecure"),
        ("network=host", "network.host"),
    ):
        with pytest.raises(DockerfileError, match=f"{name} is not allowed"):
            exec_op(f"RUN --{flag} x")
        op = exec_op(f"RUN --{flag} x", allow=(name,))
        assert op.insecure == (name == "security.insecure")


@pytest.mark.parametrize(
    ("options", "mount"),
    [
        ("target=/c", CacheMount("/c", "//c")),
        ("target=//c/", CacheMount("/c", "//c")),
        ("target=c", CacheMount("/c", "/c")),
        ("target=/c,id=i,from=scratch", CacheMount("/c", "/i")),
        ("target=/c,mode=755", CacheMount("/c", "//c", owned=True)),
        ("target=/c,mode=1700", CacheMount("/c", "//c", mode=0o700, owned=True)),
        ("target=/c,uid=1,source=x", CacheMount("/c", "//c", source="/x")),
    ],
)
def test_identity_of_caches(options, mount):
    """A cache is its id, by default the target as written, and its owner if one is named (M11)."""
    assert exec_op(f"RUN --mount=type=cache,{options} x").mounts == (mount,)


def test_steps_with_caches_know_who_came_before():
    """What an earlier step did to a cache is in no layer, so it is told apart by what it was (K12)."""
    ops = [
        exec_op(f"RUN --mount=type=cache,target=/c {first}\nRUN --mount=type=cache,target=/c y")
        for first in ("a", "b", "a")
    ]
    assert ops[0].after
    assert ops[0] == ops[2] != ops[1]
    assert not exec_op("RUN --mount=type=cache,target=/c a\nRUN y").after
