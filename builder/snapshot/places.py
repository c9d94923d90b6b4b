"""A tree below every stack with the files that every step has mounted on it.

So they need not be made in the upper of each step and removed again. The tree counts as nothing
when a change is read (R07). What it has not, or an image hides, a step makes itself.
"""

from __future__ import annotations

import contextlib
import os

NAME = "places"
_DIRECTORY, _FILES = "etc", ("hosts", "resolv.conf")


def make(trees_fd: int) -> None:
    """Make the tree among the committed ones, where it is missing."""
    directory = f"{NAME}/{_DIRECTORY}"
    for name in (NAME, directory):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=trees_fd)
            os.chmod(name, 0o755, dir_fd=trees_fd)  # noqa: S103 - as any image has them
    for name in _FILES:
        with contextlib.suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(f"{directory}/{name}", flags, 0o644, dir_fd=trees_fd)
            os.fchmod(file, 0o644)
            os.close(file)
