"""The history of a stage and of those it builds on, as one list (O10-O14); decides no times."""

from __future__ import annotations

from cache.hints import TYPE_CHECKING
from frontend.dockerfile.contexts import base_text
from frontend.dockerfile.history import EXPORTED, PendingHistory
from frontend.graph import ExecOp

if TYPE_CHECKING:
    from frontend.dockerfile.session import Session, StageWork
    from frontend.graph import Graph


def stage_history(session: Session, work: StageWork, graph: Graph) -> tuple[PendingHistory, ...]:
    """Join the histories of a stage and its ancestors, oldest first.

    The layer of a context as a base has no entry of its own, so one is added at the end, which
    describes the last layer (O14).
    """
    parts: list[list[PendingHistory]] = []
    root, ancestor = work, work.parent
    while ancestor is not None:
        parts.append(root.history)
        root, ancestor = ancestor, ancestor.parent
    parts.append(root.history)
    entries = [entry for part in reversed(parts) for entry in part]
    if root.origin.context:
        last = graph[work.ref]
        if isinstance(last.op, ExecOp):
            text = f"mount / from exec {' '.join(last.op.argv)}"
        elif any(entry.ref is not None for entry in entries):
            text = last.name
        else:
            text = base_text(session.named[root.origin.context])
        entries.append(PendingHistory(text, work.ref, EXPORTED))
    return tuple(entries)
