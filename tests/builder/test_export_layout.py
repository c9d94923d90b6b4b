"""OCI layouts and docker archives, read back by us and by others' tools."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile

import pytest
from support.images import World

from builder.errors import ExportError, UsageError
from builder.export import layout
from builder.export.destination import check_destination, open_destination
from builder.export.dockerarchive import docker_bundle
from builder.export.exporter import BlobForm, publish_index
from builder.export.importer import import_images
from builder.export.layout import bundle
from builder.export.option import parse_output
from builder.export.output import Compression
from cache.errors import ContentNotFoundError, DigestMismatchError
from cache.spec.reference import Reference

NAMES = (Reference.parse("example/app:1"), Reference.parse("app:2"))


@pytest.fixture
def world():
    """A fresh store."""
    return World()


def tar_of(content, world) -> bytes:
    """A bundle as tar bytes."""
    sink = io.BytesIO()
    layout.write_tar(content, world.content, sink)
    return sink.getvalue()


def test_a_layout_tar_has_the_entries_docker_writes(world):
    """Directories, read-only blobs, index.json and oci-layout; times 0; a name per entry (O35)."""
    image = world.small()
    with tarfile.open(fileobj=io.BytesIO(tar_of(bundle([image], NAMES), world))) as tar:
        members = tar.getmembers()
        index = json.load(tar.extractfile("index.json"))
        marker = json.load(tar.extractfile("oci-layout"))
    names = [member.name for member in members]
    assert names[:2] == ["blobs", "blobs/sha256"]
    assert names[-2:] == ["index.json", "oci-layout"]
    blobs = [member for member in members if member.name.startswith("blobs/sha256/")]
    assert len(blobs) == 4
    assert [b.name for b in blobs] == sorted(b.name for b in blobs)
    assert {b.mode for b in blobs} == {0o444}
    assert {member.mtime for member in members} == {0}
    assert marker == {"imageLayoutVersion": "1.0.0"}
    assert [entry["annotations"] for entry in index["manifests"]] == [
        {
            "io.containerd.image.name": "docker.io/example/app:1",
            "org.opencontainers.image.ref.name": "1",
            "org.opencontainers.image.created": "2024-01-01T00:00:00Z",
        },
        {
            "io.containerd.image.name": "docker.io/library/app:2",
            "org.opencontainers.image.ref.name": "2",
            "org.opencontainers.image.created": "2024-01-01T00:00:00Z",
        },
    ]
    assert index["manifests"][0]["digest"] == str(image.manifest.digest)


def test_equal_images_give_equal_bytes():
    """A layout depends on the image alone."""
    one, two = World(), World()
    assert tar_of(bundle([one.small()], NAMES), one) == tar_of(bundle([two.small()], NAMES), two)


def test_a_blob_used_twice_is_written_once(world):
    """Repeated layers appear once (O36)."""
    image = world.small()
    twice = world.image(image.layers[0], image.layers[0])
    content = bundle([twice], ())
    assert len(content.blobs) == 3
    assert len({blob.digest for blob in content.blobs}) == 3


def test_damaged_content_fails_the_export(world, tmp_path):
    """A blob that is not what its digest says stops the export; no file appears (K02)."""
    image = world.small()
    victim = image.layers[0].blob
    world.content.blobs[victim.digest] = b"x" * victim.size
    dest = tmp_path / "out.tar"
    dest.write_bytes(b"before")
    with (
        pytest.raises(DigestMismatchError),
        open_destination(str(dest), io.BytesIO()) as sink,
    ):
        layout.write_tar(bundle([image], ()), world.content, sink)
    assert dest.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out.tar"]
    with pytest.raises(DigestMismatchError):
        layout.write_directory(bundle([image], ()), world.content, str(tmp_path / "dir"))
    assert not (tmp_path / "dir" / "index.json").exists()


def test_only_what_replaces_a_file_waits_for_the_disk(tmp_path, monkeypatch):
    """A file that was there survives a loss of power in its old or its new form (K02)."""
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for data, count in ((b"new", 0), (b"newer", 2)):  # the file and its directory
        with open_destination(f"{tmp_path}/out.tar", io.BytesIO()) as sink:
            sink.write(data)
        assert (tmp_path / "out.tar").read_bytes() == data
        assert len(synced) == count
    assert synced[0] == len(b"newer")


def test_a_layout_directory_is_read_back(world, tmp_path):
    """tar=false writes the same layout as a directory (O35)."""
    image = world.small()
    layout.write_directory(bundle([image], NAMES), world.content, str(tmp_path / "d"))
    blob = tmp_path / "d" / "blobs" / "sha256" / image.manifest.digest.hex
    assert blob.stat().st_mode & 0o777 == 0o444
    other = World()
    (imported,) = import_images(str(tmp_path / "d"), other.content)
    assert imported.image == image
    assert imported.names == ("docker.io/example/app:1", "docker.io/library/app:2")


def test_a_layout_directory_is_added_to(world, tmp_path):
    """Entries under other names stay, one under the same name is replaced, blobs stay."""
    dest = str(tmp_path)
    first = world.small()
    second = world.image(first.layers[0])
    layout.write_directory(bundle([first], NAMES), world.content, dest)
    layout.write_directory(bundle([second], NAMES[:1]), world.content, dest)
    layout.write_directory(bundle([second], ()), world.content, dest)
    layout.write_directory(bundle([second], ()), world.content, dest)
    index = json.loads((tmp_path / "index.json").read_bytes())
    digests = [entry["digest"] for entry in index["manifests"]]
    assert digests == [
        str(first.manifest.digest),
        str(second.manifest.digest),
        str(second.manifest.digest),
    ]


def test_foreign_directories_are_left_alone(world, tmp_path):
    """A directory that is no layout is refused untouched; links in a layout are not followed."""
    (tmp_path / "mine").write_text("x")
    with pytest.raises(UsageError, match="neither empty nor an OCI layout"):
        layout.write_directory(bundle([world.small()], ()), world.content, str(tmp_path))
    assert os.listdir(tmp_path) == ["mine"]
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "oci-layout").write_text("{}")
    (trap / "blobs").symlink_to(tmp_path)
    with pytest.raises(ExportError, match="cannot write"):
        layout.write_directory(bundle([world.small()], ()), world.content, str(trap))
    assert sorted(os.listdir(tmp_path)) == ["mine", "trap"]


def test_several_platforms_share_an_index(world, tmp_path):
    """With several platforms the entry is the index, and all blobs are there (O31)."""
    image = world.small()
    index = publish_index([image], form=BlobForm(), content=world.content)
    layout.write_directory(
        bundle([image], NAMES[:1], index=index), world.content, str(tmp_path / "d")
    )
    (imported,) = import_images(str(tmp_path / "d"), World().content)
    assert imported.image.manifest.digest == image.manifest.digest
    assert imported.names == ("docker.io/example/app:1",)
    with pytest.raises(UsageError, match="manifest lists"):
        docker_bundle([image, image], ())


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    """A link, directory or pipe at the destination is an error, early and late (K02)."""
    canary = tmp_path / "canary"
    canary.write_text("alive")
    dest = tmp_path / "out.tar"
    if kind == "link":
        dest.symlink_to(canary)
    elif kind == "directory":
        dest.mkdir()
    else:
        os.mkfifo(dest)
    spec = parse_output(f"type=oci,dest={dest}")
    with pytest.raises(UsageError, match="destination"):
        check_destination(spec, stdout_is_terminal=False)
    with pytest.raises(UsageError, match="destination"), open_destination(spec.dest, io.BytesIO()):
        pass
    assert canary.read_text() == "alive"


def test_destinations_are_checked_before_the_build(tmp_path):
    """Terminals, missing parents and wrong kinds are refused; what can be made is not (O43)."""
    file = tmp_path / "file"
    file.write_text("")
    for text, terminal in (
        ("type=oci", True),
        ("type=tar,dest=-", True),
        (f"type=tar,dest={tmp_path}/no/x.tar", False),
        (f"type=local,dest={file}", False),
        (f"type=oci,tar=false,dest={file}", False),
    ):
        with pytest.raises(UsageError):
            check_destination(parse_output(text), stdout_is_terminal=terminal)
    for text in (
        "type=oci",
        f"type=tar,dest={file}",
        f"type=local,dest={tmp_path}/a/b",
        f"type=oci,dest={tmp_path}/new",
        "type=image",
    ):
        check_destination(parse_output(text), stdout_is_terminal=False)


@pytest.mark.parametrize(
    "text", ["type=oci,dest={}/x.tar", "type=oci,tar=false,dest={}/a/b", "type=local,dest={}"]
)
def test_a_place_nobody_may_write_to_is_refused_before_the_build(tmp_path, monkeypatch, text):
    """Not after twenty minutes, and with a next step (O43)."""
    monkeypatch.setattr(os, "access", lambda _, mode: mode == os.F_OK)  # root may write anywhere
    with pytest.raises(ExportError, match=r"cannot write to .*: Permission denied") as caught:
        check_destination(parse_output(text.format(tmp_path)), stdout_is_terminal=False)
    assert caught.value.hint == "name a place where you can write"


def test_a_full_or_missing_destination_is_an_export_error(tmp_path):
    """What the system refuses names the destination."""
    with (
        pytest.raises(ExportError, match="cannot write to"),
        open_destination(f"{tmp_path}/no/x", io.BytesIO()),
    ):
        pass


def run(*argv: str) -> str:
    """Run a peer and give what it said."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo")
FORMS = [
    BlobForm(),
    BlobForm(compression=Compression.ZSTD),
    BlobForm(compression=Compression.UNCOMPRESSED),
    BlobForm(oci_types=False),
]


@needs_skopeo
@pytest.mark.parametrize("form", FORMS[:3], ids=str)
def test_skopeo_reads_our_layouts(world, tmp_path, form):
    """Skopeo verifies and copies layout tars and directories in every OCI form (K06)."""
    image = world.small(form)
    names = NAMES[:1]
    archive = tmp_path / "oci.tar"
    archive.write_bytes(tar_of(bundle([image], names), world))
    layout.write_directory(bundle([image], names), world.content, str(tmp_path / "oci"))
    for source in (f"oci-archive:{archive}:1", f"oci:{tmp_path}/oci:1"):
        run("skopeo", "--insecure-policy", "copy", source, f"dir:{tmp_path}/copied")
        config = json.loads(run("skopeo", "inspect", "--config", source))
        assert config["config"]["Cmd"] == ["/hello"]


@needs_skopeo
@pytest.mark.parametrize("form", [FORMS[0], FORMS[2], FORMS[3]], ids=str)
def test_skopeo_reads_our_docker_archives(world, tmp_path, form):
    """Skopeo loads docker archives by their familiar name (O35)."""
    image = world.small(form)
    archive = tmp_path / "docker.tar"
    archive.write_bytes(tar_of(docker_bundle([image], NAMES), world))
    with tarfile.open(archive) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
    assert entry["RepoTags"] == ["example/app:1", "app:2"]
    source = f"docker-archive:{archive}:example/app:1"
    run("skopeo", "--insecure-policy", "copy", source, f"dir:{tmp_path}/copied")


@needs_skopeo
@pytest.mark.parametrize("form", ["oci-archive", "oci", "docker-archive"])
def test_we_read_what_skopeo_writes(world, tmp_path, form):
    """Layouts and archives of another tool are imported with their names."""
    image = world.small()
    archive = tmp_path / "oci.tar"
    archive.write_bytes(tar_of(bundle([image], ()), world))
    name = "docker.io/example/app:1"
    target = f"{form}:{tmp_path}/theirs:{name}"
    run("skopeo", "--insecure-policy", "copy", f"oci-archive:{archive}", target)
    (imported,) = import_images(str(tmp_path / "theirs"), World().content)
    assert imported.names == (name,)
    assert imported.image.config == image.config
    assert [layer.diff_id for layer in imported.image.layers] == [
        layer.diff_id for layer in image.layers
    ]


def test_a_missing_blob_names_its_digest(world):
    """A provider without the blob fails the export."""
    image = world.small()
    world.content.delete(image.layers[1].blob.digest)
    with pytest.raises(ContentNotFoundError, match=image.layers[1].blob.digest.hex):
        tar_of(bundle([image], ()), world)
