"""WORKDIR without a process: the missing directories of a path as a layer (I05)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.context.source import CopyError
from builder.solver.destination import Destination
from builder.solver.layer_plan import Payload, write_plan
from builder.solver.ownership import Owner, parse_owner

if TYPE_CHECKING:
    from builder.context.source import SourceTree
    from cache.layers import LayerWriter
    from frontend.graph import MkdirOp

_MODE = 0o755


def write_mkdir(op: MkdirOp, base: SourceTree, writer: LayerWriter, *, mtime: int) -> bool:
    """Write the directories that `op.path` lacks in `base`; False when it lacks none.

    Raises:
        CopyError: something on the way is not a directory.
    """
    plan: Destination[Payload] = Destination(base, _owner(op.owner, base), _MODE, mtime)
    place = plan.resolve(op.path)
    if base.get(place) is not None or not place:
        plan.make_directories(place)
        return False
    plan.make_directories(place)
    write_plan(plan, (), writer)
    return True


def _owner(user: str, base: SourceTree) -> Owner:
    """The owner USER stands for; root when the image does not know the name, as elsewhere.

    USER may name someone who only exists where the image runs, so this is no error.
    """
    try:
        return parse_owner(user, base) or Owner()
    except CopyError:
        return Owner()
