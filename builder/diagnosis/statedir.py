"""The state directory and what its file system allows."""

from __future__ import annotations

import os

from builder import places
from builder.diagnosis.finding import Finding
from builder.sandbox import uppers

_NETWORKED = frozenset({"nfs", "9p", "fuse", "cifs", "ceph"})
_MOVE = "set PYBUILD_ROOT, or --root, to a directory on another"


def facts(root: str, reason: str) -> list[Finding]:
    """What can be said about a state directory that was opened."""
    kind = places.kind_of(root)
    room = os.statvfs(root)
    return [
        Finding("state", "state directory", works=True, detail=f"{root} ({reason})"),
        _kind(kind),
        _space(room),
        _programs(room),
    ]


def changes(where: str) -> Finding:
    """Where what steps write is kept while they run, as a trial found."""
    if where == uppers.MEMORY:
        size = uppers.memory_to_use(places.read_text) >> 20
        return Finding("state", "changes of steps", works=False, detail=f"in memory, {size} MiB")
    detail = f"in {where}" if where else "in the state directory"
    return Finding("state", "changes of steps", works=True, detail=detail)


def missing(message: str, hint: str) -> Finding:
    """There is none that could be used."""
    return Finding("state", "state directory", works=False, detail=message, hint=hint)


def _kind(kind: str) -> Finding:
    good = kind in places.SUITABLE
    detail = kind or "unknown"
    if kind == "overlay":
        detail = "overlay, a container's own file system"
    elif kind in _NETWORKED:
        detail = f"{kind}, which owners and overlays rarely work on"
    hint = "" if good else f"{_MOVE}: ext4, xfs, btrfs or tmpfs"
    return Finding("state", "file system", good, detail, "", hint)


def _space(room: os.statvfs_result) -> Finding:
    free = room.f_bavail * room.f_frsize
    enough = free >= places.NEEDED_SPACE and (room.f_favail > 0 or not room.f_files)
    inodes = f", {room.f_favail} inodes" if room.f_files else ""
    detail = f"{free >> 20} MiB free{inodes}"
    hint = "" if enough else "pybuild prune --all, or more room: an image of Debian wants 1 GiB"
    return Finding("state", "free space", enough, detail, "", hint)


def _programs(room: os.statvfs_result) -> Finding:
    if not room.f_flag & os.ST_NOEXEC:
        return Finding("state", "programs", works=True, detail="can be started")
    detail = "mounted noexec: without namespaces RUN cannot start any"
    return Finding("state", "programs", works=False, detail=detail, hint=_MOVE)
