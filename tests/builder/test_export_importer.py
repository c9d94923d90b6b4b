"""Reading images that others wrote, who may mean no good."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.images import World

from builder.errors import ExportError
from builder.export import layout
from builder.export.dockerarchive import docker_bundle
from builder.export.exporter import BlobForm
from builder.export.importer import import_archive, import_images
from builder.export.layout import bundle
from builder.export.output import Compression
from cache.errors import ArchiveError, DigestMismatchError, PybuildError, SizeMismatchError
from cache.spec.manifest import Index
from cache.spec.oci import Descriptor
from cache.spec.reference import Reference

NAMES = (Reference.parse("example/app:1"),)


@pytest.fixture
def world():
    """A store that has a small image."""
    return World()


def directory(world, path, image) -> None:
    """Write a layout directory."""
    layout.write_directory(bundle([image], NAMES), world.content, str(path))


def layout_tar(world, image) -> bytes:
    """A layout tar."""
    sink = io.BytesIO()
    layout.write_tar(bundle([image], NAMES), world.content, sink)
    return sink.getvalue()


def tar(*members: tuple[str, bytes | str | tuple[str, str]]) -> bytes:
    """A tar of files (bytes), symlinks (text) and hard links (("hard", target))."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                info.size = len(what)
                archive.addfile(info, io.BytesIO(what))
                continue
            info.type = tarfile.SYMTYPE if isinstance(what, str) else tarfile.LNKTYPE
            info.linkname = what if isinstance(what, str) else what[1]
            archive.addfile(info)
    return sink.getvalue()


def legacy(world, image, *, layers, config="config.json") -> bytes:
    """The manifest.json of an old docker archive."""
    del world, image
    entry = {"Config": config, "RepoTags": ["app:1"], "Layers": layers}
    return json.dumps([entry]).encode()


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_layout_tar_is_imported_as_it_is(world, compress):
    """A layout tar, compressed or not, gives the image it holds, all blobs in the store."""
    image = world.small()
    other = World()
    (imported,) = import_archive(io.BytesIO(compress(layout_tar(world, image))), other.content)
    assert imported.image == image
    assert imported.names == ("docker.io/example/app:1",)
    assert all(other.content.size(layer.blob.digest) for layer in image.layers)


def test_our_docker_archive_is_a_layout_too(world):
    """type=docker output is imported with its manifest unchanged."""
    image = world.small()
    sink = io.BytesIO()
    layout.write_tar(docker_bundle([image], NAMES), world.content, sink)
    sink.seek(0)
    (imported,) = import_archive(sink, World().content)
    assert imported.image == image


def test_an_old_docker_archive_with_links_is_imported(world):
    """Layers named by path, one of them a link to the other, as old docker saved them (E20)."""
    image = world.small(BlobForm(compression=Compression.UNCOMPRESSED))
    first = image.layers[0]
    twice = world.image(first, first, form=BlobForm(compression=Compression.UNCOMPRESSED))
    data = world.content.blobs[first.blob.digest]
    archive = tar(
        ("aa/layer.tar", data),
        ("bb/layer.tar", "../aa/layer.tar"),
        ("config.json", twice.config.to_json()),
        ("manifest.json", legacy(world, twice, layers=["aa/layer.tar", "bb/layer.tar"])),
        ("repositories", b"{}"),
    )
    (imported,) = import_archive(io.BytesIO(archive), World().content)
    assert imported.names == ("app:1",)
    assert imported.image.config == twice.config
    assert [one.blob.digest for one in imported.image.layers] == [first.blob.digest] * 2


@pytest.mark.parametrize(
    ("layers", "config"),
    [
        (["../aa/layer.tar"], "config.json"),
        (["/etc/passwd"], "config.json"),
        (["loop"], "config.json"),
        (["escape"], "config.json"),
        (["deep/escape"], "config.json"),
        (["missing"], "config.json"),
        (["dangling"], "config.json"),
        (["aa/layer.tar"], "../config.json"),
        (["aa/layer.tar"], "escape"),
        (["aa/layer.tar", "aa/layer.tar"], "config.json"),
        (["config.json"], "config.json"),
        ([], "config.json"),
    ],
)
def test_docker_archive_names_stay_inside(world, layers, config):
    """Escaping, absolute, circular, dangling and wrong names are errors (E20)."""
    plain = BlobForm(compression=Compression.UNCOMPRESSED)
    small = world.small(plain)
    image = world.image(small.layers[0], form=plain)
    archive = tar(
        ("aa/layer.tar", world.content.blobs[image.layers[0].blob.digest]),
        ("loop", "loop"),
        ("escape", "../../../../etc/passwd"),
        ("deep/escape", "/../etc/passwd"),
        ("dangling", ("hard", "nowhere")),
        ("config.json", image.config.to_json()),
        ("manifest.json", legacy(world, image, layers=layers, config=config)),
    )
    with pytest.raises(PybuildError):
        import_archive(io.BytesIO(archive), World().content)


def test_a_member_given_twice_is_ambiguous():
    """Two files of one name with different content are refused, equal ones are not."""
    with pytest.raises(ArchiveError, match="twice"):
        import_archive(io.BytesIO(tar(("a", b"1"), ("a", b"2"))), World().content)
    with pytest.raises(ExportError, match="neither"):
        import_archive(io.BytesIO(tar(("a", b"1"), ("a", b"1"))), World().content)


def test_a_tarred_blob_under_a_wrong_name_is_refused(world):
    """A layout tar whose blob is not what its name says is refused (E19)."""
    image = world.small()
    victim = image.layers[0].blob.digest
    world.content.blobs[victim] = b"evil" * 10
    members = [(f"blobs/sha256/{digest.hex}", data) for digest, data in world.content.blobs.items()]
    documents = dict(layout._documents(bundle([image], ()), bundle([image], ()).entries))
    archive = tar(*members, *documents.items())
    with pytest.raises(DigestMismatchError, match=victim.hex):
        import_archive(io.BytesIO(archive), World().content)


@pytest.mark.parametrize("what", ["layer", "config", "manifest"])
@pytest.mark.parametrize("how", ["link", "fifo", "directory", "flipped", "short", "long"])
def test_a_hostile_blob_in_a_directory_is_refused(world, tmp_path, what, how):
    """Links, pipes, directories and wrong bytes in place of blobs are errors (E19)."""
    image = world.small()
    directory(world, tmp_path / "d", image)
    digest = {
        "layer": image.layers[1].blob.digest,
        "config": image.config_blob.digest,
        "manifest": image.manifest.digest,
    }[what]
    blob = tmp_path / "d" / "blobs" / "sha256" / digest.hex
    data = blob.read_bytes()
    blob.unlink()
    if how == "link":
        (tmp_path / "host").write_bytes(data)
        blob.symlink_to(tmp_path / "host")
    elif how == "fifo":
        os.mkfifo(blob)
    elif how == "directory":
        blob.mkdir()
    else:
        flipped = bytes([data[0] ^ 1]) + data[1:]
        blob.write_bytes({"flipped": flipped, "short": data[:-1], "long": data + b"x"}[how])
    other = World()
    with pytest.raises((ExportError, DigestMismatchError, SizeMismatchError)):
        import_images(str(tmp_path / "d"), other.content)
    assert digest not in other.content.blobs


@pytest.mark.parametrize("name", ["index.json", "oci-layout", "blobs"])
def test_links_in_place_of_parts_are_not_followed(world, tmp_path, name):
    """index.json, the marker and blobs/ must be there themselves (E19)."""
    directory(world, tmp_path / "d", world.small())
    os.rename(tmp_path / "d" / name, tmp_path / "moved")
    (tmp_path / "d" / name).symlink_to(tmp_path / "moved")
    with pytest.raises(ExportError, match="cannot read"):
        import_images(str(tmp_path / "d"), World().content)


def index_of(digest: str, size: int) -> bytes:
    """An index.json of one manifest."""
    media_type = "application/vnd.oci.image.manifest.v1+json"
    entry = {"mediaType": media_type, "digest": digest, "size": size}
    return json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("oci-layout", b'{"imageLayoutVersion":"99.0"}', "unsupported OCI layout version"),
        ("oci-layout", b"[]", "expected a JSON object"),
        ("index.json", b"{}", "schemaVersion"),
        ("index.json", b'{"schemaVersion":2,"manifests":[]}', "holds no image"),
        ("index.json", b"[" * 100_000, "nested"),
        ("index.json", b" " * (5 << 20), "over the limit"),
        ("index.json", index_of("sha256:../x", 1), "invalid digest"),
        ("index.json", index_of("sha512:" + "0" * 128, 1), "sha256"),
        ("index.json", index_of("sha256:" + "0" * 64, 99_999_999_999), "over the limit"),
        ("index.json", index_of("sha256:" + "0" * 64, 99), "lacks the blob"),
    ],
)
def test_hostile_documents_are_refused(world, tmp_path, name, data, message):
    """Unknown versions, other JSON, bombs and odd digests end in an error that names them."""
    directory(world, tmp_path / "d", world.small())
    (tmp_path / "d" / name).write_bytes(data)
    with pytest.raises(PybuildError, match=message):
        import_images(str(tmp_path / "d"), World().content)


def test_an_index_that_contains_itself_deeply_ends(world, tmp_path):
    """Indexes nested too deep are refused."""
    content = world.content
    index = content.put(
        b'{"schemaVersion":2,"manifests":[]}', "application/vnd.oci.image.index.v1+json"
    )
    for _ in range(6):
        index = content.put(Index((index,)).to_json(), "application/vnd.oci.image.index.v1+json")
    everything = layout.Bundle(
        (index,), tuple(Descriptor("", d, len(b)) for d, b in content.blobs.items())
    )
    layout.write_directory(everything, content, str(tmp_path / "d"))
    with pytest.raises(PybuildError, match="nests deeper"):
        import_images(str(tmp_path / "d"), World().content)


def test_odd_paths_are_refused(tmp_path):
    """A missing path, a pipe and an empty directory are errors, and nothing waits on the pipe."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "pipe", "empty"):
        with pytest.raises(ExportError):
            import_images(str(tmp_path / name), World().content)


IMAGE_TAR = layout_tar(_WORLD := World(), _WORLD.small())


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(IMAGE_TAR) - 1), st.integers(0, 255)), max_size=4))
def test_damaged_archives_never_surprise(edits):
    """Whatever bytes are changed, the result is an image whose parts agree or a PybuildError."""
    data = bytearray(IMAGE_TAR)
    for position, value in edits:
        data[position] = value
    other = World()
    try:
        imported = import_archive(io.BytesIO(bytes(data)), other.content)
    except PybuildError:
        return
    for one in imported:
        for blob in (one.image.manifest, one.image.config_blob):
            assert len(other.content.blobs[blob.digest]) == blob.size
        assert len(one.image.layers) == len(one.image.config.diff_ids)
