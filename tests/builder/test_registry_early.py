"""Blobs sent while they are being made: whole in the registry, or left to the push that follows."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support import registry as fake
from support.registry import FakeRegistry
from support.remote_images import client_for, name

from builder.registry.credentials import Credential
from builder.registry.early import EarlyUploads
from builder.registry.settings import RegistryConfig
from cache.database import Database
from cache.errors import StoreError
from cache.layerstore import NoRemote, StoredLayers
from cache.localstore import LocalStore
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = os.urandom(1 << 20) * 12


@contextmanager
def uploads(registry, **options) -> Iterator[EarlyUploads]:
    """What sends to a registry while something is made."""
    with client_for(registry, **options) as client:
        made = EarlyUploads(client.pusher(name(registry), NoRemote()))
        yield made
        made.close()


class Growing:
    """A file that grows, as the store's do."""

    def __init__(self, path):
        self.path = path
        self.file = path.open("xb", buffering=0)

    def reader(self):
        """Open it for reading."""
        return os.open(self.path, os.O_RDONLY)

    def grow(self, upload, data):
        """Append and tell."""
        self.file.write(data)
        upload.grown(self.file.tell())

    def end(self, upload, data):
        """Tell that it is whole."""
        digest = Digest("sha256", hashlib.sha256(data).hexdigest())
        upload.ended(Descriptor(oci.OCI_LAYER_GZIP, digest, len(data)))
        self.file.close()
        return digest


@pytest.fixture
def growing(tmp_path):
    """An empty file."""
    made = Growing(tmp_path / "blob")
    yield made
    made.file.close()


def until(condition):
    """Wait for something another thread does."""
    stop = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.01)


@pytest.mark.parametrize("auth", ["", "bearer"])
def test_a_blob_is_sent_while_it_is_made(growing, auth):
    """R31: bytes go before their digest is known, and the blob is there when it is."""
    with (
        FakeRegistry(auth=auth) as registry,
        uploads(registry, credential=Credential("ann", "s3cret")) as early,
    ):
        upload = early.follow(growing.reader)
        growing.grow(upload, BIG[: 9 << 20])
        until(lambda: upload.sent == 9 << 20)
        assert registry.blobs == {}
        growing.grow(upload, BIG[9 << 20 :])
        digest = growing.end(upload, BIG)
        early.settle({digest}, lambda *_: None)
        assert registry.blobs["team/app", str(digest)] == BIG
        patches = [entry for entry in registry.log if entry.method == "PATCH"]
        assert [entry.headers["Transfer-Encoding"] for entry in patches] == ["chunked"]


def test_small_blobs_wait_for_their_digest(growing):
    """R31: what is sent soon anyway is not sent before it is known whether it is there."""
    with FakeRegistry() as registry, uploads(registry) as early:
        upload = early.follow(growing.reader)
        growing.grow(upload, b"small")
        digest = growing.end(upload, b"small")
        early.settle({digest}, lambda *_: None)
        assert registry.log == []


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("POST", fake.answer(403)),
        ("POST", fake.reset()),
        ("PATCH", fake.reset()),
        ("PATCH", fake.answer(413)),
        ("PATCH", fake.answer(202)),
        ("PUT", fake.answer(500)),
        ("PUT", fake.extra_headers({"Docker-Content-Digest": f"sha256:{'0' * 64}"})),
    ],
)
def test_failures_are_left_to_the_push(growing, method, fault):
    """R24 R31: whatever a registry does, the build hears nothing of it, and waits for nothing."""
    with FakeRegistry() as registry, uploads(registry) as early:
        registry.plan(method, "", fault)
        upload = early.follow(growing.reader)
        for start in range(0, len(BIG), 1 << 20):
            growing.grow(upload, BIG[start : start + (1 << 20)])
        digest = growing.end(upload, BIG)
        early.settle({digest}, lambda *_: None)
        assert upload.wait(0)


def test_what_nobody_wants_is_taken_back(growing):
    """R31 F21: a layer that does not come about leaves no upload behind."""
    with FakeRegistry() as registry, uploads(registry) as early:
        upload = early.follow(growing.reader)
        growing.grow(upload, BIG)
        until(lambda: upload.sent == len(BIG))
        upload.dropped()
        until(lambda: upload.wait(0))
        assert registry.blobs == {}


def test_a_long_rest_that_is_there_is_not_sent(growing, monkeypatch):
    """R31: once the digest is known a registry that has the blob is not sent the rest."""
    monkeypatch.setattr("builder.registry.early._LONG", 1 << 20)
    with FakeRegistry() as registry, uploads(registry) as early:
        registry.put_blob("team/app", BIG)
        upload = early.follow(growing.reader)
        growing.file.write(BIG)
        digest = growing.end(upload, BIG)
        upload.grown(len(BIG))
        early.settle({digest}, lambda *_: None)
        assert upload.sent == 0
        assert not registry.requests("PUT")


def test_only_some_are_sent_at_once_and_none_in_parts(growing):
    """R31: as many as a push sends side by side; a registry for small parts gets none early."""
    with FakeRegistry() as registry:
        with uploads(registry, config=RegistryConfig(uploads=1)) as early:
            first = early.follow(growing.reader)
            growing.grow(first, BIG)
            assert early.follow(growing.reader) is None
            growing.end(first, BIG)
            until(lambda: first.wait(0))
            assert early.follow(growing.reader) is not None
        with uploads(registry, config=RegistryConfig(chunk=1000)) as early:
            assert early.follow(growing.reader) is None


def test_progress_is_told_while_it_is_waited_for(growing):
    """R31: a push that waits for an early upload shows how far it is."""
    told = []

    def slowly(_handler):
        time.sleep(0.3)
        return False

    with FakeRegistry() as registry, uploads(registry) as early:
        registry.plan("PUT", "", slowly)
        upload = early.follow(growing.reader)
        growing.grow(upload, BIG)
        digest = growing.end(upload, BIG)
        early.settle({digest}, lambda *news: told.append(news))
    assert told[-1] == (str(digest), len(BIG), len(BIG))


def test_without_threads_or_files_there_is_none(growing, monkeypatch):
    """R31: a host that gives no thread or no descriptor gets its build all the same."""

    def refuse(*_):
        raise RuntimeError

    with FakeRegistry() as registry, uploads(registry) as early:
        before = set(os.listdir("/proc/self/fd"))
        upload = early.follow(lambda: os.open("/nowhere", os.O_RDONLY))
        growing.grow(upload, BIG)
        second = early.follow(growing.reader)
        with monkeypatch.context() as patched:
            patched.setattr("threading.Thread.start", refuse)
            second.grown(len(BIG))
        for each in (upload, second):
            each.grown(len(BIG))
            digest = growing.end(each, BIG)
        early.settle({digest}, lambda *_: None)
        assert registry.log == []
        assert len(os.listdir("/proc/self/fd")) <= len(before)


class Watcher:
    """Who follows a blob and remembers what it was told."""

    def __init__(self):
        self.told = []
        self.fd = -1

    def __call__(self, reader):
        """Follow."""
        self.fd = reader()
        return self

    def grown(self, size):
        """So many bytes can be read."""
        assert len(os.pread(self.fd, 1 << 30, 0)) == size
        self.told.append(size)

    def ended(self, descriptor):
        """All of them."""
        data = os.pread(self.fd, 1 << 30, 0)
        assert descriptor.digest == Digest("sha256", hashlib.sha256(data).hexdigest())
        self.told.append(descriptor)

    def dropped(self):
        """No more."""
        self.told.append(None)


@pytest.fixture
def layers(tmp_path):
    """Layers in a fresh store, each followed."""
    store = LocalStore(str(tmp_path))
    database = Database(f"{tmp_path}/state.db")
    made = StoredLayers(str(tmp_path), store, database, NoRemote())
    made.follow = Watcher()
    yield made
    made.close()
    database.close()
    os.close(made.follow.fd)


def test_followers_can_read_what_they_are_told_of(layers):
    """R31: at each news the bytes are in the file; the last is the blob's descriptor."""
    from cache.archive.entry import Entry, Kind  # noqa: PLC0415 - for two tests only

    with layers.compressing(oci.OCI_LAYER_GZIP, alone=True), layers.writer() as writer:
        for n in range(300):
            data = os.urandom(10_000)
            writer.add(Entry(f"f{n}", Kind.FILE, 0o644, size=len(data), mtime=1), data)
        layer = writer.commit()
    *sizes, descriptor = layers.follow.told
    assert sizes == sorted(sizes)
    assert descriptor == layers.compressed(layer, oci.OCI_LAYER_GZIP)


def test_followers_hear_of_a_layer_that_failed(layers):
    """R31: a layer that is not finished ends for its followers too."""
    with (
        pytest.raises(StoreError),
        layers.compressing(oci.OCI_LAYER_GZIP),
        layers.writer(),
    ):
        raise StoreError("no")
    assert layers.follow.told == [None]
