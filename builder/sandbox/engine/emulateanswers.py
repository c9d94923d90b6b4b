"""What the native library knows of a step where every name is answered by the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.sandbox.engine.answered import Call, Facts, Kind
from builder.sandbox.engine.kernel import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.sandbox.engine.answered import Answers
    from builder.sandbox.engine.step import Step
    from builder.sandbox.engine.view import Place

_LINK, _FD = AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH
_REMOVE_DIRECTORY = 0x200
_STATUS, _ACCESS = Kind.EMULATE_STATUS, Kind.EMULATE_ACCESS
_MODE, _OWN = Kind.EMULATE_MODE, Kind.EMULATE_OWN
_REMOVE, _RENAME = Kind.EMULATE_REMOVE, Kind.EMULATE_RENAME
CALLS: dict[str, Call] = {
    "stat": Call(_STATUS, path=0, at=1),
    "lstat": Call(_STATUS, path=0, fixed=_LINK, at=1),
    "fstat": Call(_STATUS, directory=0, fixed=_FD, at=1),
    "newfstatat": Call(_STATUS, directory=0, path=1, flags=3, at=2),
    "access": Call(_ACCESS, path=0, at=1),
    "faccessat": Call(_ACCESS, directory=0, path=1, at=2),
    "faccessat2": Call(_ACCESS, directory=0, path=1, flags=3, at=2),
    "open": Call(Kind.EMULATE_OPEN, path=0, flags=1, at=2),
    "openat": Call(Kind.EMULATE_OPEN, directory=0, path=1, flags=2, at=3),
    "creat": Call(Kind.EMULATE_CREATE, path=0, at=1),
    "mkdir": Call(Kind.EMULATE_MKDIR, path=0, at=1),
    "mkdirat": Call(Kind.EMULATE_MKDIR, directory=0, path=1, at=2),
    "symlink": Call(Kind.EMULATE_SYMLINK, path=1),
    "symlinkat": Call(Kind.EMULATE_SYMLINK, directory=1, path=2),
    "link": Call(Kind.EMULATE_LINK, path=0, other_path=1),
    "linkat": Call(
        Kind.EMULATE_LINK, directory=0, path=1, flags=4, other_directory=2, other_path=3
    ),
    "unlink": Call(_REMOVE, path=0),
    "rmdir": Call(_REMOVE, path=0, fixed=_REMOVE_DIRECTORY),
    "unlinkat": Call(_REMOVE, directory=0, path=1, flags=2),
    "rename": Call(_RENAME, path=0, other_path=1),
    "renameat": Call(_RENAME, directory=0, path=1, other_directory=2, other_path=3),
    "renameat2": Call(_RENAME, directory=0, path=1, flags=4, other_directory=2, other_path=3),
    "chmod": Call(_MODE, path=0, at=1),
    "fchmod": Call(_MODE, directory=0, fixed=_FD, at=1),
    "fchmodat": Call(_MODE, directory=0, path=1, at=2),
    "chown": Call(_OWN, path=0, at=1),
    "lchown": Call(_OWN, path=0, fixed=_LINK, at=1),
    "fchown": Call(_OWN, directory=0, fixed=_FD, at=1),
    "fchownat": Call(_OWN, directory=0, path=1, flags=4, at=2),
    "utimensat": Call(Kind.EMULATE_TIMES, directory=0, path=1, flags=3, at=2),
    "prlimit64": Call(Kind.EMULATE_LIMITS),
}


def mirror(step: Step, places: Sequence[Place], answers: Answers) -> Callable[[], None]:
    """Tell what is known now; what is returned tells what has changed."""
    view, records, identities = step.views[b""], step.records, step.identities
    if any((place.host + b"/").startswith(view.root + b"/") for place in places):
        return lambda: None  # what lies in the tree may be called by another name: Python knows
    answers.calls(CALLS)
    answers.tree(view.root_fd, 0, 0)
    answers.names(view.root, [place.guest for place in places])
    answers.own(records.own_uid, records.own_gid)
    changed = records.watch()

    def refresh() -> None:
        answers.tell(
            Facts(
                restricted=identities.restricted,
                roots_differ=len(step.views) > 1,
                unsure=step.unsure,
            )
        )
        answers.identities(identities)
        if changed:
            answers.records(records, changed)

    return refresh
