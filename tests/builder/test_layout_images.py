"""Base images from layouts on disk, whose author may mean no good."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.images import World

from builder.errors import ExportError, UsageError
from builder.export import layout
from builder.export.layout import bundle
from builder.layout_images import LayoutReference, layout_image
from cache.archive.entry import Entry, Kind
from cache.errors import ContentNotFoundError, InvalidDocumentError, PybuildError
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.manifest import Index
from cache.spec.oci import Descriptor, Platform
from cache.spec.reference import Reference
from cache.value import replace

AMD = Platform("linux", "amd64")
ARM = Platform.parse("linux/arm64")
ONE, TWO = (Reference.parse(f"example/app:{tag}") for tag in ("one", "two"))


@pytest.fixture
def world():
    """A store that has small images."""
    return World()


@pytest.fixture
def two(world, tmp_path):
    """A layout with two images that have tags; gives its place and the images."""
    other = world.layer((Entry("other", Kind.FILE), b"other"))
    images = world.small(), world.image(other)
    for image, name in zip(images, (ONE, TWO), strict=True):
        layout.write_directory(bundle([image], (name,)), world.content, str(tmp_path / "two"))
    return str(tmp_path / "two"), images


def rewrite(place, entries) -> None:
    """Replace the entries of an index."""
    (place / "index.json").write_bytes(Index(tuple(entries)).to_json())


def put(place, document) -> Descriptor:
    """Write an index as a blob of a layout."""
    data = document.to_json()
    digest = Digest.of(data)
    (place / "blobs/sha256" / digest.hex).write_bytes(data)
    return Descriptor(oci.OCI_INDEX, digest, len(data))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", LayoutReference("a")),
        ("/a/b:tag", LayoutReference("/a/b", "tag")),
        (f"a@sha256:{'0' * 64}", LayoutReference("a", "", Digest("sha256", "0" * 64))),
        (f"a:t@sha256:{'0' * 64}", LayoutReference("a", "t", Digest("sha256", "0" * 64))),
    ],
)
def test_what_a_layout_is_called(text, expected) -> None:
    """S07: a directory, then a tag, then a digest."""
    assert LayoutReference.parse(f"oci-layout://{text}") == expected


@given(st.text(max_size=80))
def test_no_reference_crashes(text) -> None:
    """G04: any text is a reference or an error of ours."""
    try:
        assert LayoutReference.parse(f"oci-layout://{text}").path
    except PybuildError:
        return


def test_a_nameless_layout_is_refused() -> None:
    """S07: a directory has to be named."""
    with pytest.raises(UsageError, match="names no directory"):
        LayoutReference.parse("oci-layout://:tag")


def test_images_by_tag_and_digest(two) -> None:
    """T92: tag and digest choose; every blob is in the store afterwards."""
    place, (first, second) = two
    other = World()
    for tail, image in ((":one", first), (":two", second), (f"@{second.manifest.digest}", second)):
        found = layout_image(f"oci-layout://{place}{tail}", AMD, other.content)
        assert found.manifest.digest == image.manifest.digest
        assert found.layers == image.layers
        assert all(other.content.size(layer.blob.digest) for layer in image.layers)


def test_tags_that_are_not_there(two) -> None:
    """T92: with several images the tag must be right, and the hint lists them."""
    place, _ = two
    with pytest.raises(ContentNotFoundError, match="no image with the tag 'latest'") as caught:
        layout_image(f"oci-layout://{place}", AMD, World().content)
    assert "one, two" in str(caught.value.hint)


def test_a_single_image_needs_no_tag(world, tmp_path) -> None:
    """T92: the only image is meant whatever its tag, as in the reference."""
    image = world.small()
    layout.write_directory(bundle([image], (ONE,)), world.content, str(tmp_path / "l"))
    for tail in ("", ":latest", ":other"):
        found = layout_image(f"oci-layout://{tmp_path / 'l'}{tail}", AMD, World().content)
        assert found.manifest.digest == image.manifest.digest


def test_a_digest_need_not_be_in_the_index(two, tmp_path) -> None:
    """T92: a manifest that is only a blob is found by its digest."""
    place, (first, second) = two
    rewrite(tmp_path / "two", [replace(first.manifest, platform=None)])
    found = layout_image(f"oci-layout://{place}@{second.manifest.digest}", AMD, World().content)
    assert found.layers == second.layers


def test_the_platform_chooses_in_an_index(two, tmp_path) -> None:
    """S08, T92: of an index of several platforms the fitting one is taken."""
    place, (first, second) = two
    entries = [
        replace(first.manifest, platform=AMD),
        replace(second.manifest, platform=ARM),
    ]
    rewrite(tmp_path / "two", [put(tmp_path / "two", Index(tuple(entries)))])
    for platform, image in ((AMD, first), (ARM, second)):
        found = layout_image(f"oci-layout://{place}", platform, World().content)
        assert found.manifest.digest == image.manifest.digest
    with pytest.raises(ContentNotFoundError, match="no match for platform linux/s390x") as caught:
        layout_image(f"oci-layout://{place}", Platform("linux", "s390x"), World().content)
    assert "linux/amd64, linux/arm64" in str(caught.value.hint)


def test_indexes_without_end(two, tmp_path) -> None:
    """E19: indexes within indexes are followed so far and no further."""
    place, (first, _) = two
    entry = replace(first.manifest, platform=None)
    for _ in range(8):
        entry = put(tmp_path / "two", Index((entry,)))
    rewrite(tmp_path / "two", [entry])
    with pytest.raises(InvalidDocumentError, match="nests deeper"):
        layout_image(f"oci-layout://{place}", AMD, World().content)


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_what_is_no_layout(tmp_path, kind) -> None:
    """T92: a missing place, a file and an ordinary directory are refused."""
    place = tmp_path / "l"
    if kind == "file":
        place.write_text("x")
    elif kind == "empty":
        place.mkdir()
    with pytest.raises(ExportError):
        layout_image(f"oci-layout://{place}", AMD, World().content)


def test_blobs_that_are_not_what_they_say(two, tmp_path) -> None:
    """E19: a layer of another content or behind a link is refused, and nothing is kept of it."""
    place, (first, _) = two
    blob = first.layers[0].blob
    path = tmp_path / "two/blobs/sha256" / blob.digest.hex
    path.chmod(0o644)
    path.write_bytes(b"x" * blob.size)
    other = World()
    with pytest.raises(PybuildError, match="digest"):
        layout_image(f"oci-layout://{place}:one", AMD, other.content)
    assert other.content.size(blob.digest) is None
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(ExportError, match="symbolic links"):
        layout_image(f"oci-layout://{place}:one", AMD, other.content)


def test_documents_that_are_nonsense(two, tmp_path) -> None:
    """E19: an index of another shape is a mistake that is told."""
    place, _ = two
    for text in ("[]", "{", json.dumps({"schemaVersion": 2, "manifests": [{"digest": "x"}]})):
        (tmp_path / "two/index.json").write_text(text)
        with pytest.raises(PybuildError):
            layout_image(f"oci-layout://{place}", AMD, World().content)
