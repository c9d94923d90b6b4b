"""Trees that hold a whole stack, for file systems where a tree cannot hide what lies below it.

A container's own file system, itself an overlay, takes no whiteouts. There a layer that removes
something is not extracted on those below: the merged tree of all of them stands instead.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from cache.archive.entry import WHITEOUT
from cache.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cache.archive.entry import Entry
    from cache.layers import LayerStore
    from cache.spec.oci import Layer


def can_hide(trees_fd: int) -> bool:
    """Whether a whiteout can be made in a directory."""
    name = f"whiteout-{os.getpid()}"
    try:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=trees_fd)
    except OSError:
        return False
    os.unlink(name, dir_fd=trees_fd)
    return True


def whole_until(store: LayerStore, layers: Sequence[Layer]) -> int:
    """How many layers from the bottom must stand as one tree; 0 for none."""
    for count in range(len(layers), 1, -1):
        if any(_hides(entry) for entry in store.index(layers[count - 1])):
            return count
    return 0


def whole_chain(chain: Digest) -> Digest:
    """The name of the one tree that stands for a whole stack."""
    return Digest.of(f"whole {chain}".encode())


def _hides(entry: Entry) -> bool:
    """Whether an entry may become a whiteout."""
    return entry.path.rpartition("/")[2].startswith(WHITEOUT)
