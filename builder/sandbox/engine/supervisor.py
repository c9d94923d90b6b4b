"""One step under the engine, from its specification to its end: the loop that answers calls.

Runs in a process of its own, forked by the launcher, which has the step's first process as its
child. It ends when every process of the step has.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING, NoReturn

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import credentials, init, limits, process, syscalls, targets, wire
from builder.sandbox.engine import (
    abi,
    files,
    ids,
    kernel,
    landlock,
    metadata,
    opening,
    processes,
    program,
    xattrs,
)
from builder.sandbox.engine.identities import Identities, Identity
from builder.sandbox.engine.places import Places
from builder.sandbox.engine.records import Record, Records
from builder.sandbox.engine.step import CONTINUE, Step
from builder.sandbox.engine.tracer import TRACED, Tracer
from builder.sandbox.engine.view import View
from builder.sandbox.spec import NetworkMode, PlainRoot, Recorded
from cache.value import value

if TYPE_CHECKING:
    from builder.sandbox.engine.abi import Abi
    from builder.sandbox.engine.step import Handler
    from builder.sandbox.spec import SandboxSpec

_PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 38, 36
_MAX_ACCOUNT_FILE = 10 * 1024 * 1024
_EVENT = 1  # POLLIN
_NOT_IMPLEMENTED, _NOT_PERMITTED = errno.ENOSYS, errno.EPERM

# Path calls nobody needs: an older way is tried by who gets ENOSYS.
_ABSENT = ("openat2", "fanotify_mark", "open_by_handle_at", "uselib", "setxattrat", "getxattrat",
           "listxattrat", "removexattrat", "open_tree", "fsopen", "fspick", "move_mount",
           "mount_setattr", "name_to_handle_at")  # fmt: skip
_REFUSED = ("mount", "umount2", "pivot_root", "swapon", "swapoff", "acct", "quotactl", "unshare",
            "setns")  # fmt: skip

HANDLERS: dict[str, Handler] = {
    **opening.CALLS,
    **files.CALLS,
    **metadata.CALLS,
    **xattrs.CALLS,
    **ids.CALLS,
    **processes.CALLS,
}


def plan() -> program.Plan:
    """Everything that names a file or a process is answered here."""
    return program.Plan(
        notify=tuple(HANDLERS),
        trace=TRACED,
        refuse=(
            *((name, _NOT_IMPLEMENTED) for name in _ABSENT),
            *((name, _NOT_PERMITTED) for name in _REFUSED),
        ),
    )


@value
class _Ready:
    spec: SandboxSpec
    step: Step
    root: targets.Root
    places: Places
    directory: bytes  # of the host, to begin in
    owner: credentials.Credentials


def run(descriptors: init.Descriptors, scratch: str, tools: process.Tools) -> NoReturn:
    """Be a step's supervisor to its end."""
    code = process.NOT_EXECUTABLE
    report = descriptors.report
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # the step has our uid
        init.arrange(descriptors, tools.trampoline)
        spec = wire.decode_spec(init.read_all(descriptors.spec))
        os.close(descriptors.spec)
        limits.enter(spec)
        ready = _prepare(spec, scratch)
        try:
            code = _supervise(ready, report)
        finally:
            ready.places.close()
        told = wire.Report(tuple(reversed(ready.root.stubs)), tuple(_told(ready.step.records)))
        os.write(report, wire.encode_report(told))
    except (SandboxError, HostUnsupportedError) as error:
        os.write(report, wire.encode_report(wire.Report(error=error)))
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the launcher's code
        failure = SandboxError(f"cannot run the step: {error!r}")
        os.write(report, wire.encode_report(wire.Report(error=failure)))
    finally:
        os._exit(code)


def _prepare(spec: SandboxSpec, scratch: str) -> _Ready:
    if not isinstance(spec.root, PlainRoot):
        raise SandboxError("this sandbox needs a plain directory as the root of a step")
    if spec.network is NetworkMode.NONE:
        raise HostUnsupportedError(
            "no network of its own can be given to a step here",
            hint="leave --network=none out, or run where user namespaces are allowed:"
            " see `pybuild doctor`",
        )
    if spec.insecure:
        raise HostUnsupportedError(
            "--security=insecure cannot be had without namespaces",
            hint="leave it out, or run where user namespaces are allowed: see `pybuild doctor`",
        )
    os.umask(0)
    path = os.fsencode(spec.root.path)
    root = targets.Root(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    owner = credentials.resolve(
        spec.process.user,
        targets.read_file(root, "etc/passwd", _MAX_ACCOUNT_FILE),
        targets.read_file(root, "etc/group", _MAX_ACCOUNT_FILE),
    )
    records = Records(os.geteuid(), os.getegid())
    places = Places(root, path, os.fsencode(scratch), records)
    places.add_system(spec)
    for mount in spec.mounts:
        places.add(mount)
    first = Identity(owner.uid, owner.uid, owner.uid, owner.gid, owner.gid, owner.gid, owner.groups)
    step = Step(-1, {}, records, Identities(first), hostname=spec.hostname.encode())
    step.views[b""] = View(path, places.table, step.is_ours, step.process_of)
    _seed(root, records, spec.recorded)
    directory = places.working_directory(spec.process.cwd, (owner.uid, owner.gid))
    return _Ready(spec, step, root, places, directory, owner)


def _seed(root: targets.Root, records: Records, seeds: tuple[Recorded, ...]) -> None:
    """Record what the tree's files are meant to be, by the inodes they have here."""
    for seed in seeds:
        path = os.fsencode(seed.name)
        try:
            status = os.stat(path, dir_fd=root.fd, follow_symlinks=False)
        except OSError:
            continue  # removed since: nothing is there to describe
        record = records.make((status.st_dev, status.st_ino))
        record.uid, record.gid, record.mode = seed.uid, seed.gid, seed.mode
        record.device = os.makedev(*seed.device)
        record.xattrs.update((os.fsencode(name), data) for name, data in seed.xattrs)


def _told(records: Records) -> list[Recorded]:
    found = []
    for (device, inode), record in records:
        if record == Record():
            continue
        numbers = os.major(record.device), os.minor(record.device)
        xattrs = tuple((os.fsdecode(n), data) for n, data in sorted(record.xattrs.items()))
        found.append(
            Recorded(f"{device}:{inode}", record.uid, record.gid, record.mode, numbers, xattrs)
        )
    return found


def _supervise(ready: _Ready, report: int) -> int:
    """Start the program and answer its calls until the last process is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    table = abi.abi_of(syscalls.MACHINE)
    code = program.program(table, plan())
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            os.close(report)
            _become(ready, theirs, code)
        finally:
            os._exit(process.NOT_EXECUTABLE)
    theirs.close()
    os.dup2(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), 0)
    tracer = Tracer(ready.step, table)
    # Taken over with signalfd: a notification and a signal are waited for together.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    signals = _signal_fd()
    ours.recv(1)  # it may be traced
    tracer.seize(child)
    ours.sendall(b"1")
    _wait_for(ours, signals, tracer)
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        tracer.kill()
        raise SandboxError("the step's first process ended before it could be supervised")
    ready.step.listener = fds[0]
    ours.sendall(b"2")
    _answer_calls(ready.step, table, tracer, child, signals)
    return _exit_code(tracer.status.get(child, 0))


def _wait_for(channel: socket.socket, signals: int, tracer: Tracer) -> None:
    """Wait for the listener while the first process is being traced already."""
    poll = select.poll()
    poll.register(channel, _EVENT)
    poll.register(signals, _EVENT)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if signals in ready:
            _drain(signals)
            if not tracer.reap():
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


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 4096)


def _answer_calls(step: Step, table: Abi, tracer: Tracer, child: int, signals: int) -> None:
    names = table.names()
    handlers = {number: HANDLERS[name] for number, name in names.items() if name in HANDLERS}
    listener = step.listener
    poll = select.poll()
    poll.register(listener, _EVENT)
    poll.register(signals, _EVENT)
    while True:
        for fd, events in poll.poll():
            if fd == signals:
                _drain(signals)
                if child in tracer.status:
                    tracer.kill()
                if not tracer.reap():
                    return
                if child in tracer.status:
                    tracer.kill()
            elif events & _EVENT:
                request = kernel.receive(listener)
                if request is not None:
                    _answer(step, request, handlers[request.number])
            else:
                poll.unregister(listener)  # nobody is left to ask


def _answer(step: Step, request: kernel.Request, handler: Handler) -> None:
    try:
        result = handler(step, request)
    except OSError as error:
        kernel.answer(step.listener, request.id, 0, error.errno or errno.EIO)
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


def _become(ready: _Ready, channel: socket.socket, code: bytes) -> NoReturn:
    """Turn the calling process into the step's program, under the engine from here on."""
    spec = ready.spec
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # its memory is read by the supervisor
    channel.sendall(b"d")
    os.setsid()
    os.chdir(ready.directory)
    channel.recv(1)  # traced
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    limits.apply(spec.ulimits)
    landlock.restrict(ready.places.writable(), ready.places.readable())
    listener = kernel.listen(code)
    socket.send_fds(channel, [b"l"], [listener])
    os.close(listener)
    channel.recv(1)  # answered
    channel.close()
    os.closerange(3, 1 << 16)
    variables = process.environment(spec.process, ready.owner)
    search = variables.get("PATH") or process.DEFAULT_PATH
    path, reason = process.find_program(spec.process.argv[0], search)
    if reason:
        process.fail(spec.process.argv[0], reason)
    try:
        os.execve(path, spec.process.argv, variables)  # noqa: S606 - that is the point
    except OSError as error:
        process.fail(spec.process.argv[0], error.errno)
    except ValueError:
        process.fail(spec.process.argv[0], errno.EINVAL)
