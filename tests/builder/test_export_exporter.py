"""From layers to config, manifest and index."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.memory_store import MemoryContent, MemoryLayers, make_layer

from builder.errors import UsageError
from builder.export.exporter import (
    EXPORTER_COMMENT,
    BlobForm,
    assemble,
    publish,
    publish_index,
)
from builder.export.option import parse_output
from builder.export.output import Compression
from builder.export.timestamp import rfc3339, seconds_of
from builder.request import parse_epoch
from cache.archive.entry import Entry, Kind
from cache.spec import oci
from cache.spec.config import History, ImageConfig
from cache.spec.digest import Digest
from cache.spec.manifest import Manifest
from cache.spec.oci import Descriptor, Layer, Platform

BASE_TIME, STEP_TIME, NOW = "2020-01-01T00:00:00Z", "2024-05-05T10:00:00.123Z", 1_750_000_000
EMPTY = History("ENV a=b", comment="buildkit.dockerfile.v0", empty_layer=True)
RUN = History("RUN x # buildkit", STEP_TIME, "buildkit.dockerfile.v0")


def layer(text: str) -> Layer:
    """A layer that is only a digest."""
    digest = Digest.of(text.encode())
    return Layer(Descriptor(oci.OCI_LAYER, digest, 10), digest)


def base_config() -> ImageConfig:
    """A base with one layer."""
    return ImageConfig(history=(History("base", BASE_TIME),), created=BASE_TIME)


def test_history_continues_the_base_and_layers_get_diff_ids():
    """The base's history is unchanged, ours follows, diff_ids are the layers' (O10, O13)."""
    stack = [layer("a"), layer("b")]
    config = assemble(base_config(), [EMPTY, RUN, EMPTY], stack, base_layers=1, now=NOW)
    assert config.diff_ids == tuple(one.diff_id for one in stack)
    assert config.history[0] == History("base", BASE_TIME)
    assert [entry.created for entry in config.history[1:]] == [STEP_TIME] * 3
    assert config.created == STEP_TIME


def test_times_come_from_the_closest_earlier_entry():
    """Metadata entries take the time of the entry before them (O13)."""
    later = History("COPY", "2025-01-01T00:00:00Z")
    stack = [layer("a"), layer("b")]
    config = assemble(ImageConfig(), [RUN, EMPTY, later, EMPTY], stack, base_layers=0, now=NOW)
    times = [entry.created for entry in config.history]
    assert times == [STEP_TIME, STEP_TIME, later.created, later.created]


def test_without_new_layers_the_base_time_is_kept():
    """Metadata on a base without new layers is as old as the base (O13, O06)."""
    config = assemble(base_config(), [EMPTY], [layer("a")], base_layers=1, now=NOW)
    assert config.history[-1].created == BASE_TIME
    assert config.created == BASE_TIME


def test_a_metadata_only_image_is_dated_now():
    """From scratch without layers there is no other time (O45)."""
    config = assemble(ImageConfig(), [EMPTY], [], base_layers=0, now=NOW)
    assert config.diff_ids == ()
    assert config.created == config.history[0].created == rfc3339(NOW)


def test_an_epoch_dates_every_new_entry():
    """With SOURCE_DATE_EPOCH new entries have that time, base entries stay (O13, O21)."""
    stack = [layer("a"), layer("b")]
    config = assemble(
        base_config(), [EMPTY, RUN], stack, base_layers=1, now=NOW, epoch=1_600_000_000
    )
    assert config.history[0].created == BASE_TIME
    assert {entry.created for entry in config.history[1:]} == {"2020-09-13T12:26:40Z"}
    assert config.created == "2020-09-13T12:26:40Z"


@pytest.mark.parametrize("created", [STEP_TIME, "yesterday", "2024-05-05T10:00:00+00:00"])
def test_an_epoch_clamps_what_the_base_says(created):
    """The image is never younger than the epoch, whatever its base claims (O06)."""
    base = ImageConfig(history=(History("x", created),), created=created)
    config = assemble(base, [], [layer("a")], base_layers=1, now=NOW, epoch=1_600_000_000)
    assert config.created == "2020-09-13T12:26:40Z"


def test_layers_without_history_get_an_entry():
    """A layer nobody described is still counted in history (O14)."""
    config = assemble(ImageConfig(), [], [layer("a"), layer("b")], base_layers=1, now=NOW)
    assert [entry.comment for entry in config.history] == [EXPORTER_COMMENT] * 2
    assert not any(entry.empty_layer for entry in config.history)


def test_history_claiming_too_many_layers_is_patched():
    """Entries beyond the layers there are become empty (O14)."""
    base = ImageConfig(history=(History("a", BASE_TIME), History("b", BASE_TIME)))
    config = assemble(base, [RUN], [layer("a"), layer("b")], base_layers=1, now=NOW)
    assert [entry.empty_layer for entry in config.history] == [False, True, False]


@given(
    st.lists(st.booleans(), max_size=6),
    st.lists(st.booleans(), max_size=6),
    st.integers(0, 4),
    st.integers(0, 4),
    st.one_of(st.none(), st.integers(0, 10**9)),
)
def test_history_always_fits_the_layers(old, new, below, above, epoch):
    """Whatever history says, its layer entries are as many as the layers, and all new are dated."""
    base = ImageConfig(history=tuple(History("b", BASE_TIME, empty_layer=e) for e in old))
    stack = [layer(str(i)) for i in range(below + above)]
    added = [History("s", empty_layer=e) for e in new]
    config = assemble(base, added, stack, base_layers=below, now=NOW, epoch=epoch)
    assert sum(not entry.empty_layer for entry in config.history) == len(stack)
    assert config.created
    undescribed = max(below - old.count(False), 0)
    assert all(entry.created for entry in config.history[len(old) + undescribed :])
    assert ImageConfig.from_json(config.to_json()) == config


def test_too_many_layers_are_refused():
    """More layers than overlayfs takes are an error with a way out."""
    stack = [layer(str(i)) for i in range(501)]
    with pytest.raises(UsageError, match="501 layers"):
        assemble(ImageConfig(), [], stack, base_layers=0, now=NOW)


def stored(content: MemoryContent, text: str) -> tuple[MemoryLayers, Layer]:
    """A layer store with one real layer."""
    layers = MemoryLayers(content)
    return layers, make_layer(layers, (Entry(text, Kind.FILE), text.encode()))


def test_new_layers_are_compressed_and_base_blobs_kept():
    """Without force only new layers take the compression asked for (O34)."""
    content = MemoryContent()
    layers, new = stored(content, "new")
    base = Layer(Descriptor(oci.DOCKER_LAYER_GZIP, Digest.of(b"gz"), 99), Digest.of(b"tar"))
    config = assemble(ImageConfig(), [], [base, new], base_layers=1, now=NOW)
    form = BlobForm(compression=Compression.ZSTD)
    image = publish(
        config, [base, new], base_layers=1, form=form, content=content, layer_store=layers
    )
    first, second = image.layers
    assert first == Layer(Descriptor(oci.OCI_LAYER_GZIP, Digest.of(b"gz"), 99), base.diff_id)
    assert second.blob.media_type == oci.OCI_LAYER_ZSTD
    assert layers.compressions == [(new.diff_id, oci.OCI_LAYER_ZSTD)]


def test_force_recompresses_the_base():
    """With force every layer takes the compression asked for (O34)."""
    content = MemoryContent()
    layers, one = stored(content, "base")
    form = BlobForm(force=True)
    image = publish(
        ImageConfig(diff_ids=(one.diff_id,)),
        [one],
        base_layers=1,
        form=form,
        content=content,
        layer_store=layers,
    )
    assert image.layers[0].blob.media_type == oci.OCI_LAYER_GZIP


@pytest.mark.parametrize(
    ("oci_types", "manifest_type", "config_type", "layer_type"),
    [
        (True, oci.OCI_MANIFEST, oci.OCI_CONFIG, oci.OCI_LAYER_GZIP),
        (False, oci.DOCKER_MANIFEST, oci.DOCKER_CONFIG, oci.DOCKER_LAYER_GZIP),
    ],
)
def test_documents_are_typed_by_family(oci_types, manifest_type, config_type, layer_type):
    """One flag decides the media types of manifest, config and layers (O30)."""
    content = MemoryContent()
    layers, one = stored(content, "x")
    config = ImageConfig(diff_ids=(one.diff_id,))
    form = BlobForm(oci_types=oci_types)
    image = publish(config, [one], base_layers=0, form=form, content=content, layer_store=layers)
    manifest = Manifest.from_json(content.blobs[image.manifest.digest])
    assert manifest.media_type == image.manifest.media_type == manifest_type
    assert manifest.config.media_type == config_type
    assert [blob.media_type for blob in manifest.layers] == [layer_type]
    assert ImageConfig.from_json(content.blobs[manifest.config.digest]) == config


def test_an_index_lists_platforms():
    """Images of several platforms are joined by an index whose entries say which (O31)."""
    content = MemoryContent()
    layers = MemoryLayers(content)
    images = [
        publish(
            ImageConfig(platform=Platform.parse(name)),
            [],
            base_layers=0,
            form=BlobForm(),
            content=content,
            layer_store=layers,
        )
        for name in ("linux/amd64", "linux/arm64")
    ]
    index = publish_index(images, form=BlobForm(), content=content)
    document = json.loads(content.blobs[index.digest])
    assert document["mediaType"] == oci.OCI_INDEX
    assert [m["platform"]["architecture"] for m in document["manifests"]] == ["amd64", "arm64"]
    with pytest.raises(UsageError, match="built twice"):
        publish_index([images[0], images[0]], form=BlobForm(), content=content)


def test_an_output_chooses_the_form():
    """Compression, its level and the media types are what the output asks for (O34)."""
    form = BlobForm.of(parse_output("type=oci,compression=zstd,compression-level=3"))
    assert form == BlobForm(compression=Compression.ZSTD, level=3)


@given(st.integers(0, 253_402_300_799))
def test_times_round_trip(seconds):
    """RFC 3339 text written by us reads back as the same second."""
    assert seconds_of(rfc3339(seconds)) == seconds


def test_foreign_times_are_read_with_offsets():
    """Offsets and fractions are understood; nonsense is None."""
    assert seconds_of("1970-01-01T01:00:00.999+01:00") == 0
    for text in ("", "1970-13-01T00:00:00Z", "1970-01-01", "0000-01-01T00:00:00Z", "x" * 99):
        assert seconds_of(text) is None


def test_epoch_text_is_checked():
    """SOURCE_DATE_EPOCH is whole seconds; empty is unset (O20)."""
    assert parse_epoch("") is None
    assert parse_epoch("0") == 0
    for text in ("-1", "1.5", "now", "9" * 13, "253402300800", "٣"):
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
            parse_epoch(text)
