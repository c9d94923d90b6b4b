"""Which calls of a step that has mounts but a single id go to the engine."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import files, ids, metadata, names, opening, owners
from builder.sandbox.engine.kernel import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from builder.sandbox.engine.located import at
from builder.sandbox.engine.program import Plan

if TYPE_CHECKING:
    from builder.sandbox.engine.step import Handler

_LINK, _FD = AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH
_CHMODS = {
    "chmod": owners.mode(at(None, 0), 1),
    "fchmod": owners.mode(at(0, None, fixed=_FD), 1),
    "fchmodat": owners.mode(at(0, 1), 2),
    "fchmodat2": owners.mode(at(0, 1, 3), 2),
}
_OPENS = {
    "openat": names.opened(opening.CALLS["openat"], at(0, 1), 2),
    "open": names.opened(opening.CALLS["open"], at(None, 0), 1),
}
# What matters for who is not root only.
_RIGHTS: dict[str, Handler] = {
    **{
        name: names.changing(metadata.CALLS[name]) for name in ("access", "faccessat", "faccessat2")
    },
    **{
        name: names.changing(metadata.CALLS[name])
        for name in ("utimensat", "utime", "utimes", "futimesat")
    },
    **{name: names.changing(files.CALLS[name]) for name in ("truncate",)},
}
_KEEPING = (("prctl", 0, ids.SET_KEEPCAPS),)
HANDLERS: dict[str, Handler] = {
    **ids.CALLS,
    "prctl": ids.keep,
    "stat": owners.status(at(None, 0), 1),
    "lstat": owners.status(at(None, 0, fixed=_LINK), 1),
    "fstat": owners.status(at(0, None, fixed=_FD), 1),
    "newfstatat": owners.status(at(0, 1, 3), 2),
    "statx": owners.statx,
    "chown": owners.owner(at(None, 0), 1),
    "lchown": owners.owner(at(None, 0, fixed=_LINK), 1),
    "fchown": owners.owner(at(0, None, fixed=_FD), 1),
    "fchownat": owners.owner(at(0, 1, 4), 2),
    "mknod": names.node(at(None, 0), metadata.CALLS["mknod"], 1),
    "mknodat": names.node(at(0, 1), metadata.CALLS["mknodat"], 2),
    "creat": names.opened(opening.CALLS["creat"], at(None, 0), None),
    "mkdir": names.making(files.CALLS["mkdir"], at(None, 0)),
    "mkdirat": names.making(files.CALLS["mkdirat"], at(0, 1)),
    "symlink": names.making(files.CALLS["symlink"], at(None, 1)),
    "symlinkat": names.making(files.CALLS["symlinkat"], at(1, 2)),
    "unlink": names.removing(files.CALLS["unlink"], at(None, 0, fixed=_LINK)),
    "rmdir": names.removing(files.CALLS["rmdir"], at(None, 0, fixed=_LINK)),
    "unlinkat": names.removing(files.CALLS["unlinkat"], at(0, 1, fixed=_LINK)),
    "rename": names.renaming(files.CALLS["rename"], at(None, 0, fixed=_LINK), at(None, 1, fixed=_LINK)),
    "renameat": names.renaming(files.CALLS["renameat"], at(0, 1, fixed=_LINK), at(2, 3, fixed=_LINK)),
    "renameat2": names.renaming(files.CALLS["renameat2"], at(0, 1, fixed=_LINK), at(2, 3, fixed=_LINK)),
    "link": names.linking(files.CALLS["link"], at(None, 0, fixed=_LINK), at(None, 1)),
    "linkat": names.linking(files.CALLS["linkat"], at(0, 1, fixed=_LINK), at(2, 3)),
    "execve": owners.executing(at(None, 0)),
    "execveat": owners.executing(at(0, 1, 4)),
    "chroot": owners.chroot,
    "prlimit64": owners.limits,
    "setrlimit": owners.set_limit,
    **_CHMODS,
    **_OPENS,
    **_RIGHTS,
}  # fmt: skip


def plan(*, is_root: bool) -> Plan:
    """Which calls are answered, for a step that begins as root or as another user.

    Who becomes another user later on is asked for its rights only where something is changed:
    asking at every open would make steps of root pay for what few of them do.
    """
    notify = tuple(name for name in HANDLERS if name != "prctl")
    if not is_root:
        return Plan(
            notify=notify, equal=_KEEPING, refuse=(("openat2", errno.ENOSYS),), foreign=True
        )
    seldom = {*_CHMODS, *_OPENS, *_RIGHTS}
    return Plan(
        notify=tuple(name for name in notify if name not in seldom),
        equal=_KEEPING,
        bits=(
            *(("openat", 2, names.CHANGES), ("open", 1, names.CHANGES)),
            *(("chmod", 1, stat.S_ISGID), ("fchmod", 1, stat.S_ISGID)),
            *(("fchmodat", 2, stat.S_ISGID), ("fchmodat2", 2, stat.S_ISGID)),
        ),
        foreign=True,
    )
