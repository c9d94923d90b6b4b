"""The parts of steps in a changed root by themselves: links, owners, trials."""

from __future__ import annotations

import os
import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox.engine.abi import abi_of
from builder.sandbox.engine.links import Links
from builder.sandbox.engine.natively import CHANGES
from builder.sandbox.engine.taskowners import owner_of
from builder.sandbox.host import Tier
from builder.sandbox.trial import Answer, try_tier

PLACES = (b"/proc", b"/dev", b"/run/secrets/s", b"/etc/hosts")
NAMES = st.sampled_from([b"a", b"b", b"proc", b"run", b"secrets", b"etc", b"..", b"x"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)


def met(links, path):
    """Whether a path has a name among its parts that must be looked at."""
    return not links.names.isdisjoint(path.split(b"/"))


@pytest.mark.parametrize(
    ("path", "text", "dangerous"),
    [
        (b"/etc/mtab", b"/proc/mounts", True),
        (b"/etc/mtab", b"../proc/self/mounts", True),
        (b"/var/run", b"/run", True),  # a secret lies below
        (b"/var/lock", b"/run/lock", False),
        (b"/bin", b"usr/bin", False),
        (b"/here", b".", True),
        (b"/usr/bin/X11", b".", False),
        (b"/e", b"//etc//hosts", True),
    ],
)
def test_links_that_lead_to_places_are_known(path, text, dangerous):
    """To a place, into one, or to a directory above one; no other (C4)."""
    links = Links(PLACES, [(path, text)])
    assert met(links, path) is dangerous
    later = Links(PLACES, [])
    later.made(path, text)
    assert met(later, path) >= dangerous


def test_links_to_links_and_new_names_are_known():
    """What leads to such a link leads there, too, and does so under its next name (C4)."""
    links = Links(PLACES, [(b"/a", b"b"), (b"/b", b"/c/d"), (b"/c", b"/dev"), (b"/no", b"/x")])
    assert met(links, b"/a/null")
    assert not met(links, b"/no")
    links.named(b"a", b"/x/new")
    links.named(b"/no", b"/neither")
    assert met(links, b"new")
    assert not met(links, b"/neither")


@given(st.dictionaries(PATHS, PATHS, max_size=6))
def test_no_link_that_leads_to_a_place_is_missed(tree):
    """Whatever links lead through each other: who arrives in a place has met a known name."""
    tree = {b"/" + path: text for path, text in tree.items() if b".." not in path.split(b"/")}
    links = Links(PLACES, tree.items())
    for path in tree:
        here, hops = path, 0
        while here in tree and hops < 10:
            here, hops = (
                posixpath.normpath(posixpath.join(posixpath.dirname(here), tree[here])),
                hops + 1,
            )
        if any(here == place or here.startswith(place + b"/") for place in PLACES):
            assert met(links, path)


def test_owners_are_the_kernels():
    """Ids, groups and umask of a task are read; one that is gone is no process."""
    old = os.umask(0o027)
    try:
        owner = owner_of(os.getpid())
    finally:
        os.umask(old)
    assert owner.process == os.getpid()
    assert owner.uids == (os.getuid(), os.geteuid(), *owner.uids[2:])
    assert set(owner.groups) == set(os.getgroups())
    assert owner.umask == 0o027
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessLookupError):  # a zombie, which has no umask any more
        owner_of(child)
    os.waitpid(child, 0)
    with pytest.raises(ProcessLookupError):
        owner_of(child)


def test_every_call_that_is_answered_has_a_number():
    """On one machine at least."""
    assert set(CHANGES) <= set(abi_of("x86_64").numbers)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root")
def test_root_can_change_its_root(tmp_path):
    """The trial does what a step does, and leaves nothing behind (C1)."""
    assert try_tier(Tier.CHROOT, str(tmp_path)) == Answer(works=True)
    assert list(tmp_path.iterdir()) == []
