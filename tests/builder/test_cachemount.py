"""Cache mounts: who shares a directory with whom, who waits, what begins anew."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from builder.solver.cachemount import CacheMounts, CacheUse
from frontend.graph import CacheMount, Sharing

REPOSITORY = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from builder.solver.cachemount import CacheMounts, CacheUse
from frontend.graph import CacheMount, Sharing
mount = CacheMount("/c", "i", Sharing(sys.argv[2]))
with CacheMounts(sys.argv[1], lambda: False).hold([CacheUse(mount, "", lambda _: None)]) as paths:
    print(paths[0], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def caches(tmp_path):
    """The caches of a build."""
    return CacheMounts(str(tmp_path), lambda: False)


def use(sharing="shared", **fields):
    return CacheUse(CacheMount("/c", "i", Sharing(sharing), **fields), "", lambda _: None)


def test_shared_users_join(caches):
    """Users that share have one directory at the same time (M11)."""
    with caches.hold([use()]) as first, caches.hold([use()]) as second:
        assert first == second


def test_private_users_get_their_own(caches):
    """A private user takes a directory nobody uses, and leaves it to later ones (M11)."""
    with caches.hold([use("private")]) as first, caches.hold([use("private")]) as second:
        assert first != second
        with caches.hold([use("private")]) as third:
            assert len({*first, *second, *third}) == 3
    with caches.hold([use("private")]) as again:
        assert again == first


def test_shared_does_not_wait_for_locked(caches):
    """A sharing user beside an exclusive one gets another directory, as in the reference (M11)."""
    with caches.hold([use("locked")]) as first, caches.hold([use()]) as second:
        assert first != second


@pytest.mark.parametrize("held", ["locked", "private", "shared"])
def test_locked_waits_for_another_process(caches, tmp_path, held):
    """A locked user waits until another process is done with the directory (M11)."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), held],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )
    got = threading.Event()

    def take():
        with caches.hold([use("locked")]) as paths:
            assert paths == (path,)
            got.set()

    with other:
        path = other.stdout.readline().strip()
        thread = threading.Thread(target=take)
        thread.start()
        assert not got.wait(0.3)
        other.stdin.close()
        assert got.wait(10)
        thread.join()


def test_same_cache_twice_in_a_step(caches):
    """One step mounts one directory twice, whatever the second mount says (M11)."""
    with caches.hold([use("locked"), use("private"), use()]) as paths:
        assert len(set(paths)) == 1


def test_steps_with_two_locked_caches_do_not_wait_for_each_other(caches):
    """Locks are taken in one order, so the order of mounts makes no circle (M11)."""
    one, other = use("locked"), CacheUse(CacheMount("/d", "j", Sharing.LOCKED), "", lambda _: None)

    def work(uses):
        for _ in range(20):
            with caches.hold(uses):
                pass

    threads = [threading.Thread(target=work, args=(u,)) for u in ([one, other], [other, one])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_owner_makes_another_cache(caches):
    """A mode makes another directory, which has it (M11, T99)."""
    with caches.hold([use(), use(mode=0o751, owned=True), use(owned=True)]) as paths:
        assert len(set(paths)) == 3
        assert [os.stat(path).st_mode & 0o7777 for path in paths] == [0o755, 0o751, 0o755]


def test_renewed_caches_begin_anew_once(caches, tmp_path):
    """A build without cache begins with empty caches, and leaves them to the next build (T99)."""
    with caches.hold([use()]) as (old,):
        Path(old, "a").touch()
    fresh = CacheMounts(str(tmp_path), lambda: False, {"i"})
    with fresh.hold([use()]) as (new,):
        assert os.listdir(new) == []
        Path(new, "b").touch()
    for later in (fresh, caches):
        with later.hold([use()]) as (path,):
            assert os.listdir(path) == ["b"]
    assert not Path(old).exists()


def test_waiting_ends_when_cancelled(tmp_path, caches):
    """A cancelled build does not wait for a lock."""
    cancelled = CacheMounts(str(tmp_path), lambda: True)
    with caches.hold([use("locked")]), pytest.raises(OSError), cancelled.hold([use("locked")]):  # noqa: PT011 - of any kind
        pass


def test_kinds_of_owners_have_caches_of_their_own(tmp_path):
    """What a sandbox with many ids leaves, one with a single id may not be able to enter."""
    mount = use()
    many, one = (
        CacheMounts(str(tmp_path), bool, (), lambda kind=kind: kind) for kind in ("", "one")
    )
    with many.hold([mount]) as first, one.hold([mount]) as second:
        assert first != second
    with one.hold([mount]) as again:
        assert again == second
