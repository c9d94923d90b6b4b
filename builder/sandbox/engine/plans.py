"""Which calls go to the engine, by name; the rest is the kernel's, as ever."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from builder.sandbox.engine import files, ids, metadata, opening, processes, xattrs
from builder.sandbox.engine.program import Plan
from builder.sandbox.engine.rewrites import REWRITTEN_IF
from builder.sandbox.engine.tracer import TRACED

if TYPE_CHECKING:
    from builder.sandbox.engine.step import Handler

_NOT_IMPLEMENTED, _NOT_PERMITTED = errno.ENOSYS, errno.EPERM

# Path calls nobody needs: an older way is tried by who gets ENOSYS.
_ABSENT = ("openat2", "fanotify_mark", "setxattrat", "getxattrat", "listxattrat", "removexattrat",
           "name_to_handle_at", "listmount", "statmount", "open_tree_attr", "file_getattr",
           "file_setattr")  # fmt: skip
_REFUSED = ("mount", "umount2", "pivot_root", "swapon", "swapoff", "acct", "quotactl", "unshare",
            "setns", "quotactl_fd", "open_by_handle_at", "uselib", "open_tree", "fsopen", "fspick",
            "move_mount", "mount_setattr")  # fmt: skip

HANDLERS: dict[str, Handler] = {
    **opening.CALLS,
    **files.CALLS,
    **metadata.CALLS,
    **xattrs.CALLS,
    **ids.CALLS,
    **processes.CALLS,
}


def emulation() -> Plan:
    """Everything that names a file or a process is answered by the engine."""
    return Plan(
        notify=tuple(HANDLERS),
        trace=TRACED,
        traced_bits=REWRITTEN_IF,
        refuse=(
            *((name, _NOT_IMPLEMENTED) for name in _ABSENT),
            *((name, _NOT_PERMITTED) for name in _REFUSED),
        ),
    )
