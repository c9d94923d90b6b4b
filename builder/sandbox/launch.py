"""The builder's side of the launcher: starts it, sends steps, passes their output on.

The launcher is forked once, before any thread exists and after the namespace was entered. A
step is one request with its own pipes; there is nothing shared to lock but the socket, whose
packets are atomic.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import select
import signal
import socket
from typing import TYPE_CHECKING, NoReturn

from builder.errors import SandboxError
from builder.sandbox import beginning, init, launcher, seccomp, syscalls, wire
from builder.sandbox.nodes import Nodes
from builder.sandbox.spec import Outcome
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from builder.sandbox.emulators import Emulator
    from builder.sandbox.launcher import StepRunner
    from builder.sandbox.process import Tools
    from builder.sandbox.spec import Recorded, SandboxSpec

_READ_SIZE = 65536  # a pipe's capacity
_FIRST = 3  # after the standard streams
_KILLED = 128 + signal.SIGKILL


class _Pipes:
    """The fds of one step: ours by stream, and those to send."""

    def __init__(self, spec: SandboxSpec) -> None:
        """Make pipes and memory files."""
        self.spec = os.memfd_create("spec", os.MFD_CLOEXEC)
        self.report = os.memfd_create("report", os.MFD_CLOEXEC)
        self.reads: list[int] = []  # status, stdout, stderr
        self.writes: list[int] = []
        for _ in range(3):
            read_end, write_end = os.pipe()
            os.set_blocking(read_end, False)
            self.reads.append(read_end)
            self.writes.append(write_end)
        view = memoryview(wire.encode_spec(spec))
        while view:
            view = view[os.write(self.spec, view) :]

    def close_writes(self) -> None:
        """Leave only the launcher's copies of the write ends."""
        while self.writes:
            os.close(self.writes.pop())

    def close(self) -> None:
        """Close everything."""
        self.close_writes()
        for fd in (self.spec, self.report, *self.reads):
            os.close(fd)


class LaunchedSandbox:
    """Runs steps through a launcher (implements Sandbox). Made by start() or start_plain()."""

    def __init__(self, control: socket.socket, keeper: int, nodes: Nodes | None = None) -> None:
        """Take the socket, the process that holds the launcher, and who answers for devices."""
        self._control = control
        self._keeper = keeper
        self._nodes = nodes or Nodes()
        self._numbers: Iterator[int] = itertools.count(1)
        self._closed = False

    @classmethod
    def start(cls, scratch: str, run_step: StepRunner = init.run) -> Self:
        """Run steps in namespaces. `scratch` is an absolute directory they mount over, left empty.

        Call after enter_namespace() and before any thread is started.
        """
        return cls._start(
            scratch, functools.partial(_keep, run_step), notified=run_step is init.run
        )

    @classmethod
    def start_plain(cls, scratch: str, emulators: tuple[Emulator, ...] = ()) -> Self:
        """Run steps under the engine, without namespaces; `scratch` holds what they need.

        `emulators` run programs of other machines. Call before any thread is started.
        """
        return cls._start(scratch, functools.partial(_keep_plain, emulators))

    @classmethod
    def start_chroot(cls, scratch: str) -> Self:
        """Run steps in a changed root, for root without mounts; `scratch` holds what they need.

        Call before any thread is started.
        """
        return cls._start(scratch, _keep_chroot)

    @classmethod
    def start_single(cls, scratch: str) -> Self:
        """Run steps in namespaces where a single id is mapped, owners recorded by the engine.

        Call after enter_namespace(Tier.SINGLE) and before any thread is started.
        """
        return cls._start(scratch, _keep_single)

    @classmethod
    def _start(cls, scratch: str, keep: Callable[..., NoReturn], *, notified: bool = False) -> Self:
        tools = launcher.make_tools()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        keeper = os.fork()
        if keeper == 0:
            try:
                ours.close()
                keep(theirs, scratch, tools, parent)
            finally:
                os._exit(1)
        theirs.close()
        os.close(tools.trampoline)
        return cls(ours, keeper, Nodes(ours) if notified else None)

    def run(self, spec: SandboxSpec, output: Callable[[int, bytes], None]) -> Outcome:
        """Run one step to its end; see Sandbox.run."""
        if not spec.process.argv:
            raise SandboxError("a step needs a program to run")
        number = next(self._numbers)
        pipes = _Pipes(spec)
        ended = False
        self._nodes.begin(number, spec)
        recorded: tuple[Recorded, ...] = ()
        try:
            fds = [pipes.spec, pipes.report, *pipes.writes]
            self._send(launcher.RUN, number, [*fds, 0] if spec.interactive else fds)
            pipes.close_writes()
            status = _pump(pipes.reads, output, self._nodes)
            ended = True
            if not status and self._closed:
                return Outcome(_KILLED)
            os.lseek(pipes.report, 0, os.SEEK_SET)
            outcome = _outcome(status, _read_all(pipes.report))
        finally:
            recorded = self._nodes.end(number)
            if not ended and not self._closed:
                self._send(launcher.KILL, number)
            pipes.close()
        return replace(outcome, recorded=outcome.recorded + recorded) if recorded else outcome

    def cancel(self) -> None:
        """Kill every running step."""
        if not self._closed:
            self._send(launcher.KILL, launcher.EVERY_STEP)

    def close(self) -> None:
        """End the launcher and, with it, every step."""
        if self._closed:
            return
        self._closed = True
        self._control.close()
        os.waitpid(self._keeper, 0)
        self._nodes.close()

    def _send(self, operation: bytes, number: int, fds: list[int] | None = None) -> None:
        if self._closed:
            raise SandboxError("the sandbox is closed")
        try:
            socket.send_fds(self._control, [launcher.REQUEST.pack(operation, number)], fds or [])
        except OSError as error:
            raise SandboxError("the launcher of the sandbox is gone") from error


def _settle(control: socket.socket, tools: Tools, parent: int) -> None:
    """Die with the builder; keep nothing of it open that steps could inherit."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.setsid()  # the terminal's signals are for the builder, which cancels
    keep = sorted((control.fileno(), tools.trampoline))
    os.closerange(_FIRST, keep[0])
    os.closerange(keep[0] + 1, keep[1])
    syscalls.close_from(keep[1] + 1)


def _keep_plain(
    emulators: tuple[Emulator, ...],
    control: socket.socket,
    scratch: str,
    tools: Tools,
    parent: int,
) -> NoReturn:
    """Be the launcher itself: without a PID namespace nothing has to be held."""
    from builder.sandbox.engine import emulate  # noqa: PLC0415 - rarely needed

    _settle(control, tools, parent)
    tools = replace(tools, filter=emulate.filter_below())
    run_step = functools.partial(emulate.run, beginning.Interpreter.make(), emulators)
    launcher.serve(control, scratch, tools, run_step, namespaces=False, lasting=True)


def _keep_chroot(control: socket.socket, scratch: str, tools: Tools, parent: int) -> NoReturn:
    """Be the launcher itself: without a PID namespace nothing has to be held."""
    from builder.sandbox.engine import chroot  # noqa: PLC0415 - rarely needed

    _settle(control, tools, parent)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # steps have our uid
    run_step = functools.partial(chroot.run, beginning.Interpreter.make())
    launcher.serve(control, scratch, tools, run_step, namespaces=False, lasting=True)


def _keep_single(control: socket.socket, scratch: str, tools: Tools, parent: int) -> NoReturn:
    """Be the launcher itself, which sees the processes of steps, as their supervisors must."""
    from builder.sandbox.engine import single, singledirect  # noqa: PLC0415 - rarely needed

    _settle(control, tools, parent)
    run_step = functools.partial(single.run, singledirect.Equipment.make(tools))
    launcher.serve(control, scratch, tools, run_step, namespaces=False, lasting=True)


def _keep(
    run_step: StepRunner, control: socket.socket, scratch: str, tools: Tools, parent: int
) -> NoReturn:
    """Hold the launcher: it dies with us, and we with the builder."""
    _settle(control, tools, parent)
    if run_step is init.run:  # an OCI runtime makes devices itself, or mounts them if refused
        _hand_devices_over(control)
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        launcher.serve(control, scratch, tools, run_step)
    control.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.waitpid(pid, 0)
    os._exit(0)


def _hand_devices_over(control: socket.socket) -> None:
    """Have the builder asked by every step to come that makes a device.

    Without, where a filter above us has such a listener already, the kernel refuses devices.
    """
    with contextlib.suppress(OSError):
        listener = syscalls.listen(seccomp.devices(syscalls.MACHINE))
        socket.send_fds(control, [b"l"], [listener])
        os.close(listener)


def _pump(reads: list[int], output: Callable[[int, bytes], None], nodes: Nodes) -> bytes:
    """Pass on output until the status is known and the pipes are drained; the status."""
    status_fd = reads[0]
    streams = {fd: number for number, fd in enumerate(reads) if number}
    poll = select.poll()
    for fd in reads:
        poll.register(fd, select.POLLIN)
    watched = _watch(poll, nodes, -1)
    status: bytes | None = None
    while status is None:
        for fd, _ in poll.poll():
            if fd == watched:
                nodes.attend()
                watched = _watch(poll, nodes, watched)
            elif fd == status_fd:
                status = os.read(fd, _READ_SIZE)
            elif data := os.read(fd, _READ_SIZE):
                output(streams[fd], data)
            else:
                poll.unregister(fd)
    # Every process of the step is dead, so what they wrote is in the pipes by now.
    for fd, number in streams.items():
        while data := _available(fd):
            output(number, data)
    return status


def _watch(poll: select.poll, nodes: Nodes, before: int) -> int:
    """Let what is polled be what `nodes` has to be attended to for now; its fd."""
    now = nodes.fd
    if now != before:
        if before >= 0:
            poll.unregister(before)
        if now >= 0:
            poll.register(now, select.POLLIN)
    return now


def _available(fd: int) -> bytes:
    try:
        return os.read(fd, _READ_SIZE)
    except BlockingIOError:
        return b""


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, _READ_SIZE):
        parts.append(part)
    return b"".join(parts)


def _outcome(status: bytes, report: bytes) -> Outcome:
    if not status:
        raise SandboxError("the launcher of the sandbox ended unexpectedly")
    if len(status) != launcher.STATUS.size:
        raise SandboxError(f"cannot start a step: {status.decode('utf-8', 'replace')}")
    (code,) = launcher.STATUS.unpack(status)
    try:
        told = wire.decode_report(report)
    except json.JSONDecodeError:
        told = None  # killed while writing it
    if told is None:
        if code != _KILLED:
            raise SandboxError(f"a step's first process ended early with status {code}")
        return Outcome(_KILLED)
    if told.error is not None:
        raise told.error
    return Outcome(code, told.stubs, told.recorded)
