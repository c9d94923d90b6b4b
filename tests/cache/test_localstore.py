"""The blob store on disk: publishing, verification, damage."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from contract.content_store import ContentStoreContract

from cache.errors import (
    ContentNotFoundError,
    DigestMismatchError,
    PybuildError,
    SizeMismatchError,
)
from cache.localstore import LocalStore
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor


def _put(store: LocalStore, data: bytes) -> Descriptor:
    with store.writer() as writer:
        writer.write(data)
        return writer.commit("application/octet-stream")


def _read(store: LocalStore, descriptor: Descriptor) -> bytes:
    with store.open(descriptor) as stream:
        return stream.read()


def test_commit_publishes_under_digest(tmp_path: Path) -> None:
    """What was written can be read back by the descriptor that commit gave."""
    store = LocalStore(str(tmp_path))
    descriptor = _put(store, b"hello")
    assert descriptor.digest == Digest.of(b"hello")
    assert _read(store, descriptor) == b"hello"
    assert list(store) == [descriptor.digest]
    assert _put(store, b"hello") == descriptor


def test_names_of_many_blobs_are_settled_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data is synced before its name appears, all names before an image needs them (R07)."""
    done: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        done.append("names" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "data")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store = LocalStore(str(tmp_path))
    store.settle()
    assert done == []
    _put(store, b"one")
    _put(store, b"two")
    store.settle()
    store.settle()
    assert done == ["data", "data", "names"]


def test_stored_document_is_not_written_again(tmp_path: Path) -> None:
    """A small blob that is there stays the same file; a damaged one is replaced."""
    store = LocalStore(str(tmp_path))
    descriptor = _put(store, b"hello")
    file = Path(store.path(descriptor.digest))
    before = file.stat()
    assert _put(store, b"hello") == descriptor
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path / "tmp") == []
    file.chmod(0o600)
    file.write_bytes(b"hallo")
    assert _put(store, b"hello") == descriptor
    assert _read(store, descriptor) == b"hello"


def test_uncommitted_ingest_leaves_nothing(tmp_path: Path) -> None:
    """Leaving without commit discards the bytes and the temporary file."""
    store = LocalStore(str(tmp_path))
    with store.writer() as writer:
        writer.write(b"x")
    assert list(store) == []
    assert os.listdir(tmp_path / "tmp") == []


def test_wrong_expected_digest_publishes_nothing(tmp_path: Path) -> None:
    """A digest that is not the announced one is refused before publishing (E06)."""
    store = LocalStore(str(tmp_path))
    with store.writer() as writer:
        writer.write(b"x")
        with pytest.raises(DigestMismatchError):
            writer.commit("t", Digest.of(b"y"))
    assert list(store) == []


@pytest.mark.parametrize("damage", [b"hellO", b"hell", b"hello!", b""])
def test_damaged_blob_is_never_served(tmp_path: Path, damage: bytes) -> None:
    """A flipped byte or another size is an error at the latest at the end (R37)."""
    store = LocalStore(str(tmp_path))
    descriptor = _put(store, b"hello")
    path = Path(store.path(descriptor.digest))
    path.chmod(0o600)
    path.write_bytes(damage)
    with pytest.raises((DigestMismatchError, SizeMismatchError)):
        _read(store, descriptor)


def test_link_in_place_of_a_blob_is_not_followed(tmp_path: Path) -> None:
    """A blob replaced by a link is not found (E19)."""
    store = LocalStore(str(tmp_path))
    descriptor = _put(store, b"hello")
    path = Path(store.path(descriptor.digest))
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(ContentNotFoundError):
        _read(store, descriptor)


def test_absent_blob_and_repeated_delete(tmp_path: Path) -> None:
    """Deleting what is absent is success; opening it is not."""
    store = LocalStore(str(tmp_path))
    descriptor = Descriptor("t", Digest.of(b"none"), 4)
    store.delete(descriptor.digest)
    assert store.size(descriptor.digest) is None
    with pytest.raises(ContentNotFoundError):
        _read(store, descriptor)


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "sha256:../../x", "SHA256:" + "0" * 64, "sha256:" + "0" * 63, "sha256:" + "0" * 65,
     "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha256:" + "0" * 64 + "\n", "sha512:" + "0" * 64],
)  # fmt: skip
def test_malformed_digest_cannot_be_made(text: str) -> None:
    """Digests are checked before any path or URL is made of them (E05)."""
    with pytest.raises(PybuildError):
        Digest.parse(text)


class TestContract(ContentStoreContract):
    """The store on disk does what every ContentStore does."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        """A fresh store."""
        return LocalStore(str(tmp_path))
