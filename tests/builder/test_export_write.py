"""Outputs carried out by type."""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest
from support.images import World

from builder.errors import UsageError
from builder.export.exporter import BlobForm, publish, publish_index
from builder.export.option import parse_output
from builder.export.write import Exporter
from cache.spec.oci import Platform
from cache.spec.reference import Reference
from cache.value import replace

NAMES = (Reference.parse("app:1"),)


def exporter(world, **options) -> Exporter:
    """An exporter with a standard output in memory."""
    return Exporter(world.content, world.layers, io.BytesIO(), lambda _: None, **options)


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    """Entries of a tar."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar.getmembers()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("type=oci", {"oci-layout", "index.json"}),
        ("type=docker,dest=-", {"oci-layout", "index.json", "manifest.json"}),
        ("-", {"bin/tool", "etc/name"}),
    ],
)
def test_archives_go_to_standard_output_or_a_file(text, expected, tmp_path):
    """The same bytes go to standard output or to a file (O43)."""
    world = World()
    image = world.small()
    one = exporter(world)
    one.write(parse_output(text), [image], NAMES)
    data = one.stdout.getvalue()
    assert expected <= set(members(data))
    text = text.removesuffix(",dest=-") if "=" in text else "type=tar"
    one.write(parse_output(f"{text},dest={tmp_path}/x.tar"), [image], NAMES)
    assert (tmp_path / "x.tar").read_bytes() == data
    assert os.listdir(tmp_path) == ["x.tar"]


def test_names_of_the_output_come_on_top():
    """name= adds to the names of the build, each once."""
    world = World()
    one = exporter(world, epoch=0)
    one.write(parse_output('type=docker,dest=-,"name=app:1,other"'), [world.small()], NAMES)
    data = one.stdout.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
        index = json.load(tar.extractfile("index.json"))
    assert entry["RepoTags"] == ["app:1", "other:latest"]
    times = {m["annotations"]["org.opencontainers.image.created"] for m in index["manifests"]}
    assert times == {"1970-01-01T00:00:00Z"}


def test_platforms_get_directories_of_their_own(tmp_path):
    """Several platforms are os_arch directories in tar and local outputs (O40)."""
    world = World()
    one = world.small()
    arm = publish(
        replace(one.config, platform=Platform("linux", "arm", "v7")),
        one.layers,
        base_layers=2,
        form=BlobForm(),
        content=world.content,
        layer_store=world.layers,
    )
    index = publish_index([one, arm], form=BlobForm(), content=world.content)
    out = exporter(world)
    out.write(parse_output("type=tar"), [one, arm], NAMES, index=index)
    entries = members(out.stdout.getvalue())
    assert entries["linux_amd64/etc/name"].isfile()
    assert entries["linux_arm_v7/bin/tool"].linkname == "linux_arm_v7/bin/alias"
    out.write(parse_output(str(tmp_path)), [one, arm], NAMES, index=index)
    assert sorted(os.listdir(tmp_path)) == ["linux_amd64", "linux_arm_v7"]
    out.write(parse_output(f"type=oci,dest={tmp_path}/x"), [one, arm], NAMES, index=index)
    assert f"blobs/sha256/{index.digest.hex}" in members((tmp_path / "x").read_bytes())
    with pytest.raises(UsageError, match="manifest lists"):
        out.write(parse_output("type=docker,dest=-"), [one, arm], NAMES, index=index)


def test_kept_and_pushed_outputs_write_nothing():
    """image, registry, cacheonly and loading are others' business."""
    world = World()
    out = exporter(world)
    for text in ("type=image", "type=registry", "type=cacheonly", "type=docker"):
        out.write(parse_output(text), [world.small()], NAMES)
    assert out.stdout.getvalue() == b""


def test_a_terminal_gets_no_archive():
    """Standard output that is a terminal is refused even without the early check (O43)."""

    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    world = World()
    out = replace(exporter(world), stdout=Terminal())
    with pytest.raises(UsageError, match="terminal"):
        out.write(parse_output("type=oci"), [world.small()], NAMES)


def test_platforms_in_one_directory_may_not_meet(tmp_path):
    """Without split, platforms that write the same file are refused before one is written (O40)."""
    world = World()
    one = world.small()
    arm = replace(one, config=replace(one.config, platform=Platform("linux", "arm64")))
    index = publish_index([one], form=BlobForm(), content=world.content)
    out = exporter(world)
    dest = tmp_path / "out"
    spec = parse_output(f"type=local,platform-split=false,dest={dest}")
    with pytest.raises(UsageError, match="cannot overwrite bin/alias from linux/amd64"):
        out.write(spec, [one, arm], NAMES, index=index)
    assert not dest.exists()


def test_delete_removes_what_is_not_in_the_result(tmp_path):
    """mode=delete leaves nothing but the result, whatever was there (O41)."""
    world = World()
    (tmp_path / "old" / "deep").mkdir(parents=True)
    (tmp_path / "old" / "deep" / "file").touch()
    (tmp_path / "etc" / "name" / "directory").mkdir(parents=True)
    (tmp_path / "etc" / "stale").symlink_to("/")
    out = exporter(world, epoch=7)
    image = world.small()
    out.write(parse_output(f"type=local,mode=delete,dest={tmp_path}"), [image], NAMES)
    assert sorted(os.listdir(tmp_path)) == ["bin", "etc"]
    assert os.listdir(tmp_path / "etc") == ["name"]
    spec = parse_output(f"type=local,mode=delete,platform-split=true,dest={tmp_path}")
    out.write(spec, [image], NAMES)
    assert os.listdir(tmp_path) == ["linux_amd64"]
    assert (tmp_path / "linux_amd64").stat().st_mtime == 7
