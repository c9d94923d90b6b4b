"""Which files of a step's tree would not be seen if its places were mounted over them."""

from __future__ import annotations

import os
import stat

from builder.sandbox.engine import kernel


class Hiding:
    """What of the tree lies where places are: the stubs themselves, and what directories hold."""

    def __init__(self, root_fd: int, guests: list[bytes]) -> None:
        """Look at what lies at the targets `guests`."""
        self._stubs: set[tuple[int, int]] = set()
        self.deep: list[bytes] = []  # directories that are not empty in the tree
        for guest in guests:
            try:
                fd = kernel.open_in(root_fd, guest, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            except OSError:
                continue
            status = os.fstat(fd)
            self._stubs.add((status.st_dev, status.st_ino))
            if stat.S_ISDIR(status.st_mode) and os.listdir(fd):
                self.deep.append(guest)
            os.close(fd)

    def holds(self, fd: int) -> bool:
        """Whether what was opened is one of the stubs."""
        if not self._stubs:
            return False
        status = os.fstat(fd)
        return (status.st_dev, status.st_ino) in self._stubs
