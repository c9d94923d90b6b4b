"""File systems that state can lie on: which are mounted here, and what their kinds are good for.

A kind decides words and what is tried first, never what works: that is found by trying.
"""

from __future__ import annotations

import ctypes
import os
import re
from typing import TYPE_CHECKING

from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MOUNTS = "/proc/self/mountinfo"
# What statfs calls the kinds that matter here (linux/magic.h).
_KINDS = {
    0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs",
    0x794C7630: "overlay", 0x61756673: "aufs", 0x6969: "nfs", 0x01021997: "9p",
    0x65735546: "fuse", 0xFF534D42: "cifs", 0xFE534D42: "cifs", 0x00C36400: "ceph",
    0x2FC12FC1: "zfs", 0xF2F52010: "f2fs", 0x4D44: "vfat", 0x2011BAB0: "exfat",
    0x858458F6: "ramfs", 0x73717368: "squashfs",
}  # fmt: skip
SUITABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"})
_STATFS_SIZE = 256  # more than the structure has on any machine
# Never state's place, whoever may write there: the system's own.
_SYSTEM = re.compile(r"/(?:$|(?:proc|sys|dev|run|boot|etc|usr|var/run|lib|bin|sbin)(?:/|$))")
NEEDED_SPACE = 1 << 30  # bytes free below which a place is not chosen unasked
_OCTAL = re.compile(r"\\([0-7]{3})")


@value
class Mount:
    """A mount: where, of which kind, with which options."""

    path: str
    kind: str
    options: frozenset[str]


def mounts(read: Callable[[str], str]) -> tuple[Mount, ...]:
    """What is mounted, in the order of mounting; `read` gives a file's text."""
    found = []
    for line in read(_MOUNTS).splitlines():
        fields, _, tail = line.partition(" - ")
        columns, kind = fields.split(" "), tail.split(" ")
        if len(columns) > 5 and len(kind) > 2:  # noqa: PLR2004 - the format
            options = frozenset(columns[5].split(",") + kind[2].split(","))
            found.append(Mount(_plain(columns[4]), kind[0], options))
    return tuple(found)


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def volumes(here: Iterable[Mount]) -> tuple[str, ...]:
    """Mounted directories that nobody else uses and that may be written to, such as an emptyDir.

    One that holds files of others may be what is being built: state does not belong there.
    """
    found = []
    for mount in here:
        usable = mount.kind in SUITABLE and not mount.options & {"ro", "noexec"}
        if usable and not _SYSTEM.match(mount.path) and _has_room(mount.path):
            found.append(mount.path)
    return tuple(path for path in found if _is_free(path))


def _is_free(path: str) -> bool:
    try:
        names = os.listdir(path)
    except OSError:
        return False
    return all(name == "lost+found" or name.startswith("pybuild") for name in names)


def _has_room(path: str) -> bool:
    try:
        room = os.statvfs(path)
    except OSError:
        return False
    enough = room.f_bavail * room.f_frsize >= NEEDED_SPACE
    return enough and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _statfs(path: str) -> int:
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(path), buffer) < 0:
        return 0
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF


def kind_of(path: str, statfs: Callable[[str], int] = _statfs) -> str:
    """The kind of file system a path is on, "" for one not known here."""
    return _KINDS.get(statfs(path), "")


def read_text(path: str) -> str:
    """A file's text, "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
