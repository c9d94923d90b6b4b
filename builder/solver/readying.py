"""What the end of a build needs, loaded while its steps run: nobody waits for it then.

Names only what has to do with the steps that are left; a module that is missing here is loaded
when it is used. Must not be asked where all is answered by the cache.
"""

from __future__ import annotations

import importlib

from cache.hints import TYPE_CHECKING
from frontend.graph import CopyOp, MkdirOp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from frontend.graph import Op

_LAYERS = ("hashlib", "cache.layeringest", "cache.archive.index", "builder.progress.summary")
_FILES = ("cache.archive.tree", "builder.solver.mkdir_op", "builder.solver.copy_op")
_COMPRESSED = ("cache.compress", "builder.export.layout")


def ready(ops: Iterable[Op], *, compressed: bool) -> None:
    """Load what operations that wait need, and what an output with compressed layers does."""
    names = list(_LAYERS)
    if any(isinstance(op, (CopyOp, MkdirOp)) for op in ops):
        names += _FILES
    if compressed:
        names += _COMPRESSED
    for name in names:
        importlib.import_module(name)
