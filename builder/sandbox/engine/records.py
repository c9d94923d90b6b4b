"""What the kernel would not do for a step: owners, modes, devices, protected attributes, by inode.

Pure bookkeeping over device and inode numbers, and the patching of stat results with it.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING

from builder.sandbox import syscalls
from builder.sandbox.spec import Recorded
from cache.value import field, state

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Key = tuple[int, int]  # device and inode number

_CAPABILITY = b"security.capability"
KEPT = -1  # an id or mode that is the kernel's
_AARCH64 = syscalls.MACHINE == "aarch64"
# Where struct stat has mode, uid, gid and rdev.
_MODE, _UID, _RDEV = (16, 24, 32) if _AARCH64 else (24, 28, 40)
_KEY = struct.Struct("<QQ")
_IDS = struct.Struct("<II")
_STATX_UID, _STATX_MODE, _STATX_INODE, _STATX_RDEV, _STATX_DEVICE = 20, 28, 32, 128, 136


@state
class Record:
    """One inode. `mode` has the type bits; `device` is a device number as in st_rdev."""

    uid: int = KEPT
    gid: int = KEPT
    mode: int = KEPT
    device: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Records:
    """Records by inode. `own_uid` and `own_gid` are shown as root's."""

    def __init__(self, own_uid: int, own_gid: int) -> None:
        """Start empty."""
        self.own_uid = own_uid
        self.own_gid = own_gid
        self._table: dict[Key, Record] = {}
        self.devices: set[Key] = set()  # which of them are devices
        self._changed: set[Key] | None = None

    def __bool__(self) -> bool:
        """Whether anything is recorded."""
        return bool(self._table)

    def __iter__(self) -> Iterator[tuple[Key, Record]]:
        """Everything recorded."""
        return iter(self._table.items())

    def watch(self) -> set[Key]:
        """A set that the inodes get into whose records may have changed; the watcher empties it."""
        self._changed = set(self._table)
        return self._changed

    def _note(self, key: Key) -> None:
        if self._changed is not None:
            self._changed.add(key)

    def seed(self, root_fd: int, seeds: Iterable[Recorded]) -> None:
        """Record what a tree's files are meant to be, by the inodes they have here."""
        for known in seeds:
            try:
                status = os.stat(os.fsencode(known.name), dir_fd=root_fd, follow_symlinks=False)
            except OSError:
                continue  # removed since: nothing is there to describe
            record = self.make((status.st_dev, status.st_ino))
            record.uid, record.gid, record.mode = known.uid, known.gid, known.mode
            record.device = os.makedev(*known.device)
            if is_device(record.mode):
                self.devices.add((status.st_dev, status.st_ino))
            record.xattrs.update((os.fsencode(name), data) for name, data in known.xattrs)

    def told(self) -> Iterator[Recorded]:
        """Everything that differs from what the files say themselves, by `device:inode`."""
        for key, record in self:
            if record != Record():
                yield told(key, record)

    @property
    def count(self) -> int:
        """How many inodes are recorded."""
        return len(self._table)

    def get(self, key: Key) -> Record | None:
        """What is recorded of an inode."""
        return self._table.get(key)

    def make(self, key: Key) -> Record:
        """The record of an inode, made when missing."""
        self._note(key)
        return self._table.setdefault(key, Record())

    def make_device(self, key: Key, mode: int, device: int) -> None:
        """Record that an inode is meant to be a device."""
        record = self.make(key)
        record.mode, record.device = mode, device
        self.devices.add(key)

    def put(self, key: Key, record: Record) -> None:
        """Let an inode have a record that another one may have, too."""
        self._note(key)
        self._table[key] = record

    def own(self, key: Key, uid: int, gid: int) -> Record:
        """Record an owner, ids that are KEPT left as they are; a capability goes with it."""
        record = self.make(key)
        if uid != KEPT:
            record.uid = uid & 0xFFFFFFFF
        if gid != KEPT:
            record.gid = gid & 0xFFFFFFFF
        record.xattrs.pop(_CAPABILITY, None)
        return record

    def known(self, fd: int) -> Record | None:
        """What is recorded of the inode of an fd."""
        return self.get(key_of(fd)[0])

    def usable(self, wanted: int, needed: int) -> int:
        """The mode that a new file gets from the kernel: one that lets us in, where all is ours."""
        return wanted & 0o777 | needed

    def move(self, old: Key, new: Key) -> None:
        """A copy-up gave a file another inode."""
        if old != new and old in self._table:
            self._note(old)
            self._note(new)
            self._table[new] = self._table.pop(old)
            if old in self.devices:
                self.devices.discard(old)
                self.devices.add(new)

    def forget(self, key: Key) -> None:
        """The last name of an inode is gone; its number may come back."""
        self._note(key)
        self._table.pop(key, None)
        self.devices.discard(key)

    def shown(self, status: os.stat_result) -> tuple[int, int, int]:
        """Mode, uid and gid of an inode as the step is to see them."""
        record = self._table.get((status.st_dev, status.st_ino))
        uid = 0 if status.st_uid == self.own_uid else status.st_uid
        gid = 0 if status.st_gid == self.own_gid else status.st_gid
        if record is None:
            return status.st_mode, uid, gid
        return (
            self._mode(record, status.st_mode),
            uid if record.uid == KEPT else record.uid,
            gid if record.gid == KEPT else record.gid,
        )

    def _mode(self, record: Record, actual: int) -> int:
        """The mode to show of a recorded inode, given what the kernel says."""
        return actual if record.mode == KEPT else record.mode

    def patched(self, data: bytes) -> bytes:
        """A struct stat as the step is to see it."""
        result = bytearray(data)
        self.patch(result)
        return bytes(result)

    def patch(self, data: bytearray) -> None:
        """Make a struct stat what the step is to see."""
        record = self._table.get(_KEY.unpack_from(data))
        uid, gid = _IDS.unpack_from(data, _UID)
        _IDS.pack_into(data, _UID, *self._ids(record, uid, gid))
        if record is not None and record.mode != KEPT:
            (actual,) = struct.unpack_from("<I", data, _MODE)
            struct.pack_into("<I", data, _MODE, self._mode(record, actual))
            struct.pack_into("<Q", data, _RDEV, record.device)

    def patched_statx(self, data: bytes) -> bytes:
        """A struct statx as the step is to see it."""
        major, minor = _IDS.unpack_from(data, _STATX_DEVICE)
        (inode,) = struct.unpack_from("<Q", data, _STATX_INODE)
        record = self._table.get((os.makedev(major, minor), inode))
        uid, gid = self._ids(record, *_IDS.unpack_from(data, _STATX_UID))
        result = bytearray(data)
        _IDS.pack_into(result, _STATX_UID, uid, gid)
        if record is not None and record.mode != KEPT:
            (actual,) = struct.unpack_from("<H", data, _STATX_MODE)
            struct.pack_into("<H", result, _STATX_MODE, self._mode(record, actual) & 0xFFFF)
            numbers = os.major(record.device), os.minor(record.device)
            _IDS.pack_into(result, _STATX_RDEV, *numbers)
        return bytes(result)

    def _ids(self, record: Record | None, uid: int, gid: int) -> tuple[int, int]:
        uid = 0 if uid == self.own_uid else uid
        gid = 0 if gid == self.own_gid else gid
        if record is None:
            return uid, gid
        return (
            uid if record.uid == KEPT else record.uid,
            gid if record.gid == KEPT else record.gid,
        )


def told(key: Key, record: Record) -> Recorded:
    """A record as others read it."""
    numbers = os.major(record.device), os.minor(record.device)
    xattrs = tuple((os.fsdecode(name), data) for name, data in sorted(record.xattrs.items()))
    name = f"{key[0]}:{key[1]}"
    return Recorded(name, record.uid, record.gid, record.mode, numbers, xattrs)


def key_of(fd: int) -> tuple[Key, os.stat_result]:
    """The inode of an fd and its status."""
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino), status


def touch(fd: int) -> None:
    """Let an inode's change time tell that something about it was recorded."""
    os.chown(b"/proc/self/fd/%d" % fd, -1, -1)


def is_device(mode: int) -> bool:
    """Whether a mode is that of a character or block device."""
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def is_whiteout(mode: int, device: int) -> bool:
    """Whether mknod is asked for what removes a name, to who reads the layer; overlayfs makes none."""
    return stat.S_ISCHR(mode) and not device & 0xFFFFFFFF
