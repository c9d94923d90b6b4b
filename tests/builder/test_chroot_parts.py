"""The parts of steps in a changed root by themselves: links, lineage, owners, trials."""

from __future__ import annotations

import os
import posixpath
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import lineage
from builder.sandbox.engine.abi import abi_of
from builder.sandbox.engine.descendants import Descendants, owner_of
from builder.sandbox.engine.links import Links
from builder.sandbox.engine.natively import CHANGES
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


def test_all_that_descends_from_a_process_is_killed():
    """Orphans and sessions of their own included, and nobody else (D23)."""
    text = "sleep 7711 & (setsid sleep 7712 &); sleep 7713"
    other = subprocess.Popen(["sleep", "60"])
    child = os.fork()
    if child == 0:
        lineage.adopt_orphans()
        subprocess.Popen(["sh", "-c", text])
        while len(lineage.below(os.getpid())) < 4:
            time.sleep(0.01)
        lineage.end_children()
        os._exit(len(lineage.below(os.getpid())))
    assert os.waitpid(child, 0)[1] == 0
    assert other.poll() is None
    other.kill()
    other.wait()


def test_lineage_is_told_by_parents():
    """A child and its child descend from us; we do not descend from ourselves."""
    child = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"]
    )
    try:
        deadline = time.monotonic() + 20
        while len(found := lineage.below(child.pid)) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lineage.parent_of(found[0]) == child.pid
        assert lineage.is_below(found[0], os.getpid())
        assert not lineage.is_below(os.getpid(), os.getpid())
        assert not lineage.is_below(os.getpid(), child.pid)
        assert Descendants().are_ours(child.pid)
        assert not Descendants().are_ours(os.getppid())
    finally:
        lineage.kill_below(child.pid)
        child.wait()


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


def test_a_child_that_was_stopped_has_not_ended():
    """Only the end of the first process is its status."""
    tasks = Descendants()
    child = os.fork()
    if child == 0:
        signal.pause()
    tasks.begin(child)
    assert tasks.reap()
    tasks.ended(child, 0x137F)
    assert tasks.status == {}
    os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while tasks.reap() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert os.WTERMSIG(tasks.status[child]) == signal.SIGKILL
