"""Layers in a state directory: one tar, its index, its forms; damage and loss."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cache.archive.entry import Entry, Kind
from cache.database import Database
from cache.errors import ContentNotFoundError, DigestMismatchError, PybuildError, StoreError
from cache.images import ImageStore
from cache.layerstore import NoRemote, StoredLayers
from cache.localstore import LocalStore
from cache.memos import SqliteMemos
from cache.snapshotnames import SqliteSnapshotNames
from cache.spec import oci
from cache.spec.config import ImageConfig
from cache.spec.digest import Digest
from cache.spec.manifest import Index, Manifest
from cache.spec.oci import Descriptor, Layer, Platform
from cache.spec.reference import Reference
from cache.statcache import StoredStatCache
from cache.value import replace


class Place:
    """A state directory of its own."""

    def __init__(self, root: Path, remote=None) -> None:
        """Open everything."""
        self.root = root
        self.store = LocalStore(str(root))
        self.database = Database(str(root / "state.db"))
        self.layers = StoredLayers(str(root), self.store, self.database, remote or NoRemote())

    def layer(self, text: bytes = b"hello") -> Layer:
        """Write a layer with one file."""
        with self.layers.writer() as writer:
            writer.add(Entry("f", Kind.FILE, size=len(text)), text)
            return writer.commit()


@pytest.fixture
def place(tmp_path):
    """A fresh state directory."""
    made = Place(tmp_path)
    yield made
    made.database.close()


def test_same_entries_give_the_same_layer(place):
    """A layer is a function of its entries."""
    assert place.layer() == place.layer()
    assert place.layer() != place.layer(b"other")


def test_index_is_kept_and_rebuilt_when_damaged(place):
    """A lost or damaged index is made again from the tar."""
    layer = place.layer()
    kept = place.layers.index(layer)
    path = place.root / "index" / layer.diff_id.hex
    path.write_bytes(b"garbage")
    assert place.layers.index(layer) == kept
    path.unlink()
    assert [entry.path for entry in place.layers.index(layer)] == ["f"]


def test_compressed_form_is_made_once_and_reads_back(place):
    """Gzip and zstd forms decompress to the diff_id and are remembered."""
    layer = place.layer(b"x" * 100_000)
    for media_type in (oci.OCI_LAYER_GZIP, oci.OCI_LAYER_ZSTD):
        blob = place.layers.compressed(layer, media_type)
        assert blob == place.layers.compressed(layer, media_type)
        assert blob.size < 10_000
        with place.layers.open_tar(Layer(blob, layer.diff_id)) as stream:
            assert hashlib.sha256(stream.read()).hexdigest() == layer.diff_id.hex


def test_compressed_base_is_unpacked_when_seeked(place):
    """A layer known by its compressed blob alone gives its tar."""
    layer = place.layer(b"y" * 1000)
    blob = place.layers.compressed(layer, oci.OCI_LAYER_GZIP)
    place.store.delete(layer.diff_id)
    with place.layers.open_seekable(Layer(blob, layer.diff_id)) as stream:
        assert stream.seek(0, os.SEEK_END) > 1000


def test_wrong_diff_id_is_refused_and_not_kept(place):
    """A blob with another content than its config says never gets in (E06)."""
    layer = place.layer()
    blob = place.layers.compressed(layer, oci.OCI_LAYER_GZIP)
    lying = Layer(blob, Digest.of(b"something else"))
    with pytest.raises(DigestMismatchError), place.layers.open_seekable(lying):
        pass
    assert place.store.size(lying.diff_id) is None


def test_damaged_tar_is_never_read(place):
    """A flipped byte in a stored tar is found before anything is copied from it (R37)."""
    layer = place.layer(b"z" * 5000)
    path = Path(place.store.path(layer.diff_id))
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    fresh = StoredLayers(str(place.root), place.store, place.database, NoRemote())
    with pytest.raises(PybuildError), fresh.open_seekable(layer):
        pass


def test_absent_layer_without_origin_is_not_had(place):
    """Nothing is promised that cannot be fetched."""
    digest = Digest.of(b"nowhere")
    layer = Layer(Descriptor(oci.OCI_LAYER_GZIP, digest, 3), digest)
    assert not place.layers.has(layer)
    with pytest.raises(ContentNotFoundError):
        place.layers.ensure(layer.blob)
    place.layers.remember_origin([layer.blob], "docker.io/library/x")
    assert place.layers.has(layer)


def test_newer_schema_is_refused(tmp_path):
    """A store written by a newer version is never rewritten (R38)."""
    database = Database(str(tmp_path / "db"))
    database.rows("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StoreError, match="newer"):
        Database(str(tmp_path / "db"))


def test_garbage_database_is_a_clear_error(tmp_path):
    """A damaged database names itself and the way out (R38)."""
    (tmp_path / "db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="database"):
        Database(str(tmp_path / "db"))


def test_names_move_and_go(place):
    """A name points at the newest image; removing an image removes its names."""
    images = ImageStore(place.database, place.store)
    one, two = Reference.parse("one"), Reference.parse("two")
    a = Descriptor(oci.OCI_MANIFEST, Digest.of(b"a"), 1)
    b = Descriptor(oci.OCI_MANIFEST, Digest.of(b"b"), 1)
    images.put(a, (one, two))
    images.put(b, (one,))
    by_digest = {named.manifest.digest: named.names for named in images.list()}
    assert by_digest == {a.digest: (str(two),), b.digest: (str(one),)}
    assert images.find(one) is None  # its documents were never stored
    assert images.untag(one)
    assert not images.untag(one)
    images.remove(a.digest)
    assert [named.manifest.digest for named in images.list()] == [b.digest]


def test_first_snapshot_name_wins(place):
    """Two builders that extract one chain agree on one tree."""
    names = SqliteSnapshotNames(place.database)
    chain = Digest.of(b"chain")
    assert names.put(chain, "first") == "first"
    assert names.put(chain, "second") == "first"
    assert names.holds("first")
    names.remove(chain)
    assert names.get(chain) is None


def test_stat_cache_survives_damage(place):
    """Remembered digests come back; a damaged memo reads as nothing."""
    memos = SqliteMemos(place.database)
    cache = StoredStatCache(memos)
    cache.put_files("root", {"a\udcff": ((1, 2, 3, 4), b"\1" * 32)})
    cache.put_files("root", {"b": ((5, 6, 7, 8), b"\2" * 32)})
    assert cache.files("root") == {
        "a\udcff": ((1, 2, 3, 4), b"\1" * 32),
        "b": ((5, 6, 7, 8), b"\2" * 32),
    }
    cache.put_selection(b"print", b"digest")
    assert cache.selection(b"print") == b"digest"
    place.database.rows("UPDATE memos SET value = ?", (b"{broken",))
    assert cache.files("root") == {}


def test_an_index_gives_the_image_of_a_platform(place):
    """A name may lead to an index: its images are found by platform, and by their own IDs (S08)."""
    images = ImageStore(place.database, place.store)
    entries = []
    for architecture in ("amd64", "arm64"):
        platform = Platform("linux", architecture)
        config = put(place, ImageConfig(platform=platform).to_json(), oci.OCI_CONFIG)
        manifest = put(place, Manifest(config, ()).to_json(), oci.OCI_MANIFEST)
        entries.append(replace(manifest, platform=platform))
    attestation = replace(entries[0], platform=Platform("unknown", "unknown"))
    index = put(place, Index((*entries, attestation)).to_json(), oci.OCI_INDEX)
    name = Reference.parse("several")
    images.put(index, (name,))
    stored = images.find(name)
    assert stored is not None
    assert stored.id == index.digest == stored.index.digest
    assert [image.config.platform.architecture for image in stored.images] == ["amd64", "arm64"]
    assert stored.choose(Platform("linux", "arm64", "v9")).config.platform.architecture == "arm64"
    assert stored.choose(Platform("linux", "s390x")) == stored.images[0]
    assert images.find_id(index.digest.hex[:12]) == stored
    arm = images.find_id(str(stored.images[1].config_blob.digest))
    assert arm is not None
    assert not arm.is_index
    assert arm.root.digest == entries[1].digest


def put(place, data, media_type):
    """Store a document."""
    with place.store.writer() as writer:
        writer.write(data)
        return writer.commit(media_type)


@pytest.mark.parametrize("media_type", [oci.OCI_LAYER_GZIP, oci.OCI_LAYER_ZSTD])
def test_each_level_is_a_form_of_its_own(place, media_type):
    """Levels give other bytes of the same layer, each kept (O34)."""
    layer = place.layer(bytes(range(256)) * 900 + os.urandom(999))
    forms = {place.layers.compressed(layer, media_type, level).digest for level in (None, 1, 9)}
    assert len(forms) > 1
    for level in (None, 1, 9):
        blob = place.layers.compressed(layer, media_type, level)
        assert blob.media_type == media_type
        with place.layers.open_tar(Layer(blob, layer.diff_id)) as stream:
            stream.read()
