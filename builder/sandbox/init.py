"""Process 1 of a step: makes the root, changes into it, starts the program, reaps, ends.

Standard library only, and everything it needs is imported before the root changes. It keeps
its capabilities but is not dumpable, so the step can neither read nor trace it (D04, D05);
signals from inside do not reach it. It ends with the program's status, which ends whatever the
program left running (D23).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, NoReturn

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import (
    credentials,
    limits,
    mounts,
    overlay,
    process,
    syscalls,
    system,
    targets,
    wire,
)
from builder.sandbox.loopback import raise_loopback
from builder.sandbox.spec import MemoryFile, NetworkMode, Overlay
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.spec import SandboxSpec

    MountRest = Callable[[targets.Root, str, mounts.Scratch, SandboxSpec], None]
    StepRun = Callable[[SandboxSpec, str, int, process.Tools], int]

_MAX_ACCOUNT_FILE = 10 * 1024 * 1024  # of /etc/passwd and /etc/group (E11)
_OOM_RAISE = 200  # the step is to die before the builder
_MAX_OOM = 1000
_READ_SIZE = 65536
_ERRNO_SIZE = 8
_AFTER_STREAMS = 3


@value
class Descriptors:
    """What the builder sent for a step. `stdin` is -1 for none.

    `further` is the socket by which who runs it may be sent further steps, -1 for none.
    """

    spec: int
    report: int
    stdout: int
    stderr: int
    stdin: int
    further: int = -1

    @property
    def sent(self) -> tuple[int, ...]:
        """Those that come with each step."""
        return self.spec, self.report, self.stdout, self.stderr, self.stdin


@value
class Ready:
    """A root that can be started in."""

    root: targets.Root
    working_directory: int
    credentials: credentials.Credentials


def run(descriptors: Descriptors, scratch: str, tools: process.Tools) -> NoReturn:
    """Be process 1 of a step to its end."""
    serve(descriptors, scratch, tools, _run_step)


def _run_step(spec: SandboxSpec, scratch: str, report_fd: int, tools: process.Tools) -> int:
    ready = prepare(spec, scratch, mount_everything)
    enter(ready)

    def become(error_fd: int) -> NoReturn:
        process.become(spec, ready.credentials, tools, error_fd)

    def started() -> None:
        report(report_fd, wire.Report(stubs=tuple(reversed(ready.root.stubs))))
        os.close(report_fd)

    return supervise(spec, become, started)


def serve(
    descriptors: Descriptors, scratch: str, tools: process.Tools, run_step: StepRun
) -> NoReturn:
    """Take a specification, have it run, and report what goes wrong; never returns."""

    def run_it() -> int:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
        arrange(descriptors, (tools.trampoline,))
        spec = wire.decode_spec(read_all(descriptors.spec))
        os.close(descriptors.spec)
        limits.enter(spec)
        return run_step(spec, scratch, descriptors.report, tools)

    guarded(run_it, descriptors.report)


def guarded(run_it: Callable[[], int], report_fd: int) -> NoReturn:
    """End with the status that `run_it` gives, and report what goes wrong."""
    code = process.NOT_EXECUTABLE
    try:
        code = run_it()
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the launcher's code
        report(report_fd, explained(error))
    finally:
        os._exit(code)


def explained(error: BaseException) -> wire.Report:
    """What to report of an error."""
    if isinstance(error, (SandboxError, HostUnsupportedError)):
        return wire.Report(error=error)
    if not isinstance(error, OSError):
        return wire.Report(error=SandboxError(f"sandbox bug: {error!r}"))
    reason = (error.strerror or str(error)).lower()
    where = f": {error.filename}" if error.filename else ""
    return wire.Report(error=SandboxError(f"cannot set up the sandbox: {reason}{where}"))


def report(fd: int, told: wire.Report) -> None:
    """Say what came of a step."""
    os.write(fd, wire.encode_report(told))


def arrange(descriptors: Descriptors, kept: tuple[int, ...]) -> None:
    """Put the standard streams in place and close what belongs to the launcher, but for `kept`."""
    stdin = descriptors.stdin
    if stdin < 0:
        stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    for target, fd in enumerate((stdin, descriptors.stdout, descriptors.stderr)):
        os.dup2(fd, target, inheritable=True)
    close_but((descriptors.spec, descriptors.report, *kept))


def close_but(kept: tuple[int, ...]) -> None:
    """Close all but the standard streams and `kept`."""
    first = _AFTER_STREAMS
    for fd in sorted(kept):
        if fd > first:
            os.closerange(first, fd)
        first = max(first, fd + 1)
    syscalls.close_from(first)


def read_all(fd: int) -> bytes:
    """Everything in a file, from its start."""
    os.lseek(fd, 0, os.SEEK_SET)
    parts = []
    while part := os.read(fd, _READ_SIZE):
        parts.append(part)
    return b"".join(parts)


def prepare(
    spec: SandboxSpec, scratch_path: str, mount_rest: MountRest, *, recording: bool = False
) -> Ready:
    """Make the root of a step and everything in it; `mount_rest` does so after the root's tree.

    With `recording`, owners of what is made are noted in the root instead of given to the kernel.

    Raises:
        SandboxError: the specification cannot be met.
    """
    scratch = leave(scratch_path, spec.network, spec.netns)
    return finish(spec, scratch, mount_rest, recording=recording)[0]


def finish(
    spec: SandboxSpec, scratch: mounts.Scratch, mount_rest: MountRest, *, recording: bool = False
) -> tuple[Ready, str]:
    """Make the root once the namespaces are those of the step; also gives the root's path.

    Raises:
        SandboxError: the specification cannot be met.
    """
    if not isinstance(spec.root, Overlay):
        raise SandboxError("this sandbox needs an overlay as the root of a step")
    try:
        socket.sethostname(spec.hostname)
    except (OSError, ValueError) as error:
        raise SandboxError(f'cannot set the host name "{spec.hostname[:64]}"') from error
    root_path = scratch.directory()
    lowers = (*spec.root.lowers, *spec.root.beneath)
    changes = (spec.root.upper, spec.root.work)
    overlay.mount_overlay(root_path, spec.root.base, lowers, changes)
    root_fd = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    root = targets.Root(root_fd, owned=[] if recording else None)
    try:
        owner = owner_of(spec, root)
        mount_rest(root, root_path, scratch, spec)
        directory = targets.working_directory(root, spec.process.cwd, (owner.uid, owner.gid))
    except BaseException:
        os.close(root.fd)
        raise
    return Ready(root, directory, owner), root_path


def owner_of(spec: SandboxSpec, root: targets.Root) -> credentials.Credentials:
    """Who a step runs as, by the account files of its root.

    Raises:
        SandboxError: nobody there has that name.
    """
    return credentials.resolve(
        spec.process.user,
        targets.read_file(root, "etc/passwd", _MAX_ACCOUNT_FILE),
        targets.read_file(root, "etc/group", _MAX_ACCOUNT_FILE),
    )


def name_files(spec: SandboxSpec) -> tuple[MemoryFile, ...]:
    """The files by which a step finds names."""
    files = (("/etc/resolv.conf", spec.resolv_conf), ("/etc/hosts", spec.hosts))
    return tuple(MemoryFile(path, data, mode=0o644) for path, data in files if data)


def mount_everything(
    root: targets.Root,
    root_path: str,
    scratch: mounts.Scratch,
    spec: SandboxSpec,
    mount_proc: system.MountProc = system.mount_proc,
) -> None:
    """Mount the kernel's views and what the step asked for."""
    system.mount_system(root, root_path, scratch, spec, mount_proc)
    for mount in (*name_files(spec), *spec.mounts):
        mounts.make_mount(root, scratch, mount)


def leave(
    scratch_path: str, network: NetworkMode = NetworkMode.HOST, netns: str = ""
) -> mounts.Scratch:
    """Leave the launcher's namespaces, and begin to mount in those of the step."""
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    if network is NetworkMode.NONE:
        flags |= syscalls.CLONE_NEWNET
    if network is NetworkMode.SANDBOX:
        _enter_network(netns)
    syscalls.unshare(flags)
    with contextlib.suppress(OSError):  # a kernel without them has nothing to hide there
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    if network is NetworkMode.NONE:
        raise_loopback()
    syscalls.mount(
        "scratch", scratch_path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=700"
    )
    return mounts.Scratch(scratch_path)


def _enter_network(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
    finally:
        os.close(fd)


def die_first() -> None:
    """Have the kernel, when memory runs out, choose the step before the builder."""
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as stream:
        stream.write(b"%d" % score_of_steps())


def score_of_steps() -> int:
    """How readily the kernel is to end a step, by how readily it would end the caller."""
    with open("/proc/self/oom_score_adj", "rb", buffering=0) as stream:
        return min(_MAX_OOM, int(stream.read(16) or b"0") + _OOM_RAISE)


def enter(ready: Ready) -> None:
    """Change the root; afterwards nothing of the host has a name any more."""
    die_first()
    os.fchdir(ready.root.fd)
    syscalls.pivot_root_here()
    os.fchdir(ready.working_directory)
    os.close(ready.root.fd)
    os.close(ready.working_directory)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def supervise(
    spec: SandboxSpec, become: Callable[[int], NoReturn], started: Callable[[], None]
) -> int:
    """Start the program, tell that it runs, reap until it ends; its status.

    `become` turns a fork of ours into it, and is given the fd of a pipe for what goes wrong.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(write_end)
        finally:
            os._exit(process.NOT_EXECUTABLE)
    os.close(write_end)
    trouble = os.read(read_end, _READ_SIZE)  # ends when the program was executed
    if trouble.startswith(process.SETUP_FAILED):
        text = trouble[1:].decode("utf-8", "replace").lower()
        raise SandboxError(f"cannot set up the process: {text}")
    started()
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            break
    if len(trouble) == _ERRNO_SIZE:
        reason = -struct.unpack("=q", trouble)[0]
        code, text = process.explain(spec.process.argv[0], reason)
        os.write(2, text.encode("utf-8", "surrogateescape"))
        return code
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
