"""What the native library knows of a step that has mounts but a single id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.sandbox.engine.answered import Call, Facts, Kind, Texts
from builder.sandbox.engine.kernel import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from builder.sandbox.engine.located import records_of
from builder.sandbox.engine.mounted import MountedView

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.engine.answered import Answers
    from builder.sandbox.engine.step import Step

_LINK, _FD = AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH
_STATUS, _OWN, _MAKE, _OPEN = (
    Kind.SINGLE_STATUS,
    Kind.SINGLE_OWN,
    Kind.SINGLE_MAKE,
    Kind.SINGLE_OPEN,
)
_REMOVE, _RENAME, _NEW_NAME = Kind.SINGLE_REMOVE, Kind.SINGLE_RENAME, Kind.SINGLE_LINK
_EXECUTE = Kind.SINGLE_EXECUTE
_RIGHTS = (
    "access",
    "faccessat",
    "faccessat2",
    "utimensat",
    "utime",
    "utimes",
    "futimesat",
    "truncate",
)
CALLS: dict[str, Call] = {
    "stat": Call(_STATUS, path=0),
    "lstat": Call(_STATUS, path=0, fixed=_LINK),
    "fstat": Call(_STATUS, directory=0, fixed=_FD),
    "newfstatat": Call(_STATUS, directory=0, path=1, flags=3),
    "statx": Call(_STATUS, directory=0, path=1, flags=2),
    "chown": Call(_OWN, path=0, at=1),
    "lchown": Call(_OWN, path=0, fixed=_LINK, at=1),
    "fchown": Call(_OWN, directory=0, fixed=_FD, at=1),
    "fchownat": Call(_OWN, directory=0, path=1, flags=4, at=2),
    "creat": Call(_OPEN, path=0),
    "open": Call(_OPEN, path=0, flags=1),
    "openat": Call(_OPEN, directory=0, path=1, flags=2),
    "mkdir": Call(_MAKE, path=0),
    "mkdirat": Call(_MAKE, directory=0, path=1),
    "symlink": Call(_MAKE, path=1),
    "symlinkat": Call(_MAKE, directory=1, path=2),
    "unlink": Call(_REMOVE, path=0, fixed=_LINK),
    "rmdir": Call(_REMOVE, path=0, fixed=_LINK),
    "unlinkat": Call(_REMOVE, directory=0, path=1, fixed=_LINK),
    "rename": Call(_RENAME, path=0, fixed=_LINK, other_path=1),
    "renameat": Call(_RENAME, directory=0, path=1, fixed=_LINK, other_directory=2, other_path=3),
    "renameat2": Call(_RENAME, directory=0, path=1, fixed=_LINK, other_directory=2, other_path=3),
    "link": Call(_NEW_NAME, path=0, fixed=_LINK),
    "linkat": Call(_NEW_NAME, directory=0, path=1, fixed=_LINK),
    "execve": Call(_EXECUTE, path=0),
    "execveat": Call(_EXECUTE, directory=0, path=1, flags=4),
    "prlimit64": Call(Kind.LIMITS),
    "setrlimit": Call(Kind.ONE_LIMIT),
    **{name: Call(Kind.RIGHTS) for name in _RIGHTS},
}


def mirror(step: Step, answers: Answers) -> Callable[[], None]:
    """Tell what is known now; what is returned tells what has changed."""
    records, view = records_of(step), step.views[b""]
    assert isinstance(view, MountedView)  # noqa: S101 - what begins such a step sees to it
    answers.calls(CALLS)
    answers.tree(view.root_fd, records.device, records.started)
    answers.texts(Texts.SEEDS, records.seeded)
    changed, identities = records.watch(), step.identities

    def refresh() -> None:
        answers.tell(
            Facts(
                restricted=identities.restricted,
                roots_differ=view.changed,
                unsure=step.unsure,
                has_links=records.has_links,
                can_return=records.can_return,
                gives_groups=records.gives_groups,
                is_bound=records.is_bound,
            )
        )
        answers.identities(identities)
        if changed:
            answers.records(records, changed)

    return refresh
