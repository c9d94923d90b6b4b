"""The interpreter as the first process of a step: what it takes, how it is started and told.

Must not know who supervises the step, nor what the scripts are for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Self

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import becoming, interpreter, process, syscalls, system, trampoline
from builder.sandbox.script import NEXT, Script
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_NAMESPACES = ("mnt", "ipc", "uts", "cgroup", "pid")
_KINDS = {
    "mnt": syscalls.CLONE_NEWNS,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "pid": syscalls.CLONE_NEWPID,
}
_FREE = 10  # descriptors from here on are not in the way of those the interpreter gets
_MORE = interpreter.SCRIPT + 1  # the first of those that a script may be given besides
_ALL_FDS = 0xFFFFFFFF
_CLONE_PARENT = 0x8000
_APART = syscalls.CLONE_NEWPID | _CLONE_PARENT | signal.SIGCHLD
_CREDENTIALS = struct.Struct("=3i")  # struct ucred


@value
class Home:
    """The namespaces and the root of who makes the roots of steps."""

    namespaces: tuple[tuple[int, int], ...]
    root: int

    @classmethod
    def here(cls, names: Sequence[str] = _NAMESPACES) -> Self:
        """Those of the calling process, made its own first: others cannot be entered again."""
        syscalls.unshare(syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
        with contextlib.suppress(OSError):  # a kernel without such namespaces
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        flags = os.O_RDONLY | os.O_CLOEXEC
        opened = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a kernel without such namespaces
                opened.append((os.open(f"/proc/self/ns/{name}", flags), _KINDS[name]))
        return cls(tuple(opened), os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def enter(self) -> None:
        """Come back; where that fails nothing is right any more, so the process ends."""
        try:
            for fd, kind in self.namespaces:
                syscalls.setns(fd, kind)
            os.fchdir(self.root)
            os.chroot(".")
        except OSError:
            os._exit(1)


@value
class Interpreter:
    """The interpreter's file and what it reads: made once."""

    program: int
    null: int

    @classmethod
    def make(cls) -> Self | None:
        """Prepare; None where it cannot be had."""
        if not interpreter.runs_on(syscalls.MACHINE):
            return None
        try:
            files = (
                trampoline.sealed(interpreter.image(syscalls.MACHINE)),
                os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC),
            )
            program, null = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE) for fd in files)
            for fd in files:
                os.close(fd)
        except (OSError, HostUnsupportedError):
            return None
        return cls(program, null)

    @property
    def fds(self) -> tuple[int, ...]:
        """What must stay open."""
        return self.program, self.null

    def start(self, streams: Sequence[int], ends: tuple[int, int, int], more: Sequence[int]) -> int:
        """Start it, in the namespaces that children get; its pid.

        `ends` are where it tells results, its end of the socket and the file of scripts, `more`
        what scripts find from descriptor 6 on.
        """
        wanted = (*streams, *ends, *more)
        sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE) for fd in wanted]
        try:
            actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(sources)]
            path = f"/proc/self/fd/{self.program}"
            return os.posix_spawn(path, ["init"], {}, file_actions=actions, setsigmask=())
        finally:
            for fd in sources:
                os.close(fd)


def second(script: Script) -> bytes:
    """The bytes of a script that is read second and the same for many steps."""
    built = script.build(syscalls.MACHINE, interpreter.SECOND)
    if len(built) > interpreter.THIRD_AT:
        raise HostUnsupportedError("the system call filter is too long for this way to start steps")
    return built


@value
class Talk:
    """The socket to the interpreter and the file it reads scripts from."""

    control: socket.socket
    text: int

    def write(self, always: bytes, script: Script) -> None:
        """Lay out what is read second, and third a step's own."""
        data = script.build(syscalls.MACHINE, interpreter.THIRD)
        os.pwrite(self.text, always, interpreter.FIRST_ROOM)
        os.pwrite(self.text, data, interpreter.FIRST_ROOM + interpreter.THIRD_AT)

    def begin(self, given: int) -> None:
        """Have the third script run, with so many descriptors besides the usual ones."""
        script = Script()
        _close_others(script, given)
        _read_on(script)
        self._send(script)

    def mount_proc(self, target: str, apart: Callable[[int], None] | None = None) -> None:
        """Have the step's own /proc mounted, which only a process in its namespace can.

        The third script runs when the next byte comes. With `apart` the interpreter makes the
        namespace of processes, and in it a copy of itself that goes on as our child, and ends.
        `apart` is told the pid of who goes on; the socket has to pass credentials.
        """
        script = Script()
        _close_others(script, 0)
        if apart is not None:
            script.call("clone", _APART, on_zero="apart")
            script.call("exit_group", 0)
            script.label("apart")
        source, flags, answer = b"proc\0", system.STRICT, becoming.ANSWER
        path = os.fsencode(target) + b"\0"
        script.call("mount", source, path, source, flags, store=answer, on_error=NEXT)
        script.call("write", interpreter.GO, interpreter.SLOTS + answer, 8)
        script.call("read", interpreter.GO, interpreter.SLOTS, 1, on_zero="end")
        _read_on(script)
        script.label("end")
        script.call("exit_group", process.NOT_EXECUTABLE)
        self._send(script)
        answered, told, _, _ = self.control.recvmsg(8, socket.CMSG_SPACE(_CREDENTIALS.size))
        if len(answered) != 8:  # noqa: PLR2004 - a slot
            raise SandboxError("a step's first process ended early")
        if apart is not None:
            apart(_CREDENTIALS.unpack(told[0][2])[0])
        number = -int.from_bytes(answered, "little", signed=True)
        if number:
            raise OSError(number, os.strerror(number), "mount proc")

    def _send(self, script: Script) -> None:
        os.pwrite(self.text, script.build(syscalls.MACHINE, interpreter.FIRST), 0)
        self.control.send(b"1")


def _close_others(script: Script, given: int) -> None:
    """What the launcher received for steps is not closed by starting a program."""
    script.call("close_range", _MORE + given, _ALL_FDS, 0)


def _read_on(script: Script) -> None:
    room, place = interpreter.SECOND_ROOM, interpreter.FIRST_ROOM
    script.call("pread64", interpreter.SCRIPT, interpreter.SECOND, room, place)
    script.call("jump", 0, 0, interpreter.THIRD)
