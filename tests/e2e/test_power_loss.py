"""Real builds on a state whose trees lost what the disk had not got when the power went."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ELSEWHERE = "00000000-0000-4000-8000-000000000000"  # no boot of this machine
TEXT = """\
FROM {busybox}
RUN echo kept > /kept && mkdir /d && echo deep > /d/deep
RUN test "$(cat /kept)" = kept && cat /d/deep > /copy
"""
MORE = 'RUN test "$(cat /kept /copy)" = "$(printf "kept\\ndeep")" && echo more > /more\n'
PLACES = {"userns": "snapshots", "single": "snapshots", "chroot": "plain", "emulate": "plain"}


def lose_power(state, marked):
    """Empty the files of all trees, and let them be of another boot where `marked`."""
    place = next(state / name for name in ("snapshots", "plain") if (state / name).exists())
    count = 0
    for parent, _, names in os.walk(place):
        for name in names:
            path = Path(parent, name)
            if path.is_symlink() or not path.is_file() or name == "chain":
                continue
            os.truncate(path, 0)
            count += 1
    if not marked:
        return count
    for path in state.glob("plain/*/chain"):
        path.write_text(re.sub(r"\n.*", f"\n{ELSEWHERE}", path.read_text()))
    with contextlib.closing(sqlite3.connect(state / "state.db")) as database, database:
        database.execute("UPDATE snapshots SET name = substr(name, 1, 6) || ?", (ELSEWHERE,))
    return count


@pytest.fixture
def context(pybuild, busybox):
    """A context whose steps read what earlier ones wrote; call it to add one."""
    text = TEXT.format(busybox=busybox)
    made = pybuild.context("loss", text)

    def more():
        (made / "Dockerfile").write_text(text + MORE)

    return made, more


@pytest.mark.parametrize("sandbox", PLACES)
def test_steps_after_a_loss_see_what_their_layers_hold(pybuild, context, sandbox):
    """S-R37: two builds at once make the lost trees anew, and the step finds all in them."""
    if sandbox == "chroot" and pybuild.uid:
        sandbox = "emulate"  # who is not root cannot change the root
    flags = ("--sandbox", sandbox, "--progress", "plain")
    where, more = context
    pybuild.good(*flags, where)
    assert lose_power(pybuild.state, marked=True) > 0
    more()
    with ThreadPoolExecutor() as pool:
        builds = [pool.submit(pybuild.good, *flags, where) for _ in range(2)]
    for build in builds:
        assert build.result().ending("CACHED")
    lost = set(os.listdir(pybuild.state / PLACES[sandbox]))
    pybuild.good("prune")
    assert set(os.listdir(pybuild.state / PLACES[sandbox])) <= lost
    assert not (pybuild.state / "active").exists() or not os.listdir(pybuild.state / "active")


@pytest.mark.parametrize("sandbox", ["userns", "emulate"])
def test_trees_of_this_boot_are_not_made_twice(pybuild, context, sandbox):
    """What changed them meanwhile shows: they are used as they lie, which is what is fast."""
    flags = ("--sandbox", sandbox, "--progress", "plain")
    where, more = context
    pybuild.good(*flags, where)
    assert lose_power(pybuild.state, marked=False) > 0
    more()
    assert pybuild.run(*flags, where).code != 0
