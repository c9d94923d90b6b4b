"""Which file systems are here and what their kinds are good for."""

from __future__ import annotations

import os

import pytest

from builder import places
from builder.places import Mount

MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a
30 27 254:1 / HERE/empty\040dir rw,relatime shared:5 - ext4 /dev/vda rw,discard
31 27 254:1 / HERE/readonly ro,relatime - ext4 /dev/vda rw
32 27 254:1 / HERE/noexec rw,noexec - xfs /dev/vdb rw
33 27 254:1 / HERE/used rw - btrfs /dev/vdb rw
34 27 0:60 / HERE/gone rw - tmpfs tmpfs rw
35 27 0:61 / /dev/shm rw - tmpfs tmpfs rw
36 27 0:62 / HERE/net rw - nfs4 server:/x rw
37 27 254:1 / HERE/file rw - ext4 /dev/vda rw
a line that is cut
"""


@pytest.fixture
def mounts(tmp_path):
    """Mounts of a pod as its mountinfo tells, with the directories there."""
    for name in ("empty dir", "readonly", "noexec", "used", "net"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "used" / "Dockerfile").write_text("")
    return places.mounts(lambda _path: MOUNTS.replace("HERE", str(tmp_path)))


def test_mounts_are_read_as_the_kernel_writes_them(mounts, tmp_path):
    """Octal escapes, optional fields, options of both kinds; a broken line is passed over."""
    assert len(mounts) == 10
    assert mounts[2] == Mount(
        f"{tmp_path}/empty dir", "ext4", frozenset({"rw", "relatime", "discard"})
    )


def test_a_volume_is_what_holds_nothing_else(mounts, tmp_path, monkeypatch):
    """Only a writable, empty disk or tmpfs will do: no system's, no workspace, no file (sheet D)."""
    monkeypatch.setattr(places, "NEEDED_SPACE", 1)
    volume = tmp_path / "empty dir"
    assert places.volumes(mounts) == (str(volume),)
    (volume / "lost+found").mkdir()
    (volume / "pybuild-1000").mkdir()
    assert places.volumes(mounts) == (str(volume),)
    (volume / "main.c").write_text("")
    assert places.volumes(mounts) == ()


def test_a_small_volume_is_passed_over(mounts, monkeypatch):
    """One without room for an image is none."""
    monkeypatch.setattr(places, "NEEDED_SPACE", 1 << 62)
    assert places.volumes(mounts) == ()


@pytest.mark.parametrize(
    ("magic", "kind"),
    [
        (0xEF53, "ext4"),
        (0x58465342, "xfs"),
        (0x9123683E, "btrfs"),
        (0x01021994, "tmpfs"),
        (0x794C7630, "overlay"),
        (0x6969, "nfs"),
        (0x01021997, "9p"),
        (0x65735546, "fuse"),
        (0xFF534D42, "cifs"),
        (0x12345678, ""),
    ],
)
def test_kinds_go_by_their_magic_number(magic, kind):
    """As statfs tells it (sheet D)."""
    assert places.kind_of("/anywhere", lambda _path: magic) == kind


def test_the_kernel_is_asked():
    """What is there has a kind, what is not has none."""
    assert places.kind_of("/proc/nowhere") == ""
    assert places._statfs("/proc") == 0x9FA0


def test_a_file_that_cannot_be_read_is_empty(tmp_path):
    """Missing, a directory, or not text."""
    assert places.read_text(str(tmp_path / "missing")) == ""
    assert places.read_text(str(tmp_path)) == ""
    (tmp_path / "raw").write_bytes(b"\xff")
    assert places.read_text(str(tmp_path / "raw")) == os.fsdecode(b"\xff")
