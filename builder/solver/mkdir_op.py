"""WORKDIR without a process: the missing directories of a path as a layer (I05)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.solver.destination import Destination
from builder.solver.layer_plan import Payload, write_plan
from builder.solver.ownership import parse_owner, unheard

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.context.source import SourceTree
    from cache.layers import LayerWriter
    from frontend.graph import MkdirOp

_MODE = 0o755


def write_mkdir(
    op: MkdirOp,
    base: SourceTree,
    writer: LayerWriter,
    *,
    mtime: int,
    warn: Callable[[str], None] = unheard,
) -> bool:
    """Write the directories that `op.path` lacks in `base`; False when it lacks none.

    They are USER's, or root's when the image does not know the name, which `warn` is told.

    Raises:
        CopyError: something on the way is not a directory.
    """
    owner = parse_owner(op.owner, base, warn)
    plan: Destination[Payload] = Destination(base, owner, _MODE, mtime)
    place = plan.resolve(op.path)
    if base.get(place) is not None or not place:
        plan.make_directories(place)
        return False
    plan.make_directories(place)
    write_plan(plan, (), writer)
    return True
