"""Calls that no step here makes: what each is answered, and what is said of it on the step's stderr.

Nothing in this module lets the kernel do anything. Who gets ENOSYS for a call that has an older
way goes that way, so nothing is said of those; what is refused for good, or is not known here at
all, is named once.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from builder.sandbox.engine.view import fail

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Handler, Step

# Programs that know these know what to do on kernels without them.
_ABSENT = ("openat2", "fanotify_mark", "setxattrat", "getxattrat", "listxattrat", "removexattrat",
           "name_to_handle_at", "listmount", "statmount", "open_tree_attr", "file_getattr",
           "file_setattr")  # fmt: skip
_REFUSED = ("mount", "umount2", "pivot_root", "swapon", "swapoff", "acct", "quotactl", "unshare", "setns",
           "quotactl_fd", "open_by_handle_at", "uselib", "open_tree", "fsopen", "fspick", "move_mount",
           "mount_setattr")  # fmt: skip


def _absent(_step: Step, _request: Request) -> int:
    return fail(errno.ENOSYS)


def _refused(name: str) -> Handler:
    def handle(step: Step, _request: Request) -> int:
        step.tell(name, f"{name}: not permitted in a step without namespaces of its own")
        return fail(errno.EPERM)

    return handle


def unknown(step: Step, request: Request) -> int:
    """Refuse a call that is newer than the tables here: it may name a file."""
    number = request.number
    step.tell(number, f"system call {number}: not known here, answered as by an older kernel")
    return fail(errno.ENOSYS)


CALLS: dict[str, Handler] = {
    **dict.fromkeys(_ABSENT, _absent),
    **{name: _refused(name) for name in _REFUSED},
}
