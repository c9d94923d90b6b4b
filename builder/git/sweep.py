"""Forgetting repositories: those not used for long, and what killed builds left behind."""

from __future__ import annotations

import os

from cache.archive.rooted import remove_tree

READY = "ready"  # the file of a whole repository; its time is that of the last use
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def sweep(root: str, before: int) -> None:
    """Remove repositories of a state directory not used since `before` (ns); nobody may use it."""
    try:
        directory = os.open(f"{root}/git", _FLAGS)
    except FileNotFoundError:
        return
    try:
        for name in sorted(os.listdir(directory)):
            whole = not name.endswith(".lock")
            if whole and _used(directory, name) < before:
                remove_tree(directory, name)
                remove_tree(directory, f"{name}.lock")
    finally:
        os.close(directory)


def _used(directory: int, name: str) -> int:
    try:
        return os.stat(f"{name}/{READY}", dir_fd=directory, follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0  # half made, or a directory of a build that is over
