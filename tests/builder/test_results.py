"""Solved images given an output's times."""

from __future__ import annotations

from support.images import World

from builder.results import Solved, clamped, rewritten
from cache.spec.config import History, ImageConfig
from cache.spec.digest import Digest
from cache.value import replace

OLD, NEW = "2001-01-01T00:00:00Z", "2030-01-01T00:00:00.5Z"
BASE = History("base", NEW)


def test_an_outputs_epoch_holds_new_times_back():
    """source-date-epoch= of an output is the latest time of new entries; the base's stay (O23)."""
    history = (BASE, History("a", OLD), History("b", NEW), History("c"))
    config = ImageConfig(created=NEW, history=history)
    image = clamped(Solved(config, (), 0, base_history=1), 1_000_000_000)
    then = "2001-09-09T01:46:40Z"
    assert [entry.created for entry in image.config.history] == [NEW, OLD, then, then]
    assert image.config.created == then


def test_new_layers_are_rewritten_and_base_layers_kept():
    """Entries of new layers later than the epoch have its time; diff_ids say so (O22)."""
    world = World()
    made = world.small()
    assert len(made.layers) == 2
    image = rewritten(Solved(made.config, made.layers, base_layers=1), 5, world.layers)
    assert image.layers[0] == made.layers[0]
    assert image.config.diff_ids == tuple(layer.diff_id for layer in image.layers)
    before, after = world.layers.index(made.layers[1]), world.layers.index(image.layers[1])
    assert [entry.path for entry in before] == [entry.path for entry in after]
    assert all(entry.mtime <= 5 * 10**9 for entry in after)
    again = rewritten(image, 5, world.layers)
    assert again.layers == image.layers


def test_base_layers_stored_plain_go_out_compressed():
    """An output keeps the base's blobs only as far as they are compressed (O34)."""
    world = World()
    made = world.small()
    plain = replace(
        made.layers[1], blob=replace(made.layers[1].blob, digest=made.layers[1].diff_id)
    )
    packed = replace(made.layers[0], blob=replace(made.layers[0].blob, digest=Digest.of(b"gz")))
    assert Solved(made.config, (packed, plain, plain), base_layers=2).kept_layers == 1
    assert Solved(made.config, (packed, packed, plain), base_layers=2).kept_layers == 2
