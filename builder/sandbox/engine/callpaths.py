"""Where calls name files, and whether they follow a link at the end; data by name of the call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from builder.sandbox.engine.kernel import AT_SYMLINK_NOFOLLOW

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request

_NAMES_ONLY = frozenset({"lstat", "readlink", "readlinkat", "mkdir", "mkdirat", "mknod", "mknodat",
                         "lchown", "lsetxattr", "lgetxattr", "llistxattr", "lremovexattr"})  # fmt: skip


class Name(NamedTuple):
    """Where a call names a file: positions of a directory's fd (-1 for none) and of the path.

    Links are not followed at the end if the argument at `flags` has `bit`, or if that is -1.
    """

    directory: int
    path: int
    flags: int = -2
    bit: int = 0

    def follows(self, request: Request) -> bool:
        """Whether a link at the end is followed."""
        if self.flags < 0:
            return self.flags != -1
        return not request.arguments[self.flags] & self.bit


ALONE, BESIDE = Name(-1, 0), Name(0, 1)
_FLAGGED = {
    "open": Name(-1, 0, 1, os.O_NOFOLLOW),
    "openat": Name(0, 1, 2, os.O_NOFOLLOW),
    "newfstatat": Name(0, 1, 3, AT_SYMLINK_NOFOLLOW),
    "statx": Name(0, 1, 2, AT_SYMLINK_NOFOLLOW),
    "faccessat2": Name(0, 1, 3, AT_SYMLINK_NOFOLLOW),
    "fchownat": Name(0, 1, 4, AT_SYMLINK_NOFOLLOW),
    "fchmodat2": Name(0, 1, 3, AT_SYMLINK_NOFOLLOW),
    "utimensat": Name(0, 1, 3, AT_SYMLINK_NOFOLLOW),
}
REMOVES = {"unlink": Name(-1, 0, -1), "rmdir": Name(-1, 0, -1), "unlinkat": Name(0, 1, -1)}
PAIRS: dict[str, tuple[Name, Name]] = {
    "rename": (Name(-1, 0, -1), Name(-1, 1, -1)),
    "renameat": (Name(0, 1, -1), Name(2, 3, -1)),
    "renameat2": (Name(0, 1, -1), Name(2, 3, -1)),
    "link": (Name(-1, 0, -1), Name(-1, 1, -1)),
    "linkat": (Name(0, 1, -1), Name(2, 3, -1)),
}


def name_of(call: str) -> Name:
    """Where most calls have their name."""
    if call in _FLAGGED:
        return _FLAGGED[call]
    directory = call.endswith("at") and call not in {"stat", "lstat", "creat"}
    flags = -1 if call in _NAMES_ONLY else -2
    return Name(0, 1, flags) if directory else Name(-1, 0, flags)
