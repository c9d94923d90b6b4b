"""Which calls go to the engine, by name; the rest is the kernel's, as ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.sandbox import seccomp_table
from builder.sandbox.engine import (
    files,
    ids,
    listings,
    metadata,
    netless,
    opening,
    processes,
    refusals,
    xattrs,
)
from builder.sandbox.engine.program import Plan
from builder.sandbox.engine.rewrites import REWRITTEN_IF
from builder.sandbox.engine.tracer import TRACED

if TYPE_CHECKING:
    from builder.sandbox.engine.step import Handler

HANDLERS: dict[str, Handler] = {
    **opening.CALLS,
    **files.CALLS,
    **metadata.CALLS,
    **xattrs.CALLS,
    **ids.CALLS,
    **ids.CAPABILITIES,
    **processes.CALLS,
    **listings.CALLS,
    **refusals.CALLS,
}


def handlers(*, has_network: bool) -> dict[str, Handler]:
    """Who answers what."""
    return HANDLERS if has_network else {**HANDLERS, **netless.SOCKET}


def emulation(*, has_network: bool = True) -> Plan:
    """Everything that names a file or a process is answered by the engine, the unknown refused."""
    return Plan(
        notify=tuple(handlers(has_network=has_network)),
        trace=TRACED,
        traced_bits=REWRITTEN_IF,
        known=seccomp_table.LAST_KNOWN,
    )
