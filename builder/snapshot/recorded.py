"""What was recorded of files beside a tree, where the kernel would not do what a step wanted.

Owns how records change what is read of a directory. It must not know who recorded them.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple, cast

from builder.snapshot import attributes
from builder.snapshot.attributes import Attributes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    from builder.sandbox.spec import Recorded
    from builder.snapshot.attributes import Xattrs
    from builder.snapshot.lower import LowerDir, Read

_KEPT = -1


class _Shown(NamedTuple):
    """The fields of a status that are looked at."""

    st_mode: int
    st_uid: int
    st_gid: int
    st_size: int
    st_nlink: int
    st_rdev: int
    st_dev: int
    st_ino: int
    st_mtime_ns: int
    st_ctime_ns: int


class RecordedFiles:
    """Records by inode; with `own`, files of this uid and gid are root's in the image.

    Where files have the modes they are meant to have, records give `types_only`: a device's.
    """

    def __init__(
        self,
        recorded: Iterable[Recorded] = (),
        own: tuple[int, int] | None = None,
        *,
        types_only: bool = False,
    ) -> None:
        """Take what a step's outcome says."""
        self._own = own
        self._types_only = types_only
        self._files = {_key(r.name): r for r in recorded}

    def shown(self, status: os.stat_result) -> os.stat_result:
        """A status as the image is to have it."""
        if not self._files and self._own is None:
            return status
        record = self._files.get((status.st_dev, status.st_ino))
        uid, gid = status.st_uid, status.st_gid
        if self._own is not None:
            uid, gid = (0 if i == o else i for i, o in zip((uid, gid), self._own, strict=True))
        mode, device = status.st_mode, status.st_rdev
        if record is not None:
            uid = uid if record.uid == _KEPT else record.uid
            gid = gid if record.gid == _KEPT else record.gid
            if record.mode != _KEPT:
                kept = stat.S_IMODE(mode) if self._types_only else stat.S_IMODE(record.mode)
                mode = stat.S_IFMT(record.mode) | kept
                device = os.makedev(*record.device)
        size = status.st_size if stat.S_ISREG(mode) else 0
        shown = _Shown(
            *(mode, uid, gid, size, status.st_nlink, device),
            *(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns),
        )
        return cast("os.stat_result", shown)

    def attributes(self, target: int | bytes, status: os.stat_result) -> Attributes:
        """The attributes of an open file, or of a path not followed, with recorded ones."""
        found = attributes.read(target)
        record = self._files.get((status.st_dev, status.st_ino)) if self._files else None
        if record is None or not record.xattrs:
            return found
        kept = attributes.clean(record.xattrs)
        names = {name for name, _ in kept.xattrs}
        rest = (pair for pair in found.xattrs if pair[0] not in names)
        return Attributes(tuple(sorted((*rest, *kept.xattrs))), found.opaque)


class RecordedLower:
    """A tree of lowers (a LowerDir) as the image has it: owners and devices by recorded names."""

    def __init__(self, lower: LowerDir, recorded: Iterable[Recorded]) -> None:
        """Take what is recorded of a stack."""
        self._lower = lower
        self._files = {os.fsencode(r.name if r.name != "." else ""): r for r in recorded}

    def lstat(self, path: bytes) -> os.stat_result | None:
        """Status of a path, None when there is nothing."""
        status, record = self._lower.lstat(path), self._files.get(path)
        if status is None or record is None:
            return status
        device = stat.S_ISCHR(record.mode) or stat.S_ISBLK(record.mode)
        mode = stat.S_IFMT(record.mode) | stat.S_IMODE(status.st_mode) if device else status.st_mode
        uid = status.st_uid if record.uid == _KEPT else record.uid
        gid = status.st_gid if record.gid == _KEPT else record.gid
        shown = _Shown(
            *(mode, uid, gid, 0 if device else status.st_size, status.st_nlink),
            os.makedev(*record.device) if device else status.st_rdev,
            *(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns),
        )
        return cast("os.stat_result", shown)

    def xattrs(self, path: bytes) -> Xattrs:
        """Attributes of a path as a layer would show them."""
        return self._lower.xattrs(path)

    def readlink(self, path: bytes) -> bytes:
        """Text of a symlink."""
        return self._lower.readlink(path)

    def open(self, path: bytes) -> AbstractContextManager[Read]:
        """Open a regular file for reading."""
        return self._lower.open(path)


def _key(name: str) -> tuple[int, int]:
    device, _, inode = name.partition(":")
    return int(device), int(inode)


AS_THEY_ARE = RecordedFiles()
