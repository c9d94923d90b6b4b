"""Cache images: what is written is read again, and what is malformed is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cacheimage import (
    LABEL,
    MAX_RECORDS,
    Contents,
    ImportedRecords,
    Known,
    SharedSelections,
    config_of,
    contents_of,
)
from builder.context.memo import MemoryStatCache
from builder.errors import UsageError
from cache.errors import InvalidDocumentError
from cache.keys import CacheKey
from cache.records import Record
from cache.spec.config import ImageConfig
from cache.spec.digest import Digest
from cache.spec.manifest import MAX_LAYERS, Image
from cache.spec.oci import Descriptor, Layer, Platform

NOW = "2026-01-02T03:04:05.678901234Z"


def _digest(number):
    return Digest("sha256", f"{number:064x}")


def _layer(number):
    blob = Descriptor("application/vnd.oci.image.layer.v1.tar+gzip", _digest(number + 1000), 10)
    return Layer(blob, _digest(number))


def _record(number, layer):
    return Record(CacheKey.of(("number", str(number))), _digest(number), layer, NOW, "slot")


def _image(config, layers):
    blob = Descriptor("application/json", _digest(0), 10)
    return Image(blob, blob, config, tuple(layers))


class Own:
    """Records in memory (implements LayerCache)."""

    def __init__(self):
        self.kept = {}

    def get(self, key):
        return self.kept.get(key.digest)

    def put(self, record):
        self.kept[record.key.digest] = record

    def latest(self, slot):
        return next((one for one in self.kept.values() if one.slot == slot), None)

    def forget(self, key):
        self.kept.pop(key.digest, None)


def _labelled(text, layers=1):
    layers = [_layer(number) for number in range(layers)]
    diff_ids = tuple(layer.diff_id for layer in layers)
    return _image(ImageConfig(labels=((LABEL, text),), diff_ids=diff_ids), layers)


def test_what_is_written_is_read_again():
    """Layers are there once, whatever number of keys have them."""
    records = [_record(1, _layer(1)), _record(2, _layer(2)), _record(3, _layer(1))]
    chosen = {bytes(32): bytes(range(32)), bytes(range(32)): bytes(32)}
    config, layers = config_of(records, chosen, Platform())
    assert sorted(str(layer.diff_id) for layer in layers) == [str(_digest(1)), str(_digest(2))]
    contents = contents_of(_image(config, layers), "r.example/x")
    assert contents.selections == chosen
    assert contents.known == {
        record.key.digest: Known(record.output, record.layer, NOW, "r.example/x")
        for record in records
    }


def test_the_order_of_records_does_not_matter():
    """The same results are the same cache image."""
    records = [_record(number, _layer(number)) for number in range(5)]
    assert config_of(records, {}, Platform()) == config_of(records[::-1], {}, Platform())


def test_too_many_layers_are_an_error():
    """What no image can hold names the way out."""
    records = [_record(number, _layer(number)) for number in range(MAX_LAYERS + 1)]
    with pytest.raises(UsageError) as caught:
        config_of(records, {}, Platform())
    assert "mode=min" in caught.value.hint


ROW = ["0" * 64, 0, "1" * 64, NOW]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "1", "[" * 3000, *map(json.dumps, (
        {"keys": {}}, {"keys": [1]}, {"keys": [[]]}, {"keys": [ROW[:3]]}, {"keys": [[*ROW, ""]]},
        {"keys": [["x", *ROW[1:]]]}, {"keys": [["0" * 64, 1, *ROW[2:]]]},
        {"keys": [["0" * 64, -1, *ROW[2:]]]}, {"keys": [["0" * 64, "0", *ROW[2:]]]},
        {"keys": [[*ROW[:2], 5, NOW]]}, {"keys": [[*ROW[:3], "yesterday"]]},
        {"keys": [[*ROW[:3], 7]]}, {"keys": [ROW] * (MAX_RECORDS + 1)},
        {"selections": 1}, {"selections": [1]}, {"selections": [["0" * 64]]},
        {"selections": [["0" * 64, "0"]]}, {"selections": [["0" * 64, 5]]},
        {"selections": [["0" * 64] * 2] * (MAX_RECORDS + 1)},
    ))],
)  # fmt: skip
def test_a_malformed_label_is_refused(text):
    """An image is chosen by whoever wrote it: nothing of a bad one is used."""
    with pytest.raises(InvalidDocumentError):
        contents_of(_labelled(text), "")


ANY = st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8)


@given(ANY | st.dictionaries(st.sampled_from(["keys", "selections"]), ANY))
def test_any_label_is_rows_or_refused(document):
    """Any JSON at all."""
    try:
        contents = contents_of(_labelled(json.dumps(document)), "")
    except InvalidDocumentError:
        return
    assert contents == Contents({}, {})


def test_an_image_without_the_label_is_told_apart():
    """An ordinary image is no cache, and that is said."""
    with pytest.raises(InvalidDocumentError) as caught:
        contents_of(_image(ImageConfig(), []), "")
    assert "--cache-to" in caught.value.hint


def test_images_are_read_only_when_something_is_not_ours():
    """A build that is cached here asks nobody; a hit elsewhere becomes ours."""
    own, loads, hits = Own(), [], []
    mine, theirs = _record(1, _layer(1)), _record(2, _layer(2))
    own.put(mine)
    known = {theirs.key.digest: Known(theirs.output, theirs.layer, NOW, "r.example/x")}

    def load():
        loads.append(1)
        return Contents(known, {})

    records = ImportedRecords(own, lambda layer: layer == mine.layer, load, hits.append)
    assert records.get(mine.key) == mine
    assert not loads
    assert records.get(theirs.key).layer == theirs.layer
    assert own.get(theirs.key).layer == theirs.layer
    assert records.get(CacheKey.of(("number", "3"))) is None
    assert (len(loads), len(hits)) == (2, 1)


def test_a_record_whose_layer_is_gone_is_asked_for_again():
    """What was pruned here may still be had elsewhere."""
    own, hits = Own(), []
    mine = _record(1, _layer(1))
    own.put(mine)
    known = {mine.key.digest: Known(mine.output, _layer(5), NOW, "")}
    records = ImportedRecords(own, lambda _: False, lambda: Contents(known, {}), hits.append)
    assert records.get(mine.key).layer == _layer(5)
    assert len(hits) == 1


def test_what_was_selected_elsewhere_is_believed_but_not_kept():
    """A memo of an image answers in the build that named it; ours comes first."""
    own = MemoryStatCache()
    own.put_selection(b"mine", b"1")
    shared = SharedSelections(own, lambda: Contents({}, {b"mine": b"2", b"theirs": b"3"}))
    assert shared.selection(b"mine") == b"1"
    assert shared.selection(b"theirs") == b"3"
    assert shared.selection(b"nobody's") is None
    shared.put_selection(b"new", b"4")
    assert shared.used == {b"mine": b"1", b"theirs": b"3", b"new": b"4"}
    assert own.selection(b"theirs") is None
    assert own.selection(b"new") == b"4"
