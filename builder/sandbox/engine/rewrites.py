"""Calls the task makes itself with an argument rewritten: directories, watches, sockets.

Each is stopped before it begins; data for the kernel is put below the task's stack, and the old
arguments are given back when it returns. Knows nothing of processes coming and going.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel, netless, permissions, registers
from builder.sandbox.engine.files import note_new, reference
from builder.sandbox.engine.registers import Registers, ptrace
from builder.sandbox.engine.sockets import SocketNames, redirected
from builder.sandbox.engine.view import fd_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.engine.sockets import Binding
    from builder.sandbox.engine.step import Step

REWRITTEN = ("chdir", "bind", "connect", "sendmsg", "sendmmsg", "inotify_add_watch")
REWRITTEN_IF = (("sendto", 4, (1 << 64) - 1),)  # by position and bits: only what has an address
RED_ZONE = 256  # bytes below the stack pointer that are the task's
_DO_NOT_FOLLOW = 0x02000000  # IN_DONT_FOLLOW


class Rewrites:
    """Rewritten calls of one step."""

    def __init__(self, step: Step) -> None:
        """Nothing is rewritten yet."""
        self._step = step
        self._sockets = SocketNames(step)
        self._restore: dict[int, Registers] = {}  # as they were before, by task
        self._binding: dict[int, Binding] = {}
        self._sending: set[int] = set()  # tasks that send several messages
        self.acts: dict[str, Callable[[int, Registers], None]] = {
            "chdir": self._chdir,
            "bind": self._bind,
            "connect": self._connect,
            "sendto": self._send_to,
            "sendmsg": self._send_message,
            "sendmmsg": self._send_messages,
            "inotify_add_watch": self._watch,
        }

    def forget(self, task: int) -> None:
        """A task is gone."""
        self._restore.pop(task, None)
        self._sending.discard(task)
        binding = self._binding.pop(task, None)
        if binding is not None:
            os.close(binding.parent)

    def returned(self, task: int, now: Registers) -> None:
        """A call returned: give the task its own arguments back."""
        old = self._restore.pop(task, None)
        if old is None:
            return
        if task in self._binding:
            self._bound(task, self._binding.pop(task), now.result)
        if task in self._sending:
            self._sending.discard(task)
            _tell_sent(task, now.argument(1), old.argument(1), now.result)
        for position in range(6):
            if position or not registers.RESULT_IS_ARGUMENT:
                now.set_argument(position, old.argument(position))
        now.store()

    def close(self) -> None:
        """Give back what was taken for the step."""
        self._sockets.close()

    def _bound(self, task: int, binding: Binding, result: int) -> None:
        """A socket got its name: it is its maker's."""
        try:
            if result == 0:
                how = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(binding.name, how, dir_fd=binding.parent)
                try:
                    real = stat.S_IMODE(os.fstat(fd).st_mode)
                    wanted = 0o777 & ~self._step.identities.of(task).umask
                    note_new(self._step, task, fd, binding.parent, wanted, real)
                finally:
                    os.close(fd)
        finally:
            os.close(binding.parent)

    def _chdir(self, task: int, found: Registers) -> None:
        fd = reference(self._step, task, kernel.AT_FDCWD, found.argument(0), 0)
        try:
            permissions.require(self._step, task, fd, permissions.SEARCH)
            host = os.readlink(fd_path(fd))
        finally:
            os.close(fd)
        self._rewrite(task, found, 0, host + b"\0")

    def _watch(self, task: int, found: Registers) -> None:
        """Do inotify_add_watch: by the host's name."""
        follow = not found.argument(2) & _DO_NOT_FOLLOW
        place = found.argument(1)
        fd = reference(self._step, task, kernel.AT_FDCWD, place, 0, follow)
        try:
            permissions.require(self._step, task, fd, permissions.READ)
            host = os.readlink(fd_path(fd))
        finally:
            os.close(fd)
        self._rewrite(task, found, 1, host + b"\0")

    def _bind(self, task: int, found: Registers) -> None:
        name = self._sockets.guest(task, *(found.argument(n) for n in (1, 2)))
        if not name:
            ptrace(registers.CONT, task)  # another family, or an abstract name
            return
        address, self._binding[task] = self._sockets.new(task, name)
        found.set_argument(2, len(address))
        self._rewrite(task, found, 1, address)

    def _connect(self, task: int, found: Registers) -> None:
        if not self._step.has_network:
            netless.require_near(task, found.argument(1), found.argument(2))
        self._named(task, found, 1)

    def _send_to(self, task: int, found: Registers) -> None:
        self._named(task, found, 4)

    def _named(self, task: int, found: Registers, position: int) -> None:
        """Do a call with the address of a socket that is there, and its length."""
        name = self._sockets.guest(task, found.argument(position), found.argument(position + 1))
        if not name:
            ptrace(registers.CONT, task)
            return
        address = self._sockets.existing(task, name)
        found.set_argument(position + 1, len(address))
        self._rewrite(task, found, position, address)

    def _send_message(self, task: int, found: Registers) -> None:
        header, address = self._sockets.message(task, found.argument(1))
        if not address:
            ptrace(registers.CONT, task)
            return
        place = self._below(found, len(address) + len(header))
        header = redirected(header, place + len(header), len(address))
        self._rewrite(task, found, 1, header + address)

    def _send_messages(self, task: int, found: Registers) -> None:
        """Send those before the first that names a path, or that one by itself."""
        first = self._sockets.first_named(task, found.argument(1), found.argument(2))
        if first < 0:
            ptrace(registers.CONT, task)
        elif first:
            self._restore[task] = found.copy()
            found.set_argument(2, first)
            found.store()
            ptrace(registers.SYSCALL, task)
        else:
            header, address = self._sockets.message(task, found.argument(1))
            place = self._below(found, len(address) + len(header) + 8)
            header = redirected(header, place + len(header) + 8, len(address)) + bytes(8)
            found.set_argument(2, 1)
            self._sending.add(task)
            self._rewrite(task, found, 1, header + address)

    @staticmethod
    def _below(found: Registers, size: int) -> int:
        """Where data goes that a call is to see: below what of the stack is the task's."""
        return (found.stack - RED_ZONE - size) & ~15

    def _rewrite(self, task: int, found: Registers, position: int, data: bytes) -> None:
        """Point an argument at data below the stack, and put the old one back afterwards."""
        self._restore[task] = Registers.of(task)
        place = self._below(found, len(data))
        kernel.write(task, place, data)
        found.set_argument(position, place)
        found.store()
        ptrace(registers.SYSCALL, task)


def _tell_sent(task: int, written: int, asked: int, result: int) -> None:
    """Say where the task looks how much of its messages was sent."""
    size = 64  # bytes of struct mmsghdr, whose last eight tell
    if result > 0 and written != asked:
        kernel.write(task, asked + size - 8, kernel.read_exactly(task, written + size - 8, 4))
