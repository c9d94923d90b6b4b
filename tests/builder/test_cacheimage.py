"""Cache images: what is written is read again, and what is malformed is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cacheimage import LABEL, MAX_RECORDS, ImportedRecords, Known, config_of, known_of
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
    config, layers = config_of(records, Platform())
    assert sorted(str(layer.diff_id) for layer in layers) == [str(_digest(1)), str(_digest(2))]
    known = known_of(_image(config, layers), "r.example/x")
    assert known == {
        record.key.digest: Known(record.output, record.layer, NOW, "r.example/x")
        for record in records
    }


def test_the_order_of_records_does_not_matter():
    """The same results are the same cache image."""
    records = [_record(number, _layer(number)) for number in range(5)]
    assert config_of(records, Platform()) == config_of(records[::-1], Platform())


def test_too_many_layers_are_an_error():
    """What no image can hold names the way out."""
    records = [_record(number, _layer(number)) for number in range(MAX_LAYERS + 1)]
    with pytest.raises(UsageError) as caught:
        config_of(records, Platform())
    assert "mode=min" in caught.value.hint


ROW = ["0" * 64, 0, "1" * 64, NOW]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", "[[]]", "[" * 3000, json.dumps([ROW[:3]]), json.dumps([[*ROW, ""]]),
     json.dumps([["x", *ROW[1:]]]), json.dumps([["0" * 64, 1, *ROW[2:]]]),
     json.dumps([["0" * 64, -1, *ROW[2:]]]), json.dumps([["0" * 64, "0", *ROW[2:]]]),
     json.dumps([[*ROW[:2], 5, NOW]]), json.dumps([[*ROW[:3], "yesterday"]]),
     json.dumps([[*ROW[:3], 7]]), json.dumps([ROW] * (MAX_RECORDS + 1))],
)  # fmt: skip
def test_a_malformed_label_is_refused(text):
    """An image is chosen by whoever wrote it: nothing of a bad one is used."""
    with pytest.raises(InvalidDocumentError):
        known_of(_labelled(text), "")


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists, max_leaves=8))
def test_any_label_is_rows_or_refused(document):
    """Any JSON at all."""
    try:
        known = known_of(_labelled(json.dumps(document)), "")
    except InvalidDocumentError:
        return
    assert known == {}


def test_an_image_without_the_label_is_told_apart():
    """An ordinary image is no cache, and that is said."""
    with pytest.raises(InvalidDocumentError) as caught:
        known_of(_image(ImageConfig(), []), "")
    assert "--cache-to" in caught.value.hint


def test_images_are_read_only_when_something_is_not_ours():
    """A build that is cached here asks nobody; a hit elsewhere becomes ours."""
    own, loads, hits = Own(), [], []
    mine, theirs = _record(1, _layer(1)), _record(2, _layer(2))
    own.put(mine)
    known = {theirs.key.digest: Known(theirs.output, theirs.layer, NOW, "r.example/x")}

    def load():
        loads.append(1)
        return known

    records = ImportedRecords(own, lambda layer: layer == mine.layer, load, hits.append)
    assert records.get(mine.key) == mine
    assert not loads
    assert records.get(theirs.key).layer == theirs.layer
    assert own.get(theirs.key).layer == theirs.layer
    assert records.get(CacheKey.of(("number", "3"))) is None
    assert (loads, len(hits)) == ([1], 1)


def test_a_record_whose_layer_is_gone_is_asked_for_again():
    """What was pruned here may still be had elsewhere."""
    own, hits = Own(), []
    mine = _record(1, _layer(1))
    own.put(mine)
    known = {mine.key.digest: Known(mine.output, _layer(5), NOW, "")}
    records = ImportedRecords(own, lambda _: False, lambda: known, hits.append)
    assert records.get(mine.key).layer == _layer(5)
    assert len(hits) == 1
