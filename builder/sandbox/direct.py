"""Steps prepared by the launcher itself and finished by the interpreter: no Python is forked.

The launcher enters the namespaces of the step, makes its root, and is back in its own before
anything of the image runs; the interpreter, process 1 of the step's PID namespace, mounts /proc,
changes the root and starts the program. Only for steps like most; init.py runs the others, and
all of them where this is not to be had. Must not know how steps are asked for.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Self

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import (
    init,
    interpreter,
    limits,
    process,
    syscalls,
    system,
    trampoline,
    wire,
)
from builder.sandbox.script import NEXT, Filter, Label, Script, Slot, Texts
from builder.sandbox.spec import NetworkMode, Overlay
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.sandbox.credentials import Credentials
    from builder.sandbox.init import Descriptors
    from builder.sandbox.mounts import Scratch
    from builder.sandbox.spec import SandboxSpec

_NAMESPACES = ("mnt", "ipc", "uts", "cgroup", "pid")
_KINDS = {
    "mnt": syscalls.CLONE_NEWNS,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "pid": syscalls.CLONE_NEWPID,
}
_FREE = 10  # descriptors from here on are not in the way of those the interpreter gets
_MOST_TEXT = 1 << 20  # bytes of arguments and variables; more are rare
_MOST_DIRECTORIES = 64  # of PATH
_LAST_CAPABILITY = 63
_SPAWNED_IGNORING = (32, 33)  # signals that the C library ignores in what it spawns
_ACTION, _MASK = 32, 8  # bytes of what the kernel takes for a signal's action, and of its mask
_RECORD = struct.Struct("=Qq")
_PROGRAM, _END = 1, 2  # records besides those of errors, which begin with an address
_STATUS, _WAITED, _CHILD, _FILE, _REFUSED, _ANSWER, _OWN = 24, 32, 40, 48, 56, 64, 72  # slots
_GO_ON = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_SETUP_FAILED = "cannot set up the process"


@value
class Home:
    """The launcher's own namespaces and root."""

    namespaces: tuple[tuple[int, int], ...]
    root: int

    @classmethod
    def here(cls) -> Self:
        """Those of the calling process, made its own first: others cannot be entered again."""
        syscalls.unshare(syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
        with contextlib.suppress(OSError):  # a kernel without such namespaces
            syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        flags = os.O_RDONLY | os.O_CLOEXEC
        opened = []
        for name in _NAMESPACES:
            with contextlib.suppress(FileNotFoundError):  # a kernel without such namespaces
                opened.append((os.open(f"/proc/self/ns/{name}", flags), _KINDS[name]))
        return cls(tuple(opened), os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def enter(self) -> None:
        """Come back; where that fails nothing is right any more, so the launcher ends."""
        try:
            for fd, kind in self.namespaces:
                syscalls.setns(fd, kind)
            os.fchdir(self.root)
            os.chroot(".")
        except OSError:
            os._exit(1)


@value
class Direct:
    """What such steps need and is made once."""

    home: Home
    program: int
    null: int
    becoming: Script
    becoming_built: bytes
    scratch: str

    @classmethod
    def make(cls, scratch: str, tools: process.Tools) -> Self | None:
        """Prepare in the launcher; None where it cannot be had."""
        if not interpreter.runs_on(syscalls.MACHINE):
            return None
        becoming = _becoming(bytes(tools.filter))
        built = becoming.build(syscalls.MACHINE, interpreter.SECOND)
        if len(built) > interpreter.THIRD_AT:
            return None
        try:
            files = (
                trampoline.sealed(interpreter.image(syscalls.MACHINE)),
                os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC),
            )
            program, null = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE) for fd in files)
            for fd in files:
                os.close(fd)
            return cls(Home.here(), program, null, becoming, built, scratch)
        except (OSError, HostUnsupportedError):
            return None


@value
class Running:
    """A step on its way. The descriptors are its own."""

    pid: int
    results: int
    report: int
    stderr: int
    program: str
    scripts: tuple[tuple[int, Script], ...]  # by the address each lies at
    is_prepared: bool


def fits(spec: SandboxSpec) -> bool:
    """Whether a step can be run like this."""
    texts = [*spec.process.argv, *(part for pair in spec.process.env for part in pair)]
    directories = dict(spec.process.env).get("PATH", "").count(":")
    return (
        spec.network is NetworkMode.HOST
        and isinstance(spec.root, Overlay)
        and not (spec.insecure or spec.interactive)
        and not (spec.cgroups or spec.processors or spec.ulimits)
        and sum(map(len, texts)) < _MOST_TEXT
        and directories < _MOST_DIRECTORIES
        and not any("\0" in text for text in texts)
        and not any("=" in name or not name for name, _ in spec.process.env)
    )


def start(direct: Direct, spec: SandboxSpec, descriptors: Descriptors) -> Running:
    """Prepare and start a step. What goes wrong with it is in its report.

    Raises:
        OSError: no process could be started.
    """
    results = os.memfd_create("results", os.MFD_CLOEXEC)
    text = os.memfd_create("script", os.MFD_CLOEXEC)
    ours, theirs = socket.socketpair()
    script = Script()
    pid, is_prepared = 0, False
    try:
        scratch = init.leave(direct.scratch)
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = _spawn(direct, descriptors, results, theirs.fileno(), text)
        theirs.close()
        with _told(descriptors.report):
            _prepare(direct, spec, script, scratch, _Talk(ours, text), descriptors.report)
            is_prepared = True
    except BaseException:
        os.close(results)
        raise
    finally:
        direct.home.enter()
        if is_prepared:
            with contextlib.suppress(OSError):  # it has ended, which shows in its results
                ours.send(b"2")  # nothing of ours is in the step's namespaces any more
        ours.close()
        theirs.close()
        os.close(text)
    report, stderr = (os.dup(fd) for fd in (descriptors.report, descriptors.stderr))
    scripts = ((interpreter.SECOND, direct.becoming), (interpreter.THIRD, script))
    return Running(pid, results, report, stderr, spec.process.argv[0], scripts, is_prepared)


def finish(running: Running, code: int) -> int:
    """The exit code of a step whose process 1 ended with `code`; tells what went wrong."""
    try:
        return _outcome(running, code)
    finally:
        for fd in (running.results, running.report, running.stderr):
            os.close(fd)


def _outcome(running: Running, code: int) -> int:
    if not running.is_prepared:
        return process.NOT_EXECUTABLE
    started = True
    data = os.pread(running.results, 4 * _RECORD.size, 0)
    for which, number in _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]):
        if which == _END:
            ended = os.waitstatus_to_exitcode(number)
            return (ended if ended >= 0 else 128 - ended) if started else code
        started = False
        if which == _PROGRAM:
            code, text = process.explain(running.program, -number)
            os.write(running.stderr, text.encode("utf-8", "surrogateescape"))
        else:
            _report_failure(running, which, number)
            code = process.NOT_EXECUTABLE
    return code


def _report_failure(running: Running, address: int, number: int) -> None:
    """Replace the report by one of an error."""
    names = [script.name_at(base, address) for base, script in running.scripts]
    name = "".join(names) or "start"
    error = SandboxError(f"{_SETUP_FAILED}: {name}: {os.strerror(-number).lower()}")
    os.ftruncate(running.report, 0)
    os.lseek(running.report, 0, os.SEEK_SET)
    init.report(running.report, wire.Report(error=error))


@value
class _Talk:
    """The socket to the interpreter and the file it reads scripts from."""

    control: socket.socket
    text: int

    def mount_proc(self, target: str) -> None:
        """Have the step's own /proc mounted, which only a process in its namespace can."""
        script = Script()
        source, flags = b"proc\0", system.STRICT
        script.call(
            "mount",
            source,
            os.fsencode(target) + b"\0",
            source,
            flags,
            store=_ANSWER,
            on_error=NEXT,
        )
        script.call("write", interpreter.GO, interpreter.SLOTS + _ANSWER, 8)
        script.call("read", interpreter.GO, interpreter.SLOTS, 1, on_zero="end")
        room = interpreter.SECOND_ROOM
        script.call("pread64", interpreter.SCRIPT, interpreter.SECOND, room, interpreter.FIRST_ROOM)
        script.call("jump", 0, 0, interpreter.THIRD)
        script.label("end")
        script.call("exit_group", process.NOT_EXECUTABLE)
        os.pwrite(self.text, script.build(syscalls.MACHINE, interpreter.FIRST), 0)
        self.control.send(b"1")
        answer = self.control.recv(8)
        if len(answer) != 8:  # noqa: PLR2004 - a slot
            raise SandboxError("a step's first process ended early")
        number = -int.from_bytes(answer, "little", signed=True)
        if number:
            raise OSError(number, os.strerror(number), "mount proc")


def _spawn(direct: Direct, descriptors: Descriptors, results: int, control: int, text: int) -> int:
    """Start the interpreter in the namespaces of the step; its pid."""
    wanted = (direct.null, descriptors.stdout, descriptors.stderr, results, control, text)
    sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FREE) for fd in wanted]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(sources)]
        path = f"/proc/self/fd/{direct.program}"
        return os.posix_spawn(path, ["init"], {}, file_actions=actions)
    finally:
        for fd in sources:
            os.close(fd)


@contextlib.contextmanager
def _told(report: int) -> Iterator[None]:
    """Report what goes wrong."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the launcher goes on with other steps
        init.report(report, init.explained(error))


def _prepare(
    direct: Direct, spec: SandboxSpec, script: Script, scratch: Scratch, talk: _Talk, report: int
) -> None:
    """Make the root, and write the script that starts the program in it."""
    mount = functools.partial(init.mount_everything, mount_proc=talk.mount_proc)
    ready, root_path = init.finish(spec, scratch, mount)
    os.close(ready.working_directory)
    os.close(ready.root.fd)
    _init(script, spec, root_path)
    script.label("child")
    _take_ids(script, ready.credentials)
    _execute(script, spec, ready.credentials)
    data = script.build(syscalls.MACHINE, interpreter.THIRD)
    os.pwrite(talk.text, direct.becoming_built, interpreter.FIRST_ROOM)
    os.pwrite(talk.text, data, interpreter.FIRST_ROOM + interpreter.THIRD_AT)
    init.report(report, wire.Report(stubs=tuple(reversed(ready.root.stubs))))


def _init(script: Script, spec: SandboxSpec, root_path: str) -> None:
    """What process 1 does, which cannot fail in the ordinary way once the root is changed."""
    slots = interpreter.SLOTS
    script.call("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    score = b"%d" % init.score_of_steps()
    path = b"/proc/self/oom_score_adj\0"
    script.call("openat", -100, path, os.O_WRONLY | os.O_CLOEXEC, store=_FILE)  # AT_FDCWD
    script.call("write", Slot(_FILE), score, len(score))
    script.call("close", Slot(_FILE))
    script.call("chdir", os.fsencode(root_path) + b"\0")
    script.call("pivot_root", b".\0", b".\0")
    script.call("umount2", b".\0", syscalls.MNT_DETACH)
    script.call("chdir", os.fsencode(spec.process.cwd) + b"\0")
    script.call("prctl", syscalls.PR_SET_NAME, b"init\0")
    script.call("prctl", syscalls.PR_SET_DUMPABLE, 0)
    script.store(_OWN, Label("child"))
    script.call("clone", signal.SIGCHLD, store=_CHILD, on_zero=interpreter.SECOND)
    script.label("reap")
    script.call("wait4", -1, slots + _STATUS, store=_WAITED)
    script.jump("ended", Slot(_WAITED), Slot(_CHILD))
    script.jump("reap")
    script.label("ended")
    _tell(script, _END, Slot(_STATUS))
    script.call("exit_group", 0)


def _tell(script: Script, which: int, number: Slot) -> None:
    script.store(interpreter.REPORT, which)
    script.store(interpreter.REPORT + 8, number)
    script.call("write", interpreter.RESULTS, interpreter.SLOTS + interpreter.REPORT, _RECORD.size)


def _becoming(filter_code: bytes) -> Script:
    """What process.become() does first: limits, keyring, filter, capabilities. For any step."""
    script = Script()
    script.call("close_range", interpreter.GO, 0xFFFFFFFF, 0)
    for number in _SPAWNED_IGNORING:
        script.call("rt_sigaction", number, bytes(_ACTION), 0, _MASK)
    script.call("setsid")
    script.call("umask", 0o022)
    number, soft, hard = limits.usual()
    script.call("prlimit64", 0, number, struct.pack("=qq", soft, hard), 0)
    script.call("keyctl", syscalls.KEYCTL_JOIN_SESSION_KEYRING, 0, on_error=NEXT)
    script.call("seccomp", syscalls.SECCOMP_SET_MODE_FILTER, 0, Filter(filter_code))
    dropped = syscalls.known_capabilities(_LAST_CAPABILITY) & ~process.CAPABILITIES
    for capability in range(_LAST_CAPABILITY + 1):
        if dropped >> capability & 1:
            script.call("prctl", syscalls.PR_CAPBSET_DROP, capability)
    script.call("capset", *syscalls.capability_sets(process.CAPABILITIES))
    script.jump(Slot(_OWN))
    return script


def _take_ids(script: Script, credentials: Credentials) -> None:
    groups = credentials.groups
    script.call("setgroups", len(groups), struct.pack(f"={len(groups)}I", *groups))
    script.call("setresgid", *(credentials.gid,) * 3)
    script.call("setresuid", *(credentials.uid,) * 3)


def _execute(script: Script, spec: SandboxSpec, credentials: Credentials) -> None:
    """Try the places where the program can be; the first that is none ends the search."""
    found = process.environment(spec.process, credentials)
    variables = Texts(tuple(os.fsencode(f"{name}={text}") for name, text in found.items()))
    arguments = Texts(tuple(map(os.fsencode, spec.process.argv)))
    name = spec.process.argv[0]
    search = (found.get("PATH") or process.DEFAULT_PATH).split(":")
    places = [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in search]
    script.store(_REFUSED, -errno.ENOENT)
    for number, place in enumerate(places):
        following = f"place {number + 1}"
        script.label(f"place {number}")
        path = os.fsencode(place) + b"\0"
        script.call("execve", path, arguments, variables, store=_ANSWER, on_error=NEXT)
        if "/" in name:
            break
        for reason in _GO_ON:
            script.jump(following, Slot(_ANSWER), -reason)
        script.jump(f"refused {number}", Slot(_ANSWER), -errno.EACCES)
        script.jump("failed")
        script.label(f"refused {number}")
        script.store(_REFUSED, -errno.EACCES)
    script.label(f"place {len(places)}")
    if "/" not in name:
        script.store(_ANSWER, Slot(_REFUSED))
    script.label("failed")
    _tell(script, _PROGRAM, Slot(_ANSWER))
    script.call("exit_group", process.NOT_EXECUTABLE)
