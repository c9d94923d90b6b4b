"""The merged file system as a tar and as a directory."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile

import pytest
from support.images import World

from builder.errors import ExportError
from builder.export.localdir import write_local
from builder.export.rootfs import write_rootfs
from cache.archive.entry import Entry, Kind


@pytest.fixture
def world():
    """A fresh store."""
    return World()


def local(world, layers, dest, **options) -> list[str]:
    """Export to a directory; gives the warnings."""
    warnings: list[str] = []
    write_local(layers, world.layers, str(dest), warn=warnings.append, **options)
    return warnings


def test_a_rootfs_tar_is_plain_and_merged(world):
    """Plain sorted paths, whiteouts applied, hard links kept, owners as in the image (O42)."""
    sink = io.BytesIO()
    write_rootfs(world.small().layers, world.layers, sink)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as tar:
        members = {member.name: member for member in tar.getmembers()}
        assert list(members) == [
            "bin", "bin/alias", "bin/link", "bin/tool", "etc", "etc/name",
        ]  # fmt: skip
        assert members["bin/tool"].linkname == "bin/alias"
        assert tar.extractfile("bin/tool").read() == b"tool" * 1000
    assert members["bin/alias"].mode == 0o4755
    name = members["etc/name"]
    assert (name.uid, name.gid, name.mode, name.mtime) == (1, 2, 0o600, 1.5)
    assert members["bin/link"].linkname == "tool"


def test_an_epoch_dates_every_file(world, tmp_path):
    """SOURCE_DATE_EPOCH is the time of everything exported (O21)."""
    layers = world.small().layers
    sink = io.BytesIO()
    write_rootfs(layers, world.layers, sink, epoch=7)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as tar:
        assert {member.mtime for member in tar.getmembers()} == {7}
    local(world, layers, tmp_path / "d", epoch=7)
    for path in ("bin", "bin/tool", "bin/link", "etc", "etc/name"):
        assert (tmp_path / "d" / path).lstat().st_mtime == 7


def test_a_local_export_is_the_tree(world, tmp_path):
    """Contents, modes, times, symlinks and hard links; owner is the caller; set-id gone (O41)."""
    warnings = local(world, world.small().layers, tmp_path / "deep" / "d")
    root = tmp_path / "deep" / "d"
    assert sorted(os.listdir(root)) == ["bin", "etc"]
    tool = root / "bin" / "tool"
    assert tool.read_bytes() == b"tool" * 1000
    assert tool.stat().st_mode & 0o7777 == 0o755
    assert tool.stat().st_ino == (root / "bin" / "alias").stat().st_ino
    assert os.readlink(root / "bin" / "link") == "tool"
    name = root / "etc" / "name"
    assert name.stat().st_mode & 0o7777 == 0o600
    assert (name.stat().st_uid, name.stat().st_mtime) == (os.getuid(), 1.5)
    assert (root / "etc").stat().st_mtime == 1
    assert len(warnings) == 1
    assert "set-id" in warnings[0]


def test_a_local_export_replaces_files_and_keeps_others(world, tmp_path):
    """Files of the same name are overwritten, others stay (O41)."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "name").write_text("old")
    (tmp_path / "etc" / "other").write_text("mine")
    for _ in range(2):
        local(world, world.small().layers, tmp_path)
    assert (tmp_path / "etc" / "name").read_bytes() == b"x"
    assert (tmp_path / "etc" / "other").read_text() == "mine"
    assert (tmp_path / "bin" / "alias").samefile(tmp_path / "bin" / "tool")


@pytest.mark.parametrize("victim", ["etc", "bin/tool", "etc/name", "bin"])
def test_nothing_is_written_through_links(world, tmp_path, victim):
    """Links in the destination are replaced, never followed; the canary lives (K01)."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "name").write_text("alive")
    (outside / "tool").write_text("alive")
    dest = tmp_path / "d"
    (dest / victim).parent.mkdir(parents=True)
    target = outside if "/" not in victim else outside / victim.rpartition("/")[2]
    (dest / victim).symlink_to(target)
    local(world, world.small().layers, dest)
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"name": "alive", "tool": "alive"}
    assert outside.stat().st_mode & 0o777 == 0o755
    assert (dest / "etc" / "name").read_bytes() == b"x"


def test_links_of_the_image_stay_links(world, tmp_path):
    """Absolute and escaping link targets are exported verbatim and lead nothing outside (K01)."""
    (tmp_path / "canary").write_text("alive")
    layer = world.layer(
        Entry("a", Kind.SYMLINK, linkname="/etc/passwd"),
        Entry("b", Kind.SYMLINK, linkname="../canary"),
        Entry("up", Kind.SYMLINK, linkname=".."),
        (Entry("up/canary", Kind.FILE), b"inside"),
    )
    local(world, [layer], tmp_path / "d")
    assert os.readlink(tmp_path / "d" / "a") == "/etc/passwd"
    assert os.readlink(tmp_path / "d" / "b") == "../canary"
    assert (tmp_path / "canary").read_text() == "alive"
    assert (tmp_path / "d" / "canary").read_bytes() == b"inside"


def test_a_directory_in_the_way_is_an_error(world, tmp_path):
    """A directory of the user's is never removed for a file."""
    (tmp_path / "etc" / "name" / "sub").mkdir(parents=True)
    with pytest.raises(ExportError, match="'etc/name'"):
        local(world, world.small().layers, tmp_path)
    assert (tmp_path / "etc" / "name" / "sub").is_dir()


def test_special_files_and_closed_directories(world, tmp_path):
    """Devices are left out and said, pipes made, 0000 directories stay deletable (K03)."""
    layer = world.layer(
        Entry("dev", Kind.DIRECTORY, 0o000),
        Entry("dev/sda", Kind.BLOCK, 0o666, device=(8, 0)),
        Entry("dev/pipe", Kind.FIFO, 0o640),
        (Entry("dev/odd\udcff\n", Kind.FILE, 0o000), b"data"),
        Entry("tmp", Kind.DIRECTORY, 0o1777),
        Entry("suid", Kind.DIRECTORY, 0o2755),
    )
    warnings = local(world, [layer], tmp_path)
    assert sorted(os.listdir(os.fsencode(tmp_path / "dev"))) == [b"odd\xff\n", b"pipe"]
    assert (tmp_path / "dev").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (tmp_path / "suid").stat().st_mode & 0o7777 == 0o755
    assert warnings == ["device nodes are not exported: dev/sda"]
    sink = io.BytesIO()
    write_rootfs([layer], world.layers, sink)
    with tarfile.open(fileobj=io.BytesIO(sink.getvalue())) as tar:
        assert (tar.getmember("dev/sda").devmajor, tar.getmember("dev").mode) == (8, 0)


def test_deep_trees_need_few_descriptors(world, tmp_path):
    """A path of very many components exports without running out of anything."""
    path = "/".join(["d"] * 1200)
    layer = world.layer((Entry(f"{path}/f", Kind.FILE), b"deep"))
    local(world, [layer], tmp_path / "x")
    subprocess.run(["rm", "-rf", tmp_path / "x"], check=True)  # pytest's own way recurses
    sink = io.BytesIO()
    write_rootfs([layer], world.layers, sink)
    assert sink.getvalue().count(b"deep") == 1
