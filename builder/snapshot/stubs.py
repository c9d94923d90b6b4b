"""Taking away what was created only to mount on, before a change is read.

It must not know of mounts: it gets paths and judges by what lies in the upper directory.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from builder.snapshot.lower import is_whiteout
from cache.archive.entry import encode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.snapshot.lower import LowerDir

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def remove_stubs(upper_fd: int, lower: LowerDir, stubs: Sequence[tuple[str, int]]) -> None:
    """Remove the stubs that are still empty and absent below, deepest first.

    Each comes with the mtime its parent had before. A parent with no other change among its
    names gets that mtime back, so that it is no change itself; any other keeps its own.
    """
    oldest: dict[bytes, int] = {}
    for path, mtime in stubs:
        parent, _, name = encode(path).strip(b"/").rpartition(b"/")
        oldest[parent] = min(mtime, oldest.get(parent, mtime))
    for path, _ in stubs:
        parent, _, name = encode(path).strip(b"/").rpartition(b"/")
        descriptor = _open(upper_fd, parent)
        if descriptor is None:
            continue
        try:
            before = os.fstat(descriptor)
            if _is_below(lower, parent, name) or not _remove(descriptor, name):
                continue
            untouched = all(
                _is_below(lower, parent, entry) and not _is_hidden(descriptor, entry)
                for entry in map(os.fsencode, os.listdir(descriptor))
            )
            mtime = oldest[parent] if untouched else before.st_mtime_ns
            os.utime(descriptor, ns=(before.st_atime_ns, mtime))
        finally:
            os.close(descriptor)


def _open(root_fd: int, path: bytes) -> int | None:
    """Open a directory below a root, no component followed; None when there is none."""
    here = os.open(b".", _DIRECTORY, dir_fd=root_fd)
    for name in path.split(b"/") if path else []:
        try:
            if name in {b"", b".", b".."}:
                return None
            there = os.open(name, _DIRECTORY, dir_fd=here)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        finally:
            os.close(here)
        here = there
    return here


def _remove(directory_fd: int, name: bytes) -> bool:
    """Remove an empty file or directory; False when it is anything else."""
    try:
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(name, dir_fd=directory_fd)
        elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(name, dir_fd=directory_fd)
        else:
            return False
    except OSError as error:
        if error.errno in _GONE | {errno.ENOTEMPTY}:
            return False
        raise
    return True


def _is_below(lower: LowerDir, parent: bytes, name: bytes) -> bool:
    return lower.lstat(parent + b"/" + name if parent else name) is not None


def _is_hidden(directory_fd: int, name: bytes) -> bool:
    return is_whiteout(os.stat(name, dir_fd=directory_fd, follow_symlinks=False))
