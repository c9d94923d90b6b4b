"""Blobs on their way: several at once, each once, read while they come."""

from __future__ import annotations

import contextlib
import io
import threading
import time

import pytest

from cache.arrivals import ArrivalReader, Arrivals
from cache.errors import DigestMismatchError, SizeMismatchError, StoreError
from cache.localstore import LocalStore
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor

_SOON = 20.0  # seconds; far more than anything here takes


class _Slow(io.RawIOBase):
    """Gives half of its bytes, and the rest when it is told to."""

    def __init__(self, data: bytes, go: threading.Event) -> None:
        """Keep the data."""
        self._pieces = [data[: len(data) // 2], data[len(data) // 2 :], b""]
        self._go = go

    def read(self, size: int = -1, /) -> bytes:
        """One half."""
        del size
        if len(self._pieces) == 2:  # the second half waits
            self._go.wait(_SOON)
        return self._pieces.pop(0)


class _Remote:
    """A registry in memory that counts."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.go = threading.Event()
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.error: Exception | None = None

    def add(self, data: bytes, *, served: bytes | None = None) -> Descriptor:
        """Offer a blob, perhaps with other bytes than its name says."""
        digest = Digest.of(data)
        self.blobs[str(digest)] = data if served is None else served
        return Descriptor(oci.OCI_LAYER_GZIP, digest, len(data))

    @contextlib.contextmanager
    def open(self, descriptor):
        """Stream it slowly."""
        self.asked.append(str(descriptor.digest))
        if self.error is not None:
            raise self.error
        yield _Slow(self.blobs[str(descriptor.digest)], self.go)


@pytest.fixture
def remote():
    """A registry that holds its second halves back."""
    made = _Remote()
    yield made
    made.go.set()


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    return LocalStore(str(tmp_path))


def _quiet(_item, _current, _total):
    """Take no notice."""


def test_is_read_before_it_is_complete(store, remote):
    """The first bytes are given out while the rest is on its way; the end waits for the check."""
    blob = remote.add(b"first half, second half.")
    arrivals = Arrivals(store, remote)
    reader = ArrivalReader(arrivals.get(blob))
    assert reader.read() == b"first half, "
    assert store.size(blob.digest) is None
    remote.go.set()
    assert reader.read() == b"second half."
    assert reader.read() == b""
    assert store.size(blob.digest) == blob.size
    assert arrivals.get(blob) is None


def test_each_blob_is_fetched_once(store, remote):
    """Who asks for what is on its way shares it."""
    blobs = [remote.add(bytes([n]) * 10) for n in range(5)]
    arrivals = Arrivals(store, remote)
    arrivals.begin(blobs)
    arrivals.begin(blobs)
    waiting = [arrivals.get(blob) for blob in blobs]
    remote.go.set()
    for arrival in waiting:
        arrival.wait(_quiet)
    assert sorted(remote.asked) == sorted(str(blob.digest) for blob in blobs)


def test_several_come_at_once_but_not_all(store, remote):
    """Three transfers run side by side."""
    blobs = [remote.add(bytes([n]) * 10) for n in range(9)]
    arrivals = Arrivals(store, remote)
    arrivals.begin(blobs)
    readers = [ArrivalReader(arrivals.get(blob)) for blob in blobs[:3]]
    assert [len(reader.read()) for reader in readers] == [5, 5, 5]
    assert len(remote.asked) == 3
    remote.go.set()
    arrivals.get(blobs[-1]).wait(_quiet)
    arrivals.close()


@pytest.mark.parametrize(
    ("served", "error"),
    [(b"other bytes", DigestMismatchError), (b"short", DigestMismatchError)],
)
def test_wrong_bytes_end_in_an_error_and_are_not_kept(store, remote, served, error):
    """A reader never sees the regular end of a blob that is another than was asked for."""
    blob = remote.add(b"right bytes", served=served)
    remote.go.set()
    reader = ArrivalReader(Arrivals(store, remote).get(blob))
    with pytest.raises(error):
        list(iter(reader.read, b""))
    assert store.size(blob.digest) is None


def test_a_wrong_size_is_an_error(store, remote):
    """A descriptor may lie about the size alone."""
    true = remote.add(b"some bytes")
    remote.go.set()
    lie = Descriptor(true.media_type, true.digest, true.size + 1)
    with pytest.raises(SizeMismatchError):
        Arrivals(store, remote).get(lie).wait(_quiet)


def test_a_failure_reaches_everyone_who_waits_and_is_tried_anew(store, remote):
    """The error of a transfer is that of its readers; who comes later begins another."""
    blob = remote.add(b"some bytes")
    remote.error = StoreError("no route")
    arrivals = Arrivals(store, remote)
    first = arrivals.get(blob)
    for _ in range(2):
        with pytest.raises(StoreError, match="no route"):
            first.wait(_quiet)
    remote.error = None
    remote.go.set()
    second = arrivals.get(blob)
    assert second is not first
    second.wait(_quiet)
    assert store.size(blob.digest) == blob.size


def test_closing_stops_what_is_on_its_way(store, remote, tmp_path):
    """Nothing incomplete is left, and whoever waits hears of it."""
    blob = remote.add(b"some bytes that are many")
    arrivals = Arrivals(store, remote)
    waiting = arrivals.get(blob)
    assert waiting.read(0, 5) == b"some "
    ender = threading.Thread(target=arrivals.close)
    ender.start()
    while not arrivals._stopped:
        time.sleep(0.001)
    remote.go.set()
    with pytest.raises(StoreError, match="stopped"):
        waiting.wait(_quiet)
    ender.join(_SOON)
    assert not list((tmp_path / "tmp").iterdir())
    assert store.size(blob.digest) is None


def test_progress_is_told_to_who_waits(store, remote):
    """A step that waits sees the transfer it waits for, though a thread has it."""
    blob = remote.add(b"0123456789")
    arrivals = Arrivals(store, remote)
    arrival = arrivals.get(blob)
    remote.go.set()
    seen = []
    arrival.wait(lambda item, current, total: seen.append((item, current, total)))
    assert seen[-1] == (str(blob.digest), 10, 10)
