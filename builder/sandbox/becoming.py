"""What the processes of a step do between our code and the image's program, as scripts.

Written for the interpreter, which runs them. Must not know how processes are started, nor what
is done before.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING

from builder.errors import SandboxError
from builder.sandbox import init, interpreter, limits, process, syscalls
from builder.sandbox.script import NEXT, Filter, Label, Script, Slot, Texts
from cache.value import value

if TYPE_CHECKING:
    from builder.sandbox.credentials import Credentials
    from builder.sandbox.spec import Process, SandboxSpec

_MOST_TEXT = 1 << 20  # bytes of arguments and variables; more are rare
_MOST_DIRECTORIES = 64  # of PATH
_LAST_CAPABILITY = 63
_RECORD = struct.Struct("=Qq")
_PROGRAM, _END = 1, 2  # records besides those of errors, which begin with an address
_STATUS, _WAITED, _CHILD, _FILE, _REFUSED, _ANSWER, _OWN = 24, 32, 40, 48, 56, 64, 72  # slots
_VECTOR, _CONTROL = 80, 96  # slots of a message: where its byte is, and the descriptor with it
_GO_ON = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_SETUP_FAILED = "cannot set up the process"
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_ALL_FDS = 0xFFFFFFFF
_AT_FDCWD = -100

ANSWER = _ANSWER


def fits(wanted: Process) -> bool:
    """Whether a program with its arguments and variables can be started by a script."""
    texts = [*wanted.argv, *(part for pair in wanted.env for part in pair)]
    directories = dict(wanted.env).get("PATH", "").count(":")
    return (
        sum(map(len, texts)) < _MOST_TEXT
        and directories < _MOST_DIRECTORIES
        and not any("\0" in text for text in texts)
        and not any("=" in name or not name for name, _ in wanted.env)
    )


def in_new_root(script: Script, spec: SandboxSpec, root_path: str) -> None:
    """What process 1 does, which cannot fail in the ordinary way once the root is changed.

    Its child goes on with the script that is read second, and from there to the label "child".
    """
    slots = interpreter.SLOTS
    script.call("prctl", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    die_first(script)
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
    script.label("child")


def die_first(script: Script, *, on_error: str = "") -> None:
    """Have the kernel choose the step before the builder when memory runs out."""
    score = b"%d" % init.score_of_steps()
    path = b"/proc/self/oom_score_adj\0"
    flags = os.O_WRONLY | os.O_CLOEXEC
    script.call("openat", _AT_FDCWD, path, flags, store=_FILE, on_error=on_error)
    script.call("write", Slot(_FILE), score, len(score), on_error=NEXT if on_error else "")
    script.call("close", Slot(_FILE))


def go_on_second(script: Script, label: str) -> None:
    """Go to the script that is read second, and from its end to a label of this one."""
    script.store(_OWN, Label(label))
    script.call("jump", 0, 0, interpreter.SECOND)


def settle(script: Script) -> None:
    """Take back what starting the interpreter did to signals; a session of its own."""
    action = bytes(syscalls.SIGACTION_SIZE)
    for number in syscalls.KEPT_SIGNALS:
        script.call("rt_sigaction", number, action, 0, syscalls.SIGSET_SIZE)
    script.call("setsid")


def restrict(script: Script, filter_code: bytes) -> None:
    """Take on what confines any step: no core files, no keyring, the filter."""
    number, soft, hard = limits.usual()
    script.call("prlimit64", 0, number, struct.pack("=qq", soft, hard), 0)
    # An outer filter may forbid keyrings: then there are none.
    script.call("keyctl", syscalls.KEYCTL_JOIN_SESSION_KEYRING, 0, on_error=NEXT)
    script.call("seccomp", syscalls.SECCOMP_SET_MODE_FILTER, 0, Filter(filter_code))


def report_in(script: Script) -> None:
    """Tell the supervisor that we wait, until it knows us."""
    script.call("prctl", syscalls.PR_SET_DUMPABLE, 1)  # it reads our memory
    script.call("write", interpreter.GO, b"d", 1)
    script.call("read", interpreter.GO, interpreter.SLOTS, 1, on_zero="gone")


def hand_over(script: Script, plan: bytes) -> None:
    """Have the supervisor answer our calls from here on: send it where it finds them.

    The script needs a label "gone" for what is done when there is no supervisor any more.
    """
    filters, new = Filter(plan), syscalls.SECCOMP_SET_MODE_FILTER
    flags = _NEW_LISTENER | _WAIT_KILLABLE
    script.call("seccomp", new, flags, filters, store=_FILE, on_error="older")
    script.jump("listening")
    script.label("older")  # before Linux 5.19
    script.call("seccomp", new, _NEW_LISTENER, filters, store=_FILE)
    script.label("listening")
    slots = interpreter.SLOTS
    header = struct.pack("=iI", socket.SOL_SOCKET, socket.SCM_RIGHTS)
    script.store(_VECTOR, slots + _VECTOR)  # the byte is of no matter
    script.store(_VECTOR + 8, 1)
    script.store(_CONTROL, socket.CMSG_LEN(4))
    script.store(_CONTROL + 8, int.from_bytes(header, "little"))
    script.store(_CONTROL + 16, Slot(_FILE))
    control = socket.CMSG_SPACE(4)
    message = struct.pack("=QQQQQQQ", 0, 0, slots + _VECTOR, 1, slots + _CONTROL, control, 0)
    script.call("sendmsg", interpreter.GO, message, 0)
    script.call("read", interpreter.GO, slots, 1, on_zero="gone")


def close_all(script: Script) -> None:
    """Keep nothing open but the standard streams, and where errors are told."""
    script.call("close_range", interpreter.GO, _ALL_FDS, 0)


def drop_bounds(script: Script) -> None:
    """Keep programs to come from more than a container has."""
    dropped = syscalls.known_capabilities(_LAST_CAPABILITY) & ~process.CAPABILITIES
    for capability in range(_LAST_CAPABILITY + 1):
        if dropped >> capability & 1:
            script.call("prctl", syscalls.PR_CAPBSET_DROP, capability)


def go_back(script: Script) -> None:
    """End a script that is read second."""
    script.jump(Slot(_OWN))
    script.label("gone")
    script.call("exit_group", process.NOT_EXECUTABLE)


def take_ids(script: Script, credentials: Credentials) -> None:
    """Become a user."""
    groups = credentials.groups
    script.call("setgroups", len(groups), struct.pack(f"={len(groups)}I", *groups))
    script.call("setresgid", *(credentials.gid,) * 3)
    script.call("setresuid", *(credentials.uid,) * 3)


def execute(script: Script, wanted: Process, credentials: Credentials) -> None:
    """Try the places where the program can be; the first that is none ends the search."""
    found = process.environment(wanted, credentials)
    variables = Texts(tuple(os.fsencode(f"{name}={text}") for name, text in found.items()))
    arguments = Texts(tuple(map(os.fsencode, wanted.argv)))
    name = wanted.argv[0]
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


def _tell(script: Script, which: int, number: Slot) -> None:
    script.store(interpreter.REPORT, which)
    script.store(interpreter.REPORT + 8, number)
    script.call("write", interpreter.RESULTS, interpreter.SLOTS + interpreter.REPORT, _RECORD.size)


@value
class Told:
    """What became of scripts: an exit code, what to say on stderr, what went wrong before."""

    code: int
    text: str = ""
    error: SandboxError | None = None


def outcome(results: int, scripts: tuple[tuple[int, Script], ...], program: str, code: int) -> Told:
    """Read what scripts, by the address each lies at, told; `code` is how the interpreter ended."""
    started = True
    text, error = "", None
    data = os.pread(results, 4 * _RECORD.size, 0)
    for which, number in _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]):
        if which == _END:
            ended = os.waitstatus_to_exitcode(number)
            return Told((ended if ended >= 0 else 128 - ended) if started else code, text, error)
        started = False
        if which == _PROGRAM:
            code, text = process.explain(program, -number)
        else:
            names = [script.name_at(base, which) for base, script in scripts]
            name = "".join(names) or "start"
            error = SandboxError(f"{_SETUP_FAILED}: {name}: {os.strerror(-number).lower()}")
            code = process.NOT_EXECUTABLE
    return Told(code, text, error)
