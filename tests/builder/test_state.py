"""Where state lies and who may use it."""

from __future__ import annotations

import os

import pytest

from builder import places
from builder import state as states
from cache.errors import StoreError


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"PYBUILD_ROOT": "/a", "HOME": "HERE"}, "/a"),
        ({"XDG_DATA_HOME": "/x", "HOME": "HERE"}, "/x/pybuild"),
        ({"XDG_DATA_HOME": "relative", "HOME": "HERE"}, "HERE/.local/share/pybuild"),
        ({"HOME": "HERE"}, "HERE/.local/share/pybuild"),
        ({"HOME": "HERE/not/made/yet"}, "HERE/not/made/yet/.local/share/pybuild"),
        ({}, "/var/tmp/pybuild-UID"),
        ({"HOME": "/"}, "/var/tmp/pybuild-UID"),
        ({"HOME": "", "TMPDIR": "HERE"}, "HERE/pybuild-UID"),
        ({"HOME": "/proc/1/nowhere", "TMPDIR": "HERE"}, "HERE/pybuild-UID"),
    ],
)
def test_state_lies_where_the_environment_says(environ, place, tmp_path):
    """PYBUILD_ROOT, XDG data directory, home; without a home that will do a directory of our own."""
    here = {name: text.replace("HERE", str(tmp_path)) for name, text in environ.items()}
    expected = place.replace("HERE", str(tmp_path)).replace("UID", str(os.geteuid()))
    assert states.locate(here) == expected


def test_a_link_for_a_state_directory_is_refused(tmp_path):
    """Who can write to a shared directory does not choose where our state goes (R43, D24)."""
    (tmp_path / f"pybuild-{os.geteuid()}").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="is a link") as caught:
        states.locate({"TMPDIR": str(tmp_path)})
    assert "PYBUILD_ROOT" in str(caught.value.hint)


def test_state_is_closed_to_others(tmp_path):
    """The directory is made 0700, whatever the umask, and an open one is closed (D24)."""
    root = tmp_path / "root"
    root.mkdir(mode=0o777)
    before = os.umask(0)
    try:
        with states.opened(str(root)):
            pass
    finally:
        os.umask(before)
    assert oct(root.stat().st_mode)[-3:] == "700"
    assert {oct(path.stat().st_mode)[-2:] for path in root.iterdir() if path.is_dir()} == {"00"}


def test_state_of_another_user_is_refused(tmp_path, monkeypatch):
    """A directory somebody else owns is never used (D24)."""
    mine = os.stat(tmp_path).st_uid
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    if mine == 0:
        os.chown(tmp_path, 12345, 12345)
    with pytest.raises(StoreError, match="belongs to another user"), states.opened(str(tmp_path)):
        pass


def test_exclusive_use_waits_for_nobody(tmp_path):
    """Prune refuses while a build has the state open."""
    with (
        states.opened(str(tmp_path)),
        pytest.raises(StoreError, match="in use"),
        states.opened(str(tmp_path), exclusive=True),
    ):
        pass


def test_state_path_may_hold_odd_characters(tmp_path):
    """Blanks, colons and commas in the path are no obstacle (R42)."""
    root = tmp_path / "a b:c,d"
    with states.opened(str(root)) as state:
        assert state.root == str(root)


def test_without_a_home_a_volume_serves_where_temporary_files_do_not(tmp_path, monkeypatch):
    """A pod without a home: an emptyDir that is mounted and empty, else what TMPDIR says."""
    volume = tmp_path / "volume"
    volume.mkdir()
    monkeypatch.setattr(places, "volumes", lambda _mounts: (str(volume),))
    mine = f"pybuild-{os.geteuid()}"
    assert states.locate({"TMPDIR": str(tmp_path)}) == f"{tmp_path}/{mine}"
    monkeypatch.setattr(places, "kind_of", lambda _path: "overlay")
    found = states.place({"TMPDIR": str(tmp_path)})
    assert (found.path, found.reason) == (f"{volume}/{mine}", "without a home, on a volume")
    assert states.locate({"TMPDIR": "/proc/1/nowhere"}) == f"{volume}/{mine}"
    monkeypatch.setattr(places, "volumes", lambda _mounts: ())
    assert states.locate({"TMPDIR": str(tmp_path)}) == f"{tmp_path}/{mine}"


def test_what_the_command_line_says_goes_first(tmp_path, monkeypatch):
    """--root before the environment, made absolute."""
    monkeypatch.chdir(tmp_path)
    found = states.place({"PYBUILD_ROOT": "/x"}, "mine")
    assert (found.path, found.reason) == (f"{tmp_path}/mine", "as --root says")
