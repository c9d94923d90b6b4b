"""One step under the engine, from its specification to its end: the loop that answers calls.

Runs in a process of its own, forked by the launcher, which has the step's first process as its
child. When every process of the step has ended it waits for another step, or ends. What a kind of
sandbox prepares, becomes and tells is given; this knows none of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import resource
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING, NoReturn, Protocol

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import init, limits, process, syscalls, wire
from builder.sandbox.engine import abi, answered, calllog, kernel, program, refusals
from builder.sandbox.engine.incoming import Polled, drain
from builder.sandbox.engine.step import CONTINUE, Step
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from builder.sandbox.engine.abi import Abi
    from builder.sandbox.engine.answered import Answers
    from builder.sandbox.engine.incoming import Incoming
    from builder.sandbox.engine.program import Plan
    from builder.sandbox.engine.step import Handler
    from builder.sandbox.spec import SandboxSpec

    Prepare = Callable[[SandboxSpec, str, process.Tools], "Ready"]

_PR_SET_CHILD_SUBREAPER = 36
_ALL_CHILDREN = 0x40000000  # __WALL
_MOST_FDS = 5  # spec, report, stdout, stderr and maybe stdin
_MOST_GROWTH = 64 << 10  # KiB; who came to need more does not wait for another step with it
_EVENT = 1  # POLLIN
_CREDENTIALS = struct.Struct("=3i")  # struct ucred


class Tasks(Protocol):
    """The processes of a step, as they come and go."""

    status: dict[int, int]
    """How those of our children that ended did."""

    def begin(self, child: int) -> None:
        """Take in the process that the engine is handed, which waits."""

    def reap(self) -> bool:
        """Handle everything that has happened to them; whether any are left."""

    def kill(self) -> None:
        """Kill what is left of the step."""


@value
class Ends:
    """What the first process is started with: the two ends of its socket, and our report."""

    ours: socket.socket
    theirs: socket.socket
    report: int


def _same(code: int) -> int:
    """Take the first process's exit code for the step's."""
    return code


@value
class Ready:
    """A step that can be started: `start` makes its first process, whose pid it gives.

    That process, or one of its children, does as hand_over() where the engine is to take over.
    `finish` gives the report when every process has ended, and says why when none was handed
    over; `code` gives the step's exit code by the first process's; `close` gives back what was
    taken for the step. `mirror` tells the library what it answers by, now and when what it returns
    is called. With `lasts` nothing of the step stays in this process but memory and open files.
    """

    step: Step
    handlers: Mapping[str, Handler]
    tasks: Tasks
    start: Callable[[Ends], int]
    finish: Callable[[], wire.Report]
    close: Callable[[], None]
    code: Callable[[int], int] = _same
    mirror: Callable[[Answers], Callable[[], None]] | None = None
    lasts: bool = False


def forked(
    become: Callable[[socket.socket], NoReturn], fork: Callable[[], int] = os.fork
) -> Callable[[Ends], int]:
    """Start a first process that is a copy of ours: `become` makes it another, given its socket."""

    def start(ends: Ends) -> int:
        child = fork()
        if child == 0:
            try:
                ends.ours.close()
                os.close(ends.report)
                become(ends.theirs)
            finally:
                os._exit(process.NOT_EXECUTABLE)
        return child

    return start


def serve(
    descriptors: init.Descriptors,
    scratch: str,
    tools: process.Tools,
    prepare: Prepare,
    kept: tuple[int, ...] = (),
) -> NoReturn:
    """Be the supervisor of a step to its end, and of further ones if we can.

    `kept` are fds of the launcher's that we need.
    """
    code = process.NOT_EXECUTABLE
    further = descriptors.further
    kept = (*kept, tools.trampoline, further) if further >= 0 else (*kept, tools.trampoline)
    try:
        gc.freeze()  # what the launcher has is not looked at again
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # the step has our uid
        before, memory = _rights(), _memory()
        while True:
            code, lasts = _serve_one(descriptors, scratch, tools, prepare, kept)
            if further < 0 or not lasts or not _is_free(before, memory):
                break
            descriptors = _next(further, code, kept)
    finally:
        os._exit(code)


def _serve_one(
    descriptors: init.Descriptors,
    scratch: str,
    tools: process.Tools,
    prepare: Prepare,
    kept: tuple[int, ...],
) -> tuple[int, bool]:
    """Serve a step; its exit code, and whether it left nothing behind in us."""
    code, lasts = process.NOT_EXECUTABLE, False
    report = descriptors.report
    try:
        init.arrange(descriptors, kept)
        spec = wire.decode_spec(init.read_all(descriptors.spec))
        os.close(descriptors.spec)
        limits.enter(spec)
        ready = prepare(spec, scratch, tools)
        try:
            code = _supervise(ready, report)
            told = ready.finish()
        finally:
            ready.close()
        os.write(report, wire.encode_report(told))
        lasts = ready.lasts and not (spec.cgroups or spec.processors)
    except (SandboxError, HostUnsupportedError) as error:
        os.write(report, wire.encode_report(wire.Report(error=error)))
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the launcher's code
        failure = SandboxError(f"cannot run the step: {error!r}")
        os.write(report, wire.encode_report(wire.Report(error=failure)))
    return code, lasts


def _rights() -> object:
    return os.getresuid(), os.getresgid(), os.getgroups()


def _memory() -> int:
    """The most that we ever had in use."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _is_free(before: object, memory: int) -> bool:
    """Whether nothing of a step is left that another one could meet, but for open files."""
    if _has_children():
        return False
    gc.collect()
    return _rights() == before and _memory() - memory < _MOST_GROWTH


def _has_children() -> bool:
    """Whether a child or a task that we trace lives on; those that ended are waited for."""
    try:
        while os.waitpid(-1, os.WNOHANG | _ALL_CHILDREN)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _next(further: int, code: int, kept: tuple[int, ...]) -> init.Descriptors:
    """Tell how the step ended, and wait for the next; without one, end."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for stream in range(3):
        os.dup2(null, stream)
    init.close_but(kept)  # the step's root among them
    channel = socket.socket(fileno=further)
    try:
        channel.sendall(struct.pack("=i", code))
        data, fds, _, _ = socket.recv_fds(channel, 1, _MOST_FDS)
    finally:
        channel.detach()
    if not data:
        os._exit(0)
    spec, report, stdout, stderr, *rest = fds
    return init.Descriptors(spec, report, stdout, stderr, rest[0] if rest else -1, further)


def hand_over(channel: socket.socket, plan: Plan, confine: Callable[[], None]) -> None:
    """In the step's first process: have the engine answer its calls from here on.

    `confine` is called when we are known to the supervisor, before the first call is answered.
    """
    code = program.program(abi.abi_of(syscalls.MACHINE), plan)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # its memory is read by the supervisor
    channel.sendall(b"d")
    channel.recv(1)  # known
    confine()
    listener = kernel.listen(code)
    socket.send_fds(channel, [b"l"], [listener])
    os.close(listener)
    channel.recv(1)  # answered
    channel.close()


def _supervise(ready: Ready, report: int) -> int:
    """Start the program and answer its calls until the last process is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    child = ready.start(Ends(ours, theirs, report))
    theirs.close()
    os.dup2(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), 0)
    # Taken over with signalfd: a notification and a signal are waited for together.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    signals = _signal_fd()
    ready.tasks.begin(_caller(ours) or _give_up(ready))
    ours.sendall(b"1")
    _wait_for(ours, signals, ready.tasks)
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        _give_up(ready)
    ready.step.listener = fds[0]
    ours.sendall(b"2")
    _answer_calls(ready, abi.abi_of(syscalls.MACHINE), child, signals)
    return ready.code(_exit_code(ready.tasks.status.get(child, 0)))


def _caller(channel: socket.socket) -> int:
    """The process, as we number it, that says that it waits; 0 when it ended instead."""
    data, credentials, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
    pid: int = _CREDENTIALS.unpack(credentials[0][2])[0] if data else 0
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
    return pid


def _give_up(ready: Ready) -> NoReturn:
    """Say why the first process ended before it could be supervised."""
    ready.tasks.kill()
    why = ready.finish().error
    raise why or SandboxError("the step's first process ended before it could be supervised")


def _wait_for(channel: socket.socket, signals: int, tasks: Tasks) -> None:
    """Wait for the listener while the first process is being watched already."""
    poll = select.poll()
    poll.register(channel, _EVENT)
    poll.register(signals, _EVENT)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if signals in ready:
            drain(signals)
            if not tasks.reap():
                return
        if channel.fileno() in ready:
            return


def _signal_fd() -> int:
    mask = struct.pack("=Q", 1 << (signal.SIGCHLD - 1))
    number = {"x86_64": 289, "aarch64": 74}[syscalls.MACHINE]
    call = ctypes.CDLL(None, use_errno=True).syscall
    fd: int = call(
        ctypes.c_long(number),
        ctypes.c_long(-1),
        mask,
        ctypes.c_long(8),
        ctypes.c_long(os.O_NONBLOCK | os.O_CLOEXEC),
    )
    return fd


def _answer_calls(ready: Ready, table: Abi, child: int, signals: int) -> None:
    step, tasks, known = ready.step, ready.tasks, ready.handlers
    names = table.names()
    handlers = {number: known[name] for number, name in names.items() if name in known}
    log = calllog.from_environment()
    if log is not None:
        handlers = {number: log.handler(names[number], act) for number, act in handlers.items()}
    kernel.wake_in_turn(step.listener)
    with _incoming(ready, signals, is_logged=log is not None) as incoming:
        while True:
            request = incoming.next()
            if request is not None:
                _answer(step, request, handlers.get(request.number, refusals.unknown))
                continue
            if child in tasks.status:
                tasks.kill()
            if not tasks.reap():
                return
            if child in tasks.status:
                tasks.kill()


@contextlib.contextmanager
def _incoming(ready: Ready, signals: int, *, is_logged: bool) -> Iterator[Incoming]:
    """Calls by the library that answers most of them itself, where there is one."""
    listener = ready.step.listener
    library = None if is_logged or ready.mirror is None else answered.load()
    if library is None or ready.mirror is None:
        yield Polled(listener, signals)
        return
    known = answered.Answers(library, listener, signals)
    try:
        yield answered.Sifted(known, ready.step.records, signals, ready.mirror)
    finally:
        known.close()


def _answer(step: Step, request: kernel.Request, handler: Handler) -> None:
    try:
        result = handler(step, request)
    except OSError as error:
        kernel.answer(step.listener, request.id, 0, error.errno or errno.EIO)
        return
    except (ValueError, OverflowError, struct.error):  # numbers that are none of the call's
        kernel.answer(step.listener, request.id, 0, errno.EINVAL)
        return
    except SandboxError as error:
        os.write(2, f"pybuild: {error}\n".encode())
        kernel.answer(step.listener, request.id, 0, errno.EPERM)
        return
    if result == CONTINUE:
        kernel.proceed(step.listener, request.id)
    elif result is not None:
        kernel.answer(step.listener, request.id, result)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
