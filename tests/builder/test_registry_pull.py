"""Pulling from a registry: resolving, verifying, resuming."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from support import registry as fake
from support.registry import FakeRegistry
from support.remote_images import (
    AMD64,
    MemoryContent,
    Pauses,
    changed,
    client_for,
    name,
    publish,
    publish_index,
    small_image,
)

from builder.errors import RegistryError
from builder.registry.client import RemoteContent
from cache.errors import (
    ContentNotFoundError,
    DigestMismatchError,
    InvalidDocumentError,
    SizeMismatchError,
)
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor, Platform

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry that asks for no authentication."""
    with FakeRegistry() as running:
        yield running


def blob_of(registry: FakeRegistry, data: bytes = BIG) -> Descriptor:
    """A blob in the registry's team/app."""
    return Descriptor(oci.OCI_LAYER, Digest.parse(registry.put_blob("team/app", data)), len(data))


def fetch(registry: FakeRegistry, descriptor: Descriptor, pauses: Pauses | None = None) -> bytes:
    """Fetch a blob whole."""
    with (
        client_for(registry, pauses=pauses) as client,
        client.fetch_blob(name(registry), descriptor) as stream,
    ):
        return stream.read()


def test_resolves_a_tag_and_pins_it(registry):
    """A tag gives the image, its documents and a name pinned to the digest (E21)."""
    image = small_image()
    top = publish(registry, "team/app", "v1", image)
    with client_for(registry) as client:
        found = client.resolve(name(registry), AMD64)
    assert found.reference.digest == top.digest
    assert found.manifest == image.manifest
    assert Digest.of(found.config) == found.image.config_blob.digest
    assert [layer.blob.size for layer in found.image.layers] == [3, 3]
    assert found.matches
    accept = registry.log[0].headers["Accept"]
    assert all(kind in accept for kind in (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES))


def test_an_index_gives_the_platforms_image(registry):
    """Of an index the image of the platform is taken; the pin is the index's digest."""
    entries = []
    for arch in ("arm64", "amd64"):
        entry = publish(registry, "team/app", arch, small_image(arch=arch))
        entries.append(changed(entry, platform=Platform("linux", arch)))
    top = publish_index(registry, "team/app", "v1", tuple(entries))
    with client_for(registry) as client:
        found = client.resolve(name(registry), AMD64)
    assert found.image.manifest.digest == entries[1].digest
    assert found.reference.digest == top.digest


def test_attestations_are_skipped_and_a_wrong_platform_names_the_others(registry):
    """E08: an attestation is never an image; the error lists what there is."""
    entry = publish(registry, "team/app", "x", small_image(arch="arm64"))
    fakes = (
        changed(entry, platform=Platform("linux", "arm64")),
        changed(entry, platform=AMD64, annotations={"vnd.docker.reference.type": "attestation"}),
        changed(entry, platform=Platform("unknown", "unknown")),
        changed(entry, platform=Platform("../../x", "a/b")),
    )
    publish_index(registry, "team/app", "v1", fakes)
    with client_for(registry) as client, pytest.raises(RegistryError) as caught:
        client.resolve(name(registry), AMD64)
    assert "has no image for linux/amd64; it has linux/arm64" in caught.value.message


def test_nested_indexes_end_at_a_depth(registry):
    """E08: indexes are looked into, but not without end."""
    entry = changed(publish(registry, "team/app", "x", small_image()), platform=AMD64)
    for _ in range(3):
        entry = publish_index(registry, "team/app", "v1", (entry,))
    with client_for(registry) as client:
        assert client.resolve(name(registry), AMD64).matches
        for _ in range(3):
            entry = publish_index(registry, "team/app", "v1", (entry,))
        with pytest.raises(InvalidDocumentError):
            client.resolve(name(registry), AMD64)


def test_a_digest_in_the_name_decides(registry):
    """E22: bytes that are not the named digest are refused, whatever the tag says."""
    image = small_image()
    top = publish(registry, "team/app", "v1", image)
    pinned = name(registry).pinned(top.digest)
    registry.plan("GET", "/manifests/", fake.other_body(image.manifest + b"\n"))
    with client_for(registry) as client:
        with pytest.raises(DigestMismatchError):
            client.resolve(pinned, AMD64)
        assert client.resolve(pinned, AMD64).image.manifest == top
    assert str(top.digest) in registry.requests("manifests")[0]


def test_a_header_that_contradicts_the_body_is_refused(registry):
    """E06: Docker-Content-Digest other than the body's digest is an error."""
    publish(registry, "team/app", "v1", small_image())
    lie = {"Docker-Content-Digest": f"sha256:{'0' * 64}"}
    registry.plan("GET", "/manifests/", fake.extra_headers(lie))
    with client_for(registry) as client, pytest.raises(DigestMismatchError):
        client.resolve(name(registry), AMD64)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": str(1 << 40)},
        {"Content-Encoding": "gzip"},
        {"Content-Type": oci.OCI_INDEX},
        {"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
        {"Docker-Content-Digest": "sha256:../../x"},
    ],
)
def test_manifest_replies_that_make_no_sense_are_refused(registry, headers):
    """E01 E04 E05 F13: huge, encoded, mistyped or badly named documents are no manifests."""
    publish(registry, "team/app", "v1", small_image())
    registry.plan("GET", "/manifests/", fake.extra_headers(headers), times=9)
    with client_for(registry) as client, pytest.raises((RegistryError, InvalidDocumentError)):
        client.resolve(name(registry), AMD64)


def test_an_endless_manifest_stops_at_the_limit(registry):
    """E01: 5 MiB of manifest are refused without reading on; a type with parameters is fine."""
    publish(registry, "team/app", "v1", small_image())
    registry.plan("GET", "/manifests/", fake.other_body(b" " * (5 << 20)))
    with client_for(registry) as client:
        with pytest.raises(RegistryError, match="more than"):
            client.resolve(name(registry), AMD64)
        typed = {"Content-Type": f"{oci.OCI_MANIFEST}; charset=utf-8"}
        registry.plan("GET", "/manifests/", fake.extra_headers(typed))
        assert client.resolve(name(registry), AMD64).matches


def test_layers_and_diff_ids_must_pair(registry):
    """E07: a config that counts other layers than the manifest is refused."""
    image = small_image()
    document = json.loads(image.manifest)
    document["layers"] = document["layers"][:1]
    data = json.dumps(document).encode()
    publish(registry, "team/app", "v1", image)
    registry.put_manifest("team/app", "v1", oci.OCI_MANIFEST, data)
    with client_for(registry) as client, pytest.raises(InvalidDocumentError, match="diff_ids"):
        client.resolve(name(registry), AMD64)


def test_a_single_manifest_of_another_platform_is_marked(registry):
    """A name without an index may give another platform; the caller can tell."""
    publish(registry, "team/app", "v1", small_image(arch="arm64"))
    with client_for(registry) as client:
        assert not client.resolve(name(registry), AMD64).matches


def test_a_blob_is_streamed_and_verified(registry):
    """A blob comes whole; an empty one too."""
    assert fetch(registry, blob_of(registry)) == BIG
    assert fetch(registry, blob_of(registry, b"")) == b""


def test_a_gzip_blob_is_never_decoded(registry):
    """F13: Content-Encoding on a blob changes nothing: the digest is of the bytes sent."""
    data = gzip.compress(b"x" * 100_000)
    descriptor = blob_of(registry, data)
    registry.plan("GET", "/blobs/", fake.extra_headers({"Content-Encoding": "gzip"}))
    assert fetch(registry, descriptor) == data


@pytest.mark.parametrize("at", [0, 1, len(BIG) // 2, len(BIG) - 1])
def test_a_broken_download_resumes(registry, at):
    """R26: after a break the rest is asked for with Range, and the whole is right."""
    descriptor = blob_of(registry)
    registry.plan("GET", "/blobs/", fake.cut(at))
    assert fetch(registry, descriptor) == BIG
    ranges = [entry.headers.get("Range") for entry in registry.log]
    assert ranges == [None, f"bytes={at}-" if at else None]


def test_resuming_survives_servers_without_ranges(registry):
    """R26 R28: 200 instead of 206 starts again and skips what is known; 416 too."""
    descriptor = blob_of(registry)
    registry.ranges = False
    registry.plan("GET", "/blobs/", fake.cut(1000))
    assert fetch(registry, descriptor) == BIG
    registry.ranges = True
    registry.plan("GET", "/blobs/", fake.cut(1000))
    registry.plan("GET", "/blobs/", fake.answer(416))
    assert fetch(registry, descriptor) == BIG


def test_a_wrong_content_range_is_not_believed(registry):
    """R26: a 206 for other bytes than asked for is thrown away."""
    descriptor = blob_of(registry)
    registry.plan("GET", "/blobs/", fake.cut(1000))
    wrong = fake.answer(206, {"Content-Range": f"bytes 0-9/{len(BIG)}"}, b"0123456789")
    registry.plan("GET", "/blobs/", wrong)
    assert fetch(registry, descriptor) == BIG


def test_wrong_bytes_and_sizes_never_end_well(registry):
    """E06 R27: the last byte of a wrong blob is not given out."""
    descriptor = blob_of(registry)
    registry.plan("GET", "/blobs/", fake.other_body(BIG[:-1] + b"!"))
    with pytest.raises(DigestMismatchError):
        fetch(registry, descriptor)
    for body in (BIG + b"!", BIG[:-1]):
        registry.plan("GET", "/blobs/", fake.other_body(body))
        with pytest.raises(SizeMismatchError):
            fetch(registry, descriptor)
    with pytest.raises(SizeMismatchError):
        fetch(registry, changed(descriptor, size=len(BIG) - 1))


def test_sha512_blobs_are_verified_as_such(registry):
    """E05: a sha512 digest is checked with sha512."""
    digest = Digest("sha512", hashlib.sha512(BIG).hexdigest())
    registry.blobs["team/app", str(digest)] = BIG
    assert fetch(registry, Descriptor(oci.OCI_LAYER, digest, len(BIG))) == BIG


def test_unbounded_breaking_ends(registry):
    """R26: a server that breaks without progress is given up after the tries of the policy."""
    descriptor = blob_of(registry)
    registry.plan("GET", "/blobs/", fake.cut(10), times=1)
    registry.plan("GET", "/blobs/", fake.reset(), times=99)
    pauses = Pauses()
    with pytest.raises(RegistryError):
        fetch(registry, descriptor, pauses)
    assert len(pauses.slept) < 10


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 522])
def test_temporary_statuses_are_tried_again(registry, status):
    """R24: one or two failures pass; endless ones end with the status."""
    descriptor = blob_of(registry)
    registry.plan("GET", "/blobs/", fake.answer(status), times=2)
    assert fetch(registry, descriptor) == BIG
    registry.plan("GET", "/blobs/", fake.answer(status), times=99)
    with pytest.raises(RegistryError) as caught:
        fetch(registry, descriptor)
    assert caught.value.status == status
    assert caught.value.temporary


@pytest.mark.parametrize(("header", "least"), [("3", 3), ("0", 0), ("-1", 0), ("abc", 0)])
def test_retry_after_is_honoured(registry, header, least):
    """R25: no try comes earlier than asked; senseless values count as absent."""
    descriptor = blob_of(registry)
    registry.plan("GET", "/blobs/", fake.answer(429, {"Retry-After": header}))
    pauses = Pauses()
    assert fetch(registry, descriptor, pauses) == BIG
    assert len(pauses.slept) == 1
    assert least <= pauses.slept[0] < least + 1


def test_a_retry_after_beyond_reason_is_an_error(registry):
    """R25: an hour is not waited for; the message says what was asked."""
    registry.plan("GET", "/blobs/", fake.answer(429, {"Retry-After": "1000000000"}))
    pauses = Pauses()
    with pytest.raises(RegistryError, match="asked to wait 1000000000 s"):
        fetch(registry, blob_of(registry), pauses)
    assert pauses.slept == []


def test_a_name_that_is_not_there_is_named_in_full(registry):
    """A missing tag or digest: registry, repository and tag are said, and what to look at."""
    with client_for(registry) as client:
        there = r"127\.0\.0\.1:\d+ has no team/app:nope$"
        with pytest.raises(RegistryError, match=there) as raised:
            client.resolve(name(registry, "team/app:nope"), Platform())
    assert (raised.value.status, raised.value.hint) == (404, "check the tag and the spelling")


def test_a_missing_blob_is_content_not_found(registry):
    """RemoteContent tells a missing blob from a broken registry."""
    missing = Descriptor(oci.OCI_LAYER, Digest.of(b"nowhere"), 7)
    with client_for(registry) as client:
        content = RemoteContent(client, name(registry))
        with pytest.raises(ContentNotFoundError), content.open(missing):
            pass
        with content.open(blob_of(registry)) as stream:
            assert stream.read(10) == BIG[:10]


def test_foreign_urls_are_not_followed(registry):
    """F10: a descriptor's urls are not even read."""
    image = small_image()
    document = json.loads(image.manifest)
    for layer in document["layers"]:
        layer["urls"] = [f"{registry.url}/evil"]
    publish(registry, "team/app", "v1", image)
    registry.put_manifest("team/app", "v1", oci.OCI_MANIFEST, json.dumps(document).encode())
    with client_for(registry) as client:
        found = client.resolve(name(registry), AMD64)
        with client.fetch_blob(found.reference, found.image.layers[0].blob) as stream:
            assert stream.read() == b"one"
    assert not registry.requests("evil")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n",
        b"<html>this is HTTP/0.9</html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
        + b"T: x\r\n" * 5000,
    ],
)
def test_protocol_floods_end(registry, data):
    """F18: floods of interim replies, headers and trailers, and other junk end with an error."""
    registry.plan("GET", "/manifests/", fake.raw(data), times=99)
    with client_for(registry) as client, pytest.raises((RegistryError, InvalidDocumentError)):
        client.resolve(name(registry), AMD64)


def test_store_blob_fetches_again_what_changed_under_it(registry):
    """R28: a resumed blob whose content changed is fetched once more from the start."""
    descriptor = blob_of(registry)

    def poisoned(handler):
        handler.cut = 1000
        handler.instead = b"!" * len(BIG)
        return False

    registry.plan("GET", "/blobs/", poisoned)
    store = _Store()
    with client_for(registry) as client:
        client.store_blob(name(registry), descriptor, store)
        client.store_blob(name(registry), descriptor, store)
    assert store.blobs[descriptor.digest] == BIG
    assert len(registry.requests("/blobs/")) == 3


class _Store(MemoryContent):
    """As much of a content store as a download needs."""

    def size(self, digest):
        return len(self.blobs[digest]) if digest in self.blobs else None

    def writer(self):
        return _Writer(self)


class _Writer:
    def __init__(self, store):
        self.store, self.data = store, b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def write(self, data):
        self.data += data
        return len(data)

    def commit(self, media_type, expected=None):
        return self.store.add(self.data, media_type)


def test_a_digest_is_looked_up_without_a_pull(registry):
    """Docker Hub counts GETs: HEAD is enough where it says what we need, else GET."""
    top = publish(registry, "team/app", "v1", small_image())
    with client_for(registry) as client:
        assert client.digest(name(registry)) == top
        assert registry.requests() == ["HEAD /v2/team/app/manifests/v1"]
        registry.plan("HEAD", "manifests", fake.answer(405))
        assert client.digest(name(registry)) == top
