"""Local bases chosen by platform."""

from __future__ import annotations

import pytest

from builder import state as states
from builder.base_images import BaseImages
from builder.errors import RegistryError
from cache.errors import ContentNotFoundError
from cache.spec import oci
from cache.spec.config import ImageConfig
from cache.spec.manifest import Index, Manifest
from cache.spec.oci import Platform
from cache.spec.reference import Reference
from cache.value import replace

NAME = Reference.parse("several:1")


class NoRegistry:
    """A registry that cannot be reached."""

    def fetch(self, reference, platform):
        """Refuse."""
        raise RegistryError(f"no {reference} for {platform}")


def put(state, data, media_type):
    """Store a document."""
    with state.store.writer() as writer:
        writer.write(data)
        return writer.commit(media_type)


@pytest.fixture
def images(tmp_path):
    """Bases of a store that has an index for three platforms."""
    with states.opened(str(tmp_path / "state")) as state:
        entries = []
        for text in ("linux/amd64", "linux/arm/v6", "linux/arm/v7"):
            platform = Platform.parse(text)
            config = put(state, ImageConfig(platform=platform).to_json(), oci.OCI_CONFIG)
            manifest = put(state, Manifest(config, ()).to_json(), oci.OCI_MANIFEST)
            entries.append(replace(manifest, platform=platform))
        index = put(state, Index(tuple(entries)).to_json(), oci.OCI_INDEX)
        state.images.put(index, (NAME,))
        amd = Platform.parse("linux/amd64")
        yield BaseImages(state, NoRegistry(), pull=False, platform=amd, notice=lambda _: None)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v8", "linux/arm/v7"),
    ],
)
def test_the_best_that_a_platform_can_run_is_taken(images, wanted, chosen):
    """A name of an index gives its image for the platform, or one it can run too (S08)."""
    image = images.resolve("several:1", Platform.parse(wanted))
    assert str(image.config.platform) == chosen


@pytest.mark.parametrize("wanted", ["linux/arm/v5", "linux/arm64", "windows/amd64"])
def test_what_a_platform_cannot_run_is_no_base(images, wanted):
    """An image for other platforms is not taken, and what there is is said (S08)."""
    with pytest.raises(ContentNotFoundError) as caught:
        images.resolve("several:1", Platform.parse(wanted))
    assert caught.value.hint == (
        f"the local several:1 is for linux/amd64, linux/arm/v6, linux/arm/v7, not for {wanted}"
    )
