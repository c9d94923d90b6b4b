"""/proc, /dev and /sys of the host as a step may see them, where they cannot be mounted.

Owns which names are there, what a name of one's own process stands for, and opening without
ever following a link that leads out of these trees: those are the kernel's, and would be followed
from our own root. Knows nothing of the step's own tree.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel
from builder.sandbox.engine.kernel import fail
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable

ROOTS = (b"/proc", b"/dev", b"/sys")
_STREAMS = {b"stdin": b"0", b"stdout": b"1", b"stderr": b"2"}
DEVICES = frozenset({b"null", b"zero", b"full", b"random", b"urandom", b"tty", b"fd", b"pts",
                     b"ptmx", b"shm", b"stdin", b"stdout", b"stderr"})  # fmt: skip
_MASKED = (
    *(
        b"/proc/" + name
        for name in (
            b"acpi asound interrupts kcore keys latency_stats timer_list timer_stats"
            b" sched_debug scsi"
        ).split()
    ),
    b"/sys/firmware",
    b"/sys/devices/virtual/powercap",
)
_READ_ONLY = (b"/sys", *(b"/proc/" + n for n in (b"bus", b"fs", b"irq", b"sys", b"sysrq-trigger")))
_LINKS = frozenset({b"cwd", b"root", b"exe"})  # of a process: to what the kernel knows
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_MAKES = os.O_CREAT | os.O_EXCL
_GET_TERMINAL = 0x80045430  # TIOCGPTN
_NO_TERMINAL = frozenset({b"/dev/tty", b"/dev/console"})
_MASTERS = frozenset({b"/dev/ptmx", b"/dev/pts/ptmx"})


@value
class Link:
    """A name beyond one of a process's own links: `name` is the link, `rest` what follows it."""

    process: int
    name: bytes
    rest: bytes


class SystemTrees:
    """The three trees, for one step."""

    def __init__(self, is_ours: Callable[[int], bool], process_of: Callable[[int], int]) -> None:
        """`is_ours` says whether a process belongs to the step, `process_of` whose a thread is."""
        self._is_ours = is_ours
        self._process_of = process_of
        self._terminals: set[bytes] = set()  # numbers of those the step made itself

    def name(self, task: int, name: bytes) -> bytes:
        """The host's name for one in a tree: /proc of a task's own process, no other's.

        Raises:
            OSError: nothing is there for a step.
        """
        if name.startswith(b"/dev/"):
            name = self._device(task, name)
        if name.startswith(b"/proc/"):
            name = self._process(task, name)
        if name.startswith(_MASKED) and any(_below(name, masked) for masked in _MASKED):
            fail(errno.ENOENT)
        return name

    def link(self, name: bytes) -> Link | None:
        """Whether a host's name leads through a link that the kernel would follow to anywhere."""
        parts = name.split(b"/")
        if len(parts) < 4 or parts[1] != b"proc" or not parts[2].isdigit():  # noqa: PLR2004 - "", proc, PID
            return None
        at = 5 if parts[3] == b"task" and len(parts) > 5 else 3  # noqa: PLR2004 - task, TID, name
        if parts[at] == b"fd" and len(parts) > at + 1:
            at += 1
        elif parts[at] not in _LINKS:
            return None
        return Link(int(parts[2]), b"/".join(parts[: at + 1]), b"/".join(parts[at + 1 :]))

    def open(self, name: bytes, flags: int) -> int:
        """Open a host's name that leads through no such link; nothing is ever made there.

        Raises:
            OSError: as the kernel says, or EROFS.
        """
        if not flags & os.O_PATH:
            if name in _NO_TERMINAL:  # the one of ours would be opened
                fail(errno.ENXIO)
            if flags & _WRITES and any(_below(name, tree) for tree in _READ_ONLY):
                fail(errno.EROFS)
        top, _, inside = name[1:].partition(b"/")
        base = os.open(b"/" + top, os.O_PATH | os.O_CLOEXEC)
        try:
            fd = kernel.open_beneath(base, inside or b".", flags & ~_MAKES)
        except FileNotFoundError:
            if flags & os.O_CREAT:
                fail(errno.EROFS)
            raise
        finally:
            os.close(base)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            os.close(fd)
            fail(errno.EEXIST)
        if name in _MASTERS and not flags & os.O_PATH:
            number = fcntl.ioctl(fd, _GET_TERMINAL, bytes(4))
            self._terminals.add(b"%d" % struct.unpack("=I", number)[0])
        return fd

    def _device(self, task: int, name: bytes) -> bytes:
        first, _, rest = name[5:].partition(b"/")
        if first not in DEVICES:
            fail(errno.ENOENT)
        if first == b"fd":
            return b"/proc/%d/fd%s" % (self._process_of(task), name[7:])
        if first in _STREAMS:
            return b"/proc/%d/fd/%s" % (self._process_of(task), _STREAMS[first])
        if first == b"pts" and rest and rest != b"ptmx" and rest not in self._terminals:
            fail(errno.ENOENT)
        return name

    def _process(self, task: int, name: bytes) -> bytes:
        parts = name.split(b"/")
        if parts[2] == b"self":
            parts[2] = b"%d" % self._process_of(task)
        elif parts[2] == b"thread-self":
            parts[2] = b"%d/task/%d" % (self._process_of(task), task)
        elif parts[2].isdigit() and not self._is_ours(int(parts[2])):
            fail(errno.ENOENT)
        return b"/".join(parts)


def _below(name: bytes, tree: bytes) -> bool:
    return name == tree or name.startswith(tree + b"/")
