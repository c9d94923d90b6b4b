"""The fake Snapshotter keeps the contract, so that solver tests may trust it."""

from __future__ import annotations

import pytest
from contract.snapshotter import CHECKS
from support.memory_layers import MemoryLayers
from support.memory_snapshotter import MemorySnapshotter


class MemoryWorld:
    """The fake and its dictionaries."""

    def __init__(self):
        self.layers = MemoryLayers()
        self.snapshotter = MemorySnapshotter(self.layers)

    def change(self, active, files):
        tree = self.snapshotter.files(active)
        for path, data in files.items():
            if data is None:
                del tree[path]
            else:
                tree[path] = data

    def look(self, active):
        return dict(self.snapshotter.files(active))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    """Every check of the port's contract."""
    check(MemoryWorld())
