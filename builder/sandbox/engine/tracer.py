"""The ptrace half of the engine: calls that only the task itself can do, with arguments rewritten.

execve gets the host's path of the loader; what else is rewritten, `rewrites` knows. Every new process is held until its parent's event has told whose it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import struct
from typing import TYPE_CHECKING, Any

from builder.sandbox.engine import calllog, kernel, listings, permissions, registers
from builder.sandbox.engine.programs import Programs
from builder.sandbox.engine.registers import Registers, ptrace
from builder.sandbox.engine.rewrites import RED_ZONE, REWRITTEN, Rewrites
from builder.sandbox.engine.view import signed
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from builder.sandbox.engine.abi import Abi
    from builder.sandbox.engine.programs import Execution
    from builder.sandbox.engine.step import Step

TRACED = ("execve", "execveat", *REWRITTEN)
_OPTIONS = (
    registers.O_EXITKILL
    | registers.O_SYSGOOD
    | registers.O_TRACEFORK
    | registers.O_TRACEVFORK
    | registers.O_TRACECLONE
    | registers.O_TRACEEXEC
    | registers.O_TRACESECCOMP
)
_FORK, _VFORK, _CLONE, _EXEC, _SECCOMP, _STOP = 1, 2, 3, 4, 7, 128
_STOPPING = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_ALL_CHILDREN = 0x40000000  # __WALL
_SCRATCH = 64 * 1024
_MAX_ARGUMENTS = 1 << 17
_READ_WRITE, _PRIVATE_ANONYMOUS = 3, 0x22


@value
class _Scratch:
    address: int
    size: int


class Tracer:
    """The tasks of one step, all of them traced."""

    def __init__(self, step: Step, abi: Abi, answered: Collection[str]) -> None:
        """Trace nothing yet; `answered` are the calls that wait for an answer, by name."""
        self._step = step
        step.stops = True
        self._answered = frozenset(answered)
        self._programs = Programs(step)
        self._rewrites = Rewrites(step)
        self._names = abi.names()
        self._mmap = abi.numbers["mmap"]
        self._held: set[int] = set()  # stopped before their parent's event
        self._memory: dict[int, int] = {}  # a vfork's child to whose memory it uses
        self._scratch: dict[int, _Scratch] = {}
        self._mapping: dict[int, Registers] = {}  # tasks that map scratch, as they were before
        self._executing: dict[int, Execution] = {}
        self._acts: dict[str, Callable[[int, Registers], None]] = {
            "execve": self._execve,
            "execveat": self._execveat,
            **self._rewrites.acts,
        }
        log = calllog.from_environment()
        if log is not None:
            self._acts = {name: log.act(name, act) for name, act in self._acts.items()}
        self.status: dict[int, int] = {}  # of processes that ended

    def begin(self, child: int) -> None:
        """Begin with the step's first process."""
        ptrace(registers.SEIZE, child, 0, _OPTIONS)
        self._step.processes[child] = child

    def reap(self) -> bool:
        """Handle everything that has happened to tasks; whether any are left."""
        while True:
            try:
                task, status = os.waitpid(-1, os.WNOHANG | _ALL_CHILDREN)
            except ChildProcessError:
                return False
            if task == 0:
                return True
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                self._happened(task, status)

    def kill(self) -> None:
        """Kill what is left of the step."""
        for process in set(self._step.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _signalled(self, task: int, number: int) -> None:
        """Deliver a signal. A call that waits to be answered begins anew after it.

        The kernel would end it as interrupted, which no call on a file is prepared for.
        """
        found = Registers.of(task)
        if found.interrupted and self._names.get(found.number) in self._answered:
            found.begin_anew()
        ptrace(registers.CONT, task, 0, number)

    def _happened(self, task: int, status: int) -> None:
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            self.ended(task, status)
            return
        number, event = os.WSTOPSIG(status), status >> 16
        if event == _SECCOMP:
            self._call(task)
        elif event in {_FORK, _VFORK, _CLONE}:
            self._born(task, event)
        elif event == _EXEC:
            self._executed(task)
        elif event == _STOP:
            self._stopped(task, number)
        elif number == signal.SIGTRAP | 0x80:
            self._returned(task)
        else:
            self._signalled(task, number)

    def ended(self, task: int, status: int) -> None:
        """Forget a task that ended, but how it did."""
        self.status[task] = status
        tables: tuple[dict[int, Any], ...] = (
            *(self._step.processes, self._step.programs, self._memory, self._scratch),
            *(self._mapping, self._executing),
        )
        for table in tables:
            table.pop(task, None)
        self._rewrites.forget(task)
        self._step.returning.pop(task, None)
        self._step.identities.forget(task)
        self._held.discard(task)
        self._step.hidden.discard(task)

    def _born(self, parent: int, event: int) -> None:
        child = registers.event_message(parent)
        process = _process_of(child) if event == _CLONE else child
        step = self._step
        step.processes[child] = process
        step.identities.forget(child)
        if process == child:
            step.programs[child] = step.programs.get(step.process_of(parent), b"/")
            if step.process_of(parent) in step.hidden:
                step.hidden.add(child)
        if event == _VFORK:
            self._memory[child] = self._owner(parent)
        if child in self._held:
            self._held.discard(child)
            with contextlib.suppress(ProcessLookupError):
                ptrace(registers.CONT, child)
        ptrace(registers.CONT, parent)

    def _owner(self, task: int) -> int:
        process = self._step.process_of(task)
        return self._memory.get(process, process)

    def _stopped(self, task: int, number: int) -> None:
        if task in self._step.returning:
            request = self._step.returning.pop(task)
            with contextlib.suppress(OSError):  # memory that the task unmapped meanwhile
                listings.correct(self._step, request, Registers.of(task).result)
        if task not in self._step.processes:
            self._held.add(task)
        elif number in _STOPPING:
            ptrace(registers.LISTEN, task)
        else:
            ptrace(registers.CONT, task)

    def _executed(self, task: int) -> None:
        former = registers.event_message(task)
        execution = self._executing.pop(former, None)
        step = self._step
        step.processes.pop(former, None)
        step.processes[task] = task
        step.hidden.discard(task)
        step.identities.forget(former)
        self._memory.pop(task, None)
        self._scratch.pop(task, None)
        if execution is not None:
            step.programs[task] = execution.guest
            self._take_ids(task, execution)
        ptrace(registers.CONT, task)

    def _take_ids(self, task: int, execution: Execution) -> None:
        identity = self._step.identities.of(task)
        if execution.uid >= 0:
            identity = identity._replace(euid=execution.uid)
        if execution.gid >= 0:
            identity = identity._replace(egid=execution.gid)
        identity = identity._replace(
            suid=identity.euid, sgid=identity.egid, keeps=False, capable=False
        )
        if identity != self._step.identities.of(task):
            self._step.identities.become(task, identity)

    def _call(self, task: int) -> None:
        found = Registers.of(task)
        name = self._names.get(found.number, "")
        try:
            if name not in self._acts:  # a filter of the step's own, which has no tracer
                kernel.fail(errno.ENOSYS)
            self._acts[name](task, found)
        except OSError as error:
            if isinstance(error, ProcessLookupError) and not os.path.exists(f"/proc/{task}"):
                raise
            found.skip(error.errno or errno.EIO)
            ptrace(registers.CONT, task)

    def _execve(self, task: int, found: Registers) -> None:
        path = kernel.read_path(task, found.argument(0))
        absolute = permissions.named(self._step, task, kernel.AT_FDCWD, path)
        self._execute(task, found, (absolute if path else b"", path), (0, 1))

    def _execveat(self, task: int, found: Registers) -> None:
        path = kernel.read_path(task, found.argument(1))
        directory, flags = found.argument(0), found.argument(4)
        follow = not flags & kernel.AT_SYMLINK_NOFOLLOW
        if path:
            absolute = permissions.named(self._step, task, directory, path, follow=follow)
            self._refuse_link(task, absolute, follow=follow)
            self._execute(task, found, (absolute, path), (1, 2))
        elif flags & kernel.AT_EMPTY_PATH:
            name = b"fd/%d" % signed(directory)
            self._execute(task, found, (b"/proc/self/" + name, b"/dev/" + name), (1, 2))
        else:
            kernel.fail(errno.ENOENT)

    def _refuse_link(self, task: int, path: bytes, *, follow: bool) -> None:
        """Do as execveat is asked to with AT_SYMLINK_NOFOLLOW."""
        if follow:
            return
        fd = self._step.view(task).reference(task, path, follow=False)
        try:
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                kernel.fail(errno.ELOOP)
        finally:
            os.close(fd)

    def _execute(
        self, task: int, found: Registers, paths: tuple[bytes, bytes], places: tuple[int, int]
    ) -> None:
        path, written = paths
        if not path:
            raise OSError(errno.ENOENT, "")
        pointers = kernel.read_pointers(task, found.argument(places[1]), _MAX_ARGUMENTS)
        argv0 = kernel.read_string(task, pointers[0]) if pointers else path
        execution = self._programs.plan(task, path, argv0, written)
        kept = pointers[execution.rest :]
        size = 8 * (len(kept) + len(execution.leading) + 4)
        size += sum(len(text) + 1 for text in (execution.host, *execution.leading)) + RED_ZONE
        top = self._room(task, found, size)
        if top is None:
            return  # the task maps some, then comes again
        host, array = _write_arguments(task, top, execution, kept)
        if places[0]:  # execveat: by an absolute path, without flags
            found.set_argument(0, kernel.AT_FDCWD)
            found.set_argument(4, 0)
        found.set_argument(places[0], host)
        found.set_argument(places[1], array)
        found.store()
        self._executing[task] = execution
        ptrace(registers.CONT, task)

    def _room(self, task: int, found: Registers, size: int) -> int | None:
        """The end of writable memory: the stack's free part, or scratch where memory is shared."""
        if task not in self._memory:
            return found.stack - RED_ZONE
        owner = self._memory[task]
        scratch = self._scratch.get(owner)
        if scratch is not None and scratch.size >= size:
            return scratch.address + scratch.size
        self._mapping[task] = found.copy()
        length = (max(size, _SCRATCH) + 4095) & ~4095
        self._scratch[owner] = _Scratch(0, length)
        found.call_instead(self._mmap, 0, length, _READ_WRITE, _PRIVATE_ANONYMOUS, (1 << 64) - 1, 0)
        ptrace(registers.SYSCALL, task)
        return None

    def _returned(self, task: int) -> None:
        """A rewritten call returned: give the task its own registers back."""
        before = self._mapping.pop(task, None)
        now = Registers.of(task)
        if before is not None:
            owner = self._memory.get(task, task)
            length = self._scratch[owner].size
            if now.result < 0 and now.result > -4096:  # noqa: PLR2004 - the range of errnos
                del self._scratch[owner]
                before.skip(errno.ENOMEM)
            else:
                self._scratch[owner] = _Scratch(now.result, length)
                before.again()
        else:
            self._rewrites.returned(task, now)
        ptrace(registers.CONT, task)

    def close(self) -> None:
        """Give back what was taken for the step."""
        self._rewrites.close()


def _write_arguments(task: int, top: int, execution: Execution, kept: list[int]) -> tuple[int, int]:
    """Write path, new strings and the array of pointers; the addresses of path and array."""
    texts = [text + b"\0" for text in (execution.host, *execution.leading)]
    start = place = top - sum(len(text) for text in texts)
    addresses: list[int] = []
    for text in texts:
        addresses.append(place)
        place += len(text)
    pointers = [*addresses[1:], *kept, 0]
    array = (start - 8 * len(pointers)) & ~15
    kernel.write(task, start, b"".join(texts))
    kernel.write(task, array, struct.pack(f"<{len(pointers)}Q", *pointers))
    return addresses[0], array


def _process_of(task: int) -> int:
    """Whose thread a new task is."""
    try:
        with open(f"/proc/{task}/status", "rb") as stream:
            for line in stream:
                if line.startswith(b"Tgid:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return task
