"""Pushing to a registry: exists, mount, upload, manifest, and what breaks between."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support import registry as fake
from support.registry import FakeRegistry
from support.remote_images import Pauses, client_for, name, publish, small_image

from builder.errors import RegistryError
from builder.registry.credentials import Credential
from builder.registry.settings import RegistryConfig
from cache.errors import DigestMismatchError, PybuildError, SizeMismatchError
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = bytes(range(251)) * 8000  # 2 MB


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry that asks for no authentication."""
    with FakeRegistry() as running:
        yield running


def push(registry, image, **options):
    """Push an image to team/app:v1."""
    mount_from = options.pop("mount_from", None)
    with client_for(registry, **options) as client:
        return client.push_image(
            name(registry), image.manifest, oci.OCI_MANIFEST, image.blobs, image.content, mount_from
        )


def has_all(registry, image) -> bool:
    """Whether team/app has the image's blobs and its manifest under v1."""
    there = all(
        registry.blobs.get(("team/app", str(digest))) == data
        for digest, data in image.content.blobs.items()
    )
    return there and registry.manifests["team/app", "v1"] == (oci.OCI_MANIFEST, image.manifest)


def test_pushes_layers_then_config_then_manifest(registry):
    """A push brings all blobs and ends with the manifest; the descriptor is the manifest's."""
    image = small_image((b"one", BIG, b""))
    pushed = push(registry, image)
    assert pushed.digest == Digest.of(image.manifest)
    assert has_all(registry, image)
    ends = registry.requests("^PUT")
    assert "manifests/v1" in ends[-1]
    assert str(image.blobs[0].digest).replace(":", "%3A") in ends[-2]


def test_a_second_push_sends_no_blob(registry):
    """What the repository has is not sent again."""
    image = small_image()
    push(registry, image)
    registry.log.clear()
    push(registry, image)
    assert not registry.requests("^(POST|PATCH)")


def test_a_blob_is_mounted_from_another_repository(registry):
    """A blob another repository of the registry has is mounted, not sent."""
    image = small_image()
    publish(registry, "other/base", "x", image)
    known = dict.fromkeys((blob.digest for blob in image.blobs[1:]), name(registry, "other/base"))
    push(registry, image, mount_from=known)
    assert has_all(registry, image)
    assert len(registry.requests("^PATCH")) == 1  # the config


@pytest.mark.parametrize("status", [202, 401, 403, 404, 405])
def test_a_refused_mount_falls_back_to_an_upload(registry, status):
    """F20 R32: whatever the answer to a mount, the blob arrives."""
    image = small_image()
    known = {image.blobs[1].digest: name(registry, "other/base")}
    if status != 202:
        registry.plan("POST", "mount=", fake.error(status, "DENIED"))
    push(registry, image, mount_from=known)
    assert has_all(registry, image)


def test_a_mount_of_another_digest_is_an_error(registry):
    """F20: a registry that says it mounted something else is not believed."""
    image = small_image()
    publish(registry, "other/base", "x", image)
    lie = fake.extra_headers({"Docker-Content-Digest": f"sha256:{'0' * 64}"})
    registry.plan("POST", "mount=", lie, times=9)
    known = {image.blobs[1].digest: name(registry, "other/base")}
    with pytest.raises(DigestMismatchError):
        push(registry, image, mount_from=known)


def test_a_blob_said_to_exist_but_missing_is_sent_once_more(registry):
    """F21: BLOB_UNKNOWN at the manifest sends all blobs again, once."""
    image = small_image()
    registry.plan("HEAD", "/blobs/", fake.answer(200), times=99)
    push(registry, image)
    assert has_all(registry, image)
    registry.manifests.clear()
    registry.plan("PUT", "/manifests/", fake.error(400, "MANIFEST_BLOB_UNKNOWN"), times=2)
    with pytest.raises(RegistryError):
        push(registry, image)


def test_chunks_when_asked_for(registry):
    """With a chunk size a blob goes in parts, each where the last reply said."""
    image = small_image((BIG,))
    push(registry, image, config=RegistryConfig(chunk=500_000, idle_timeout=5.0))
    assert has_all(registry, image)
    parts = [entry for entry in registry.log if entry.method == "PATCH"]
    ranges = [entry.headers.get("Content-Range") for entry in parts]
    assert "500000-999999" in ranges


def test_the_least_chunk_of_the_registry_is_kept(registry):
    """R31: OCI-Chunk-Min-Length raises our chunk size."""
    image = small_image((BIG,))
    least = fake.extra_headers({"OCI-Chunk-Min-Length": "1500000"})
    registry.plan("POST", "uploads", least, times=9)
    push(registry, image, config=RegistryConfig(chunk=1000, idle_timeout=5.0))
    ranges = [e.headers.get("Content-Range") for e in registry.log if e.method == "PATCH"]
    assert "0-1499999" in ranges


def test_a_reset_during_an_upload_resumes(registry):
    """R31: after a break the registry is asked how far it came, and the rest is sent."""
    image = small_image((BIG,))
    registry.plan("PATCH", "uploads", fake.reset_while_reading(600_000))
    push(registry, image)
    assert has_all(registry, image)
    parts = [e.headers.get("Content-Range") for e in registry.log if e.method == "PATCH"]
    assert f"600000-{len(BIG) - 1}" in parts


@pytest.mark.parametrize("status", [404, 416, 500, 503])
def test_an_upload_refused_midway_is_saved(registry, status):
    """R31: lost uploads are opened anew, wrong offsets corrected, failures tried again."""
    image = small_image((BIG,))
    registry.plan("PATCH", "uploads", fake.answer(status))
    push(registry, image)
    assert has_all(registry, image)


@pytest.mark.parametrize("status", [500, 503, 404])
def test_the_end_of_an_upload_may_be_lost(registry, status):
    """R33: when the reply to the last request is lost, the blob is looked for first."""
    image = small_image()

    def stored_but_failed(handler):
        handler.registry.put_blob("team/app", b"one")
        return fake.answer(status)(handler)

    registry.plan("PUT", "/uploads/", stored_but_failed)
    push(registry, image)
    assert has_all(registry, image)


def test_a_final_refusal_ends_the_push_and_the_upload(registry):
    """A 4xx is final: the upload is dropped, no manifest is put, the message says why."""
    image = small_image((b"one", BIG))
    registry.plan("PATCH", "uploads", fake.error(413, "SIZE_INVALID", "too \x1b[31mbig"), times=9)
    with pytest.raises(RegistryError, match=r"413: too \[31mbig"):
        push(registry, image)
    assert registry.requests("^DELETE")
    assert not registry.requests("^PUT.*manifests")


def test_a_stopped_push_stops_the_others(registry):
    """One failing blob ends the parallel ones."""
    image = small_image(tuple(bytes([n]) * 300_000 for n in range(12)))
    registry.plan("POST", "uploads", fake.error(403, "DENIED"), times=1)
    with pytest.raises(RegistryError):
        push(registry, image)
    assert not registry.requests("manifests")


def test_a_provider_of_other_sizes_is_found_out(registry):
    """A blob shorter than its descriptor is not pushed."""
    image = small_image()
    blob = image.blobs[1]
    longer = Descriptor(blob.media_type, blob.digest, blob.size + 1)
    with client_for(registry) as client, pytest.raises(PybuildError) as caught:
        client.pusher(name(registry), image.content).blob(longer)
    assert isinstance(caught.value, SizeMismatchError)


def test_manifest_puts_are_tried_again(registry):
    """R33: a 500 after which the manifest is there is followed by an equal put."""
    image = small_image()
    registry.plan("PUT", "/manifests/", fake.answer(500), times=2)
    push(registry, image)
    assert has_all(registry, image)


def test_a_wrong_digest_for_the_manifest_is_an_error(registry):
    """R33: 201 with another digest is no success."""
    lie = fake.extra_headers({"Docker-Content-Digest": f"sha256:{'0' * 64}"})
    registry.plan("PUT", "/manifests/", lie)
    with pytest.raises(DigestMismatchError):
        push(registry, small_image())


def test_a_redirected_manifest_is_not_sent_on(registry):
    """F09: a redirect of PUT is an error; nothing goes to the other place."""
    with FakeRegistry() as other:
        moved = fake.answer(307, {"Location": f"{other.url}/v2/x/manifests/v1"})
        registry.plan("PUT", "/manifests/", moved, times=9)
        with pytest.raises(RegistryError):
            push(registry, small_image())
        assert other.log == []


@pytest.mark.parametrize(
    "where",
    [
        "",
        "ftp://x/y",
        "//user@127.0.0.1/x",
        "http://169.254.169.254/x",
        "http://[::1%25lo]/",
        "x" * 20000,
    ],
)
def test_unfit_upload_locations_are_refused(registry, where):
    """F07: an upload goes to no place that is missing, malformed or forbidden."""
    registry.plan("POST", "uploads", fake.answer(202, {"Location": where}), times=9)
    start = time.monotonic()
    with pytest.raises(RegistryError):
        push(registry, small_image())
    assert time.monotonic() - start < 5


def test_an_upload_elsewhere_gets_no_authorization(registry):
    """F07: another port is another origin; its requests carry no token."""
    registry.auth = "basic"
    with FakeRegistry() as other:
        image = small_image(())
        other.uploads["u1"] = bytearray()
        away = fake.answer(202, {"Location": f"{other.url}/v2/team/app/blobs/uploads/u1?_state=1"})
        with client_for(registry, Credential("ann", "s3cret")) as client:
            pusher = client.pusher(name(registry), image.content)
            assert not pusher.has_blob(image.blobs[0])
            registry.plan("POST", "uploads", away)
            pusher.upload(image.blobs[0])
        assert "Authorization" in registry.log[-1].headers
        assert other.requests("PATCH")
        assert all("Authorization" not in entry.headers for entry in other.log)


def test_permission_is_checked_before_a_build(registry):
    """C36: check_push opens an upload and drops it again; a refusal is told at once."""
    with client_for(registry) as client:
        client.check_push(name(registry))
        assert registry.uploads == {}
        registry.plan("POST", "uploads", fake.error(403, "DENIED"))
        with pytest.raises(RegistryError) as caught:
            client.check_push(name(registry))
    assert caught.value.status == 403
    assert "pybuild login" in (caught.value.hint or "")


def test_progress_reaches_the_size(registry):
    """Progress is told per blob and ends at its size."""
    image = small_image((BIG,))
    seen: dict[str, tuple[int, int]] = {}

    def progress(item, current, total):
        seen[item] = (current, total)

    with client_for(registry) as client:
        client.push_image(
            name(registry),
            image.manifest,
            oci.OCI_MANIFEST,
            image.blobs,
            image.content,
            progress=progress,
        )
    assert seen == {str(blob.digest): (blob.size, blob.size) for blob in image.blobs}


def test_429_during_uploads_waits(registry):
    """R25: a busy registry is waited for in uploads too."""
    image = small_image((BIG,))
    registry.plan("PATCH", "uploads", fake.answer(429, {"Retry-After": "7"}))
    pauses = Pauses()
    push(registry, image, pauses=pauses)
    assert has_all(registry, image)
    assert max(pauses.slept) >= 7


def test_an_unchanged_push_is_one_question(registry):
    """R35: a name that already stands for the image costs one request and sends nothing."""
    image = small_image()
    root = Descriptor(oci.OCI_MANIFEST, Digest.of(image.manifest), len(image.manifest))
    with client_for(registry) as client:
        pusher = client.pusher(name(registry), image.content)
        assert not pusher.holds(root)
        client.push_image(
            name(registry), image.manifest, oci.OCI_MANIFEST, image.blobs, image.content
        )
        del registry.log[:]
        assert pusher.holds(root)
        assert registry.requests() == ["HEAD /v2/team/app/manifests/v1"]
        other = Descriptor(oci.OCI_MANIFEST, Digest.of(b"other"), root.size)
        assert not pusher.holds(other)


@pytest.mark.parametrize(
    "fault",
    [
        fake.answer(200),
        fake.answer(405),
        fake.answer(403),
        fake.extra_headers({"Docker-Content-Digest": f"sha256:{'0' * 64}"}),
        fake.extra_headers({"Content-Length": "3"}),
    ],
)
def test_only_the_very_digest_spares_a_push(registry, fault):
    """F21: whatever else is said of a name, the parts are asked for one by one."""
    image = small_image()
    root = Descriptor(oci.OCI_MANIFEST, Digest.of(image.manifest), len(image.manifest))
    publish(registry, "team/app", "v1", image)
    registry.plan("HEAD", "manifests", fault)
    with client_for(registry) as client:
        assert not client.pusher(name(registry), image.content).holds(root)
