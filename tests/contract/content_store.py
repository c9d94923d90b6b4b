"""What every ContentStore does. A test class inherits and gives a `store` fixture."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from cache.errors import ContentNotFoundError, DigestMismatchError, PybuildError
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor

if TYPE_CHECKING:
    from cache.content import ContentStore

TYPE = "application/octet-stream"


def put(store: ContentStore, data: bytes) -> Descriptor:
    """Ingest bytes."""
    with store.writer() as writer:
        writer.write(data)
        return writer.commit(TYPE)


def read_to_end(stream):
    """Read in small pieces until there are none."""
    while stream.read(2):
        pass


class ContentStoreContract:
    """The suite."""

    def test_what_was_committed_is_read_back(self, store):
        """A committed blob has the digest and size of what was written, and those bytes."""
        with store.writer() as writer:
            assert writer.write(b"ab") == 2
            writer.write(memoryview(b"c"))
            descriptor = writer.commit(TYPE)
        assert descriptor == Descriptor(TYPE, Digest.of(b"abc"), 3)
        with store.open(descriptor) as stream:
            assert stream.read() == b"abc"
        assert store.size(descriptor.digest) == 3

    def test_the_empty_blob_is_a_blob(self, store):
        """A blob of no bytes can be stored."""
        descriptor = put(store, b"")
        with store.open(descriptor) as stream:
            assert stream.read() == b""

    def test_nothing_is_visible_before_commit(self, store):
        """An ingest left without commit leaves nothing behind."""
        with store.writer() as writer:
            writer.write(b"half")
            assert store.size(Digest.of(b"half")) is None
            assert list(store) == []
        assert list(store) == []

    def test_a_failing_block_discards(self, store):
        """An exception inside the with-block discards the ingest."""
        with pytest.raises(ZeroDivisionError), store.writer() as writer:
            writer.write(bytes(1 // 0))
        assert list(store) == []

    def test_commit_is_idempotent(self, store):
        """Equal bytes committed twice are one blob."""
        assert put(store, b"same") == put(store, b"same")
        assert list(store) == [Digest.of(b"same")]

    def test_an_expected_digest_is_checked(self, store):
        """Bytes that are not the expected ones are refused and not published."""
        with store.writer() as writer:
            writer.write(b"evil")
            with pytest.raises(DigestMismatchError):
                writer.commit(TYPE, Digest.of(b"good"))
        assert list(store) == []

    def test_a_writer_ends_with_its_commit(self, store):
        """Writing after commit is an error, as is a second commit."""
        with store.writer() as writer:
            writer.write(b"x")
            writer.commit(TYPE)
            with pytest.raises(PybuildError):
                writer.write(b"y")
            with pytest.raises(PybuildError):
                writer.commit(TYPE)

    def test_an_absent_blob_is_not_found(self, store):
        """Opening what is not there names the digest; its size is None."""
        digest = Digest.of(b"nothing")
        with (
            pytest.raises(ContentNotFoundError, match=digest.hex),
            store.open(Descriptor(TYPE, digest, 7)),
        ):
            pass
        assert store.size(digest) is None

    def test_a_wrong_size_is_an_error(self, store):
        """A descriptor whose size is not the blob's is refused, at the latest at its end."""
        descriptor = put(store, b"four")
        for size in (3, 5):
            wrong = Descriptor(TYPE, descriptor.digest, size)
            with pytest.raises(PybuildError), store.open(wrong) as stream:
                read_to_end(stream)

    def test_delete_of_absent_is_success(self, store):
        """Deleting removes, and deleting again is no error."""
        descriptor = put(store, b"gone")
        store.delete(descriptor.digest)
        store.delete(descriptor.digest)
        assert store.size(descriptor.digest) is None
        assert list(store) == []

    def test_concurrent_equal_commits_both_succeed(self, store):
        """Writers of the same bytes at the same time all get the descriptor."""
        barrier = threading.Barrier(4)
        results = []

        def work():
            with store.writer() as writer:
                writer.write(b"shared" * 1000)
                barrier.wait()
                results.append(writer.commit(TYPE))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4
        assert len(set(map(str, (r.digest for r in results)))) == 1
