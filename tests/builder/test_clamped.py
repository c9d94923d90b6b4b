"""Times of what RUN writes, held back to SOURCE_DATE_EPOCH."""

from __future__ import annotations

from support.memory_layers import MemoryLayers

from builder.snapshot.clamped import ClampedLayers
from cache.archive.entry import NANOSECOND, Entry, Kind


def test_later_times_become_the_epoch_and_earlier_ones_stay():
    """No entry is younger than the epoch; everything else is as it was written."""
    store = MemoryLayers()
    with ClampedLayers(store, 100).writer() as writer:
        writer.add(Entry("new", Kind.FILE, size=1, mtime=200 * NANOSECOND), b"x")
        writer.add(Entry("old", Kind.FILE, size=1, mtime=50 * NANOSECOND), b"y")
        layer = writer.commit()
    times = {entry.path: entry.mtime // NANOSECOND for entry in store.index(layer)}
    assert times == {"new": 100, "old": 50}
