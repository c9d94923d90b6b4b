"""A step's file names where it has mounts of its own: the kernel resolves them in the step's root.

What lies in /proc there is left to the caller: its own links would be another process's to us.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel
from builder.sandbox.engine.view import View, fail, fd_path

if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class MountedView(View):
    """Names below the root that the step's first process changed to."""

    def __init__(self, root_fd: int, process_of: Callable[[int], int]) -> None:
        """Show the tree of an fd, in which every process is the step's."""
        super().__init__(fd_path(root_fd), (), lambda _: True, process_of, known_as=b"")
        self.changed = False  # whether a process changed its root

    def absolute(self, task: int, directory: int, path: bytes) -> bytes:
        """The path that a path means to a task, links unresolved, from the task's root."""
        name = super().absolute(task, directory, path)
        if not self.changed or path[:1] == b"/":
            return name
        root = os.readlink(b"/proc/%d/root" % task)
        if root == b"/":
            return name
        if name != root and not name.startswith(root + b"/"):
            fail(errno.ENOENT)  # outside: only the kernel can tell
        return name[len(root) :] or b"/"

    def _directly(self, path: bytes, flags: int, mode: int = 0) -> int:
        """Leave it to open() where roots differ."""
        return -errno.ELOOP if self.changed else super()._directly(path, flags, mode)

    def open(self, task: int, path: bytes, flags: int, mode: int = 0) -> int:
        """Open an absolute path of a task."""
        if not self.changed:
            return kernel.open_in(self.root_fd, path, flags, mode)
        root = os.open(b"/proc/%d/root" % task, _DIRECTORY)
        try:
            return kernel.open_in(root, path, flags, mode)
        finally:
            os.close(root)
