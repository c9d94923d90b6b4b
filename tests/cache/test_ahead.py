"""Layers compressed while they are written: the same bytes, and nothing left of those not wanted."""

from __future__ import annotations

import os

import pytest

from cache import compress
from cache.archive.entry import Entry, Kind
from cache.database import Database
from cache.errors import DigestMismatchError, StoreError
from cache.layerstore import NoRemote, StoredLayers
from cache.localstore import LocalStore
from cache.spec import oci
from cache.spec.digest import Digest

TYPES = [oci.OCI_LAYER_GZIP, oci.OCI_LAYER_ZSTD]


@pytest.fixture
def layers(tmp_path):
    """Layers in a fresh store."""
    root = str(tmp_path)
    store = LocalStore(root)
    database = Database(f"{root}/state.db")
    made = StoredLayers(root, store, database, NoRemote())
    yield made
    made.close()
    database.close()


def write(layers, count=500):
    """A layer of some files, of three megabytes."""
    with layers.writer() as writer:
        for n in range(count):
            data = os.urandom(10) * 600
            writer.add(Entry(f"f{n}", Kind.FILE, 0o644, size=len(data), mtime=n + 1), data)
        return writer.commit()


def whole(layers, descriptor):
    """The bytes of a blob, verified."""
    with layers.open(descriptor) as stream:
        return stream.read()


@pytest.mark.parametrize("media_type", TYPES)
def test_what_is_compressed_ahead_is_what_is_compressed_later(layers, tmp_path, media_type):
    """The compressed blob has the same bytes whenever it is made, and is made once (O30)."""
    with layers.compressing(media_type):
        layer = write(layers)
    ahead = layers.compressed(layer, media_type)
    assert layers.compressed(layer, media_type) == ahead
    with layers.open_tar(layer) as stream, LocalStore(str(tmp_path / "other")).writer() as blob:
        later = compress.compressor(media_type, blob)
        while piece := stream.read(12345):
            later.write(piece)
        later.finish()
        assert blob.commit(media_type) == ahead
    assert whole(layers, ahead)


def test_another_form_is_made_when_it_is_asked_for(layers):
    """A guess that was wrong costs nothing but time."""
    with layers.compressing(oci.OCI_LAYER_GZIP):
        layer = write(layers)
    zstd = layers.compressed(layer, oci.OCI_LAYER_ZSTD)
    assert whole(layers, zstd)[:4] == b"\x28\xb5\x2f\xfd"


def fail(layers):
    """Begin a layer that does not come to its end."""
    with layers.compressing(oci.OCI_LAYER_GZIP), layers.writer() as writer:
        writer.add(Entry("a", Kind.FILE, 0o644, size=1), b"a")
        raise ValueError("failed")


def test_nothing_is_left_of_a_layer_that_was_not_finished(layers, tmp_path):
    """A step that fails leaves neither a blob nor a file behind (B07)."""
    with pytest.raises(ValueError, match="failed"):
        fail(layers)
    assert os.listdir(tmp_path / "tmp") == []
    assert os.listdir(tmp_path / "blobs" / "sha256") == []


def test_outside_the_block_nothing_is_compressed(layers, tmp_path):
    """Only layers that will be wanted are compressed ahead."""
    with layers.compressing(oci.OCI_LAYER_GZIP):
        pass
    layer = write(layers)
    layers.close()
    assert os.listdir(tmp_path / "blobs" / "sha256") == [layer.diff_id.hex]


def failing(media_type, sink, *rest):
    """A compressor whose disk is full."""

    class Failing:
        def write(self, data):
            raise StoreError("no space")

        def finish(self):
            raise AssertionError

    return Failing()


def test_a_failure_beside_the_layer_does_not_harm_it(layers, monkeypatch):
    """When compressing fails meanwhile, the layer is written all the same and compressed later."""
    real = compress.compressor
    monkeypatch.setattr(compress, "compressor", failing)
    with layers.compressing(oci.OCI_LAYER_GZIP):
        layer = write(layers)
    monkeypatch.setattr(compress, "compressor", real)
    assert whole(layers, layers.compressed(layer, oci.OCI_LAYER_GZIP))[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("media_type", TYPES)
def test_a_form_alone_stands_for_the_layer(layers, tmp_path, media_type):
    """One blob is stored, half of what two take; layer and digests are those of the tar (ADR 7)."""
    with layers.compressing(media_type, alone=True):
        layer = write(layers)
    form = layers.compressed(layer, media_type)
    assert os.listdir(tmp_path / "blobs" / "sha256") == [form.digest.hex]
    assert layers.has(layer)
    assert layer.blob.media_type == oci.OCI_LAYER
    with layers.open_tar(layer) as stream:
        tar = stream.read()
    assert (Digest.of(tar), len(tar)) == (layer.diff_id, layer.blob.size)
    assert whole(layers, form)[:2] in {b"\x1f\x8b", b"\x28\xb5"}
    assert os.listdir(tmp_path / "tmp") == []


def test_the_tar_is_made_of_the_form_when_it_is_asked_for(layers, tmp_path):
    """COPY --from, an uncompressed output and other forms find a layer that was compressed alone."""
    with layers.compressing(oci.OCI_LAYER_ZSTD, alone=True):
        layer = write(layers)
    layers.expect([layer])  # nothing is fetched
    gzip = layers.compressed(layer, oci.OCI_LAYER_GZIP)
    assert not (tmp_path / "blobs" / "sha256" / layer.diff_id.hex).exists()
    assert whole(layers, gzip)[:2] == b"\x1f\x8b"
    plain = layers.compressed(layer, oci.OCI_LAYER)
    assert Digest.of(whole(layers, plain)) == layer.diff_id
    with layers.open_seekable(layer) as stream:
        assert len(stream.read()) == layer.blob.size


def test_a_large_form_is_read_ahead_and_verified(layers, tmp_path):
    """A blob of some size is read by another thread; damage is found at its end all the same."""
    data = os.urandom(9 << 20)
    with layers.writer() as writer:
        writer.add(Entry("f", Kind.FILE, 0o644, size=len(data)), data)
        layer = writer.commit()
    assert data in whole(layers, layer.blob)
    path = tmp_path / "blobs" / "sha256" / layer.diff_id.hex
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(DigestMismatchError):
        whole(layers, layer.blob)


def test_a_lost_form_is_a_lost_layer(layers, tmp_path):
    """What a row names and the disk has not is not had: the step runs again."""
    with layers.compressing(oci.OCI_LAYER_ZSTD, alone=True):
        layer = write(layers)
    form = layers.compressed(layer, oci.OCI_LAYER_ZSTD)
    (tmp_path / "blobs" / "sha256" / form.digest.hex).unlink()
    assert not layers.has(layer)


def test_a_form_alone_that_fails_fails_the_layer(layers, tmp_path, monkeypatch):
    """Without a tar beside it there is no layer where compressing fails (R08)."""
    monkeypatch.setattr(compress, "compressor", failing)
    with (
        layers.compressing(oci.OCI_LAYER_ZSTD, alone=True),
        pytest.raises(StoreError, match="no space"),
    ):
        write(layers)
    assert os.listdir(tmp_path / "blobs" / "sha256") == []
    assert os.listdir(tmp_path / "tmp") == []
