"""The launcher: a small single-threaded process that forks one init per step.

Process 1 of a PID namespace of its own, so that its end is the end of every step; it ends when
the builder does. Talks to launch.py over one SEQPACKET socket: a request is an operation, a
step's number and, to run, its fds; an answer goes to the step's own status pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from typing import NoReturn

from builder.sandbox import direct, init, process, seccomp, syscalls, trampoline, wire
from cache.value import field, replace, value

StepRunner = Callable[["init.Descriptors", str, "process.Tools"], NoReturn]

RUN, KILL = b"R", b"K"
EVERY_STEP = 0  # the number that KILL takes for all; steps count from 1
REQUEST = struct.Struct("=cQ")
STATUS = struct.Struct("=i")
_MOST_IDLE = 2  # who waits for steps; more run side by side for a while only
MAX_FDS = 6  # spec, report, status, stdout, stderr and maybe stdin
_TITLE = b"init"
_ARG_START = 45  # field 48 of /proc/PID/stat, counted from the state (field 3)


@value
class _Step:
    pid: int
    number: int
    status: int
    running: direct.Running | None
    channel: socket.socket | None = None  # to a supervisor that may take further steps


@value
class _Launcher:
    control: socket.socket
    scratch: str
    tools: process.Tools
    run_step: StepRunner
    own_namespace: int  # -1 where steps get no PID namespace
    poll: select.poll
    direct: direct.Direct | None  # None where every step has an init of ours
    lasting: bool  # whether what runs steps takes further ones
    steps: dict[int, _Step] = field(default_factory=dict)  # by pidfd
    channels: dict[int, int] = field(default_factory=dict)  # of running steps, to their pidfds
    idle: list[tuple[int, _Step]] = field(default_factory=list)  # with the pidfd


def make_tools() -> process.Tools:
    """What every step needs and is made once; the caller closes the trampoline's fd.

    Raises:
        HostUnsupportedError: this machine or its settings do not allow it.
    """
    code = seccomp.program(syscalls.MACHINE)
    return process.Tools(
        (ctypes.c_char * len(code)).from_buffer_copy(code),
        trampoline.sealed(trampoline.image(syscalls.MACHINE)),
    )


def serve(
    control: socket.socket,
    scratch: str,
    tools: process.Tools,
    run_step: StepRunner = init.run,
    *,
    namespaces: bool = True,
    lasting: bool = False,
) -> NoReturn:
    """Serve requests until the builder's end of the socket closes; never returns.

    With `namespaces` each step is forked into a PID namespace of its own. With `lasting` what runs
    a step waits for another one if it can.
    """
    gc.disable()  # the builder's objects must not be finalised here
    _settle()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC) if namespaces else -1
    usual = namespaces and run_step is init.run
    quick = direct.Direct.make(scratch, tools) if usual else None
    launcher = _Launcher(control, scratch, tools, run_step, own, select.poll(), quick, lasting)
    launcher.poll.register(control, select.POLLIN)
    while True:
        for fd, _ in launcher.poll.poll():
            if fd in launcher.steps:
                _finish(launcher, fd)
            elif fd in launcher.channels:
                _done(launcher, fd)
            elif fd == control.fileno():
                _take(launcher)


def _settle() -> None:
    """Undo what the builder did to signals and streams."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    syscalls.settle_kept_signals()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    os.chdir("/")
    _forget_command_line()


def _forget_command_line() -> None:
    """Blank the builder's arguments and environment, which /proc/1/cmdline would show steps."""
    with open("/proc/self/stat", "rb") as stream:
        fields = stream.read().rpartition(b")")[2].split()
    start, end, env_start, env_end = (int(field) for field in fields[_ARG_START : _ARG_START + 4])
    if 0 < start < end <= env_start <= env_end:
        ctypes.memset(start, 0, env_end - start)
        ctypes.memmove(start, _TITLE, min(len(_TITLE), end - start - 1))
    with open("/proc/self/comm", "wb") as stream:
        stream.write(_TITLE)


def _take(launcher: _Launcher) -> None:
    data, fds, _, _ = socket.recv_fds(launcher.control, REQUEST.size, MAX_FDS)
    if not data:
        os._exit(0)  # the builder is gone or done; the kernel ends every step with us
    operation, number = REQUEST.unpack(data)
    if operation == KILL:
        for pidfd, step in launcher.steps.items():
            if number in (EVERY_STEP, step.number):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return
    _start(launcher, number, fds)


def _start(launcher: _Launcher, number: int, fds: list[int]) -> None:
    spec, report, status, stdout, stderr, *rest = fds
    descriptors = init.Descriptors(spec, report, stdout, stderr, rest[0] if rest else -1)
    try:
        if launcher.lasting:
            _start_lasting(launcher, descriptors, number, status)
            return
        running = _start_directly(launcher, descriptors)
        pid = running.pid if running is not None else _fork(launcher)
        if pid == 0:
            launcher.run_step(descriptors, launcher.scratch, launcher.tools)
        _watch(launcher, os.pidfd_open(pid), _Step(pid, number, status, running))
    except OSError as error:
        os.write(status, f"{error.filename or 'fork'}: {error.strerror}".encode())
        os.close(status)
    finally:
        for fd in (spec, report, stdout, stderr, *rest):
            os.close(fd)


def _watch(launcher: _Launcher, pidfd: int, step: _Step) -> None:
    launcher.steps[pidfd] = step
    launcher.poll.register(pidfd, select.POLLIN)
    if step.channel is not None:
        launcher.channels[step.channel.fileno()] = pidfd
        launcher.poll.register(step.channel, select.POLLIN)


def _unwatch(launcher: _Launcher, pidfd: int) -> _Step:
    step = launcher.steps.pop(pidfd)
    launcher.poll.unregister(pidfd)
    if step.channel is not None and launcher.channels.pop(step.channel.fileno(), None) is not None:
        launcher.poll.unregister(step.channel)
    return step


def _start_lasting(
    launcher: _Launcher, descriptors: init.Descriptors, number: int, status: int
) -> None:
    """Have a step run by who waits for one, else by a new process."""
    given = [fd for fd in descriptors.sent if fd >= 0]
    while launcher.idle:
        pidfd, waiting = launcher.idle.pop()
        try:
            assert waiting.channel is not None  # noqa: S101 - without one it is not kept
            socket.send_fds(waiting.channel, [b"R"], given)
        except OSError:  # it ended: killed by somebody
            _forget(pidfd, waiting)
            continue
        _watch(launcher, pidfd, replace(waiting, number=number, status=status))
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = _fork(launcher)
    if pid == 0:
        descriptors = replace(descriptors, further=theirs.detach())
        launcher.run_step(descriptors, launcher.scratch, launcher.tools)
    theirs.close()
    _watch(launcher, os.pidfd_open(pid), _Step(pid, number, status, None, ours))


def _done(launcher: _Launcher, channel: int) -> None:
    """A step is done, and who ran it waits for another; or has ended, which its pidfd tells."""
    pidfd = launcher.channels[channel]
    step = launcher.steps[pidfd]
    assert step.channel is not None  # noqa: S101 - it is that one
    data = step.channel.recv(STATUS.size)
    if not data:
        del launcher.channels[channel]
        launcher.poll.unregister(channel)
        return
    _unwatch(launcher, pidfd)
    _answer(step, *STATUS.unpack(data))
    if len(launcher.idle) < _MOST_IDLE:
        launcher.idle.append((pidfd, step))
    else:
        _forget(pidfd, step)


def _forget(pidfd: int, step: _Step) -> None:
    """Let go who waits for a step: it ends when it hears so."""
    if step.channel is not None:
        step.channel.close()
    os.waitpid(step.pid, 0)
    os.close(pidfd)


def _start_directly(launcher: _Launcher, descriptors: init.Descriptors) -> direct.Running | None:
    """Start a step without forking; None for one that needs more, or where that fails."""
    if launcher.direct is None:
        return None
    spec = wire.decode_spec(init.read_all(descriptors.spec))
    if not direct.fits(spec):
        return None
    try:
        return direct.start(launcher.direct, spec, descriptors)
    except OSError:
        return None


def _fork(launcher: _Launcher) -> int:
    """Fork, into a new PID namespace where steps have one."""
    if launcher.own_namespace < 0:
        return os.fork()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid:
            # Children to come start in ours again; only then can the next one get its own.
            syscalls.setns(launcher.own_namespace, syscalls.CLONE_NEWPID)
    return pid


def _finish(launcher: _Launcher, pidfd: int) -> None:
    step = _unwatch(launcher, pidfd)
    _, status = os.waitpid(step.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if step.running is not None:
        code = direct.finish(step.running, code)
    _answer(step, code)
    if step.channel is not None:
        step.channel.close()
    os.close(pidfd)


def _answer(step: _Step, code: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the builder stopped listening
        os.write(step.status, STATUS.pack(code if code >= 0 else 128 - code))
    os.close(step.status)
