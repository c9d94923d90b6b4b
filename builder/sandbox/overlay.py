"""Overlay mounts of committed and active snapshots, for init only.

Directories are handed to the kernel as /proc/self/fd numbers or names relative to their base:
no option separators to escape, and no host path for the step to read in its mount table.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import syscalls

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_LOWERS = 500  # the kernel's limit (OVL_MAX_STACK)
_OPTION_LIMIT = 3800  # mount(2) copies one page; leave room for the other options
_SEPARATORS = frozenset(":,\\\0")


def _directory(path: str, dir_fd: int | None = None) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, flags, dir_fd=dir_fd)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise SandboxError(f'snapshot directory "{path}": {reason}') from error


def _lower_names(base_fd: int, lowers: Sequence[str], opened: list[int]) -> list[str]:
    """Names as they can stand in options; those with separators as fds."""
    names = []
    for lower in lowers:
        if _SEPARATORS.isdisjoint(lower):
            names.append(lower)
            continue
        opened.append(_directory(lower, base_fd))
        names.append(f"/proc/self/fd/{opened[-1]}")
    return names


def _attempt(target: str, lowers: list[str], changes: list[tuple[str, str]]) -> None:
    joined = ":".join(lowers)
    if len(joined) <= _OPTION_LIMIT:
        pairs = [("lowerdir", joined), *changes, ("userxattr", "")]
        data = ",".join(f"{key}={value}" if value else key for key, value in pairs)
        syscalls.mount("overlay", target, "overlay", 0, data)
        return
    settings = [("source", "overlay"), *(("lowerdir+", name) for name in lowers), *changes]
    tree = syscalls.mount_from_settings("overlay", [*settings, ("userxattr", "")])
    try:
        target_fd = _directory(target)
        syscalls.attach(tree, target_fd)
        os.close(target_fd)
    finally:
        os.close(tree)


def _explain(error: OSError, layers: int) -> HostUnsupportedError | SandboxError:
    if layers > MAX_LOWERS:
        return SandboxError(f"{layers} layers are more than the {MAX_LOWERS} an overlay can stack")
    reason = (error.strerror or str(error)).lower()
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:  # the host can, there is only no room (R09)
        return SandboxError(
            f"cannot mount an overlay for a step: {reason}",
            hint="free some space or inodes in the state directory, or set PYBUILD_ROOT to another",
        )
    return HostUnsupportedError(
        f"cannot mount an overlay for a step: {reason}",
        hint="this needs Linux 5.12 or newer and a state directory on ext4, xfs, btrfs or tmpfs"
        " (not itself an overlay): set PYBUILD_ROOT to such a directory",
    )


def mount_overlay(
    target: str, base: str, lowers: Sequence[str], changes: tuple[str, str] | None = None
) -> None:
    """Mount at `target`; `changes` are upper and work directories, none for read-only.

    The current directory becomes `base`.

    Raises:
        HostUnsupportedError: the kernel or the file system cannot.
    """
    opened: list[int] = []
    try:
        base_fd = _directory(base)
        opened.append(base_fd)
        os.fchdir(base_fd)
        names = _lower_names(base_fd, lowers, opened)
        written: list[tuple[str, str]] = []
        for key, path in zip(("upperdir", "workdir"), changes or (), strict=False):
            opened.append(_directory(path))
            written.append((key, f"/proc/self/fd/{opened[-1]}"))
        volatile = [*written, ("volatile", "")] if written else []
        for attempt in (volatile, written) if volatile else (written,):
            try:
                _attempt(target, names, attempt)
            except OSError as error:
                if error.errno == errno.EINVAL and attempt is not written:
                    continue  # no volatile here
                raise _explain(error, len(lowers)) from error
            return
    finally:
        for fd in opened:
            os.close(fd)
