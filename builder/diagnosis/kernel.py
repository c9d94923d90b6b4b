"""What the kernel allows a process as it is, without namespaces: rights, and the engine's calls."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from typing import TYPE_CHECKING

from builder.diagnosis.asking import Question, findings
from builder.sandbox import syscalls
from builder.sandbox.engine import abi, kernel, program, registers

if TYPE_CHECKING:
    from builder.diagnosis.finding import Finding

_NO_NEW_PRIVILEGES = 38  # prctl
_LANDLOCK_CREATE, _LANDLOCK_VERSION = 444, 1
_SOMEBODY = 1234  # an id that is not ours
_NULL = os.makedev(1, 3)
_SIGNALS_SCOPED = 6  # landlock version
_WAITING = 1000  # milliseconds


def rights(scratch: str) -> list[Finding]:
    """What needs a right of root's, tried with what we have."""

    def chown() -> str:
        os.chown(_file(scratch, "chown"), _SOMEBODY, _SOMEBODY)
        return ""

    def node() -> str:
        os.mknod(f"{scratch}/null", 0o20600, _NULL)
        return ""

    def mount() -> str:
        os.mkdir(f"{scratch}/mount")
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("tmpfs", f"{scratch}/mount", "tmpfs")
        return ""

    def chroot() -> str:
        os.chroot(scratch)
        return ""

    def setuid() -> str:
        os.setresgid(_SOMEBODY, _SOMEBODY, _SOMEBODY)
        os.setresuid(_SOMEBODY, _SOMEBODY, _SOMEBODY)
        return ""

    questions = {"chroot": chroot, "chown": chown, "setuid": setuid, "mknod": node, "mount": mount}
    return findings("rights", [Question(name, ask) for name, ask in questions.items()])


def engine(scratch: str) -> list[Finding]:
    """What the tiers below `userns` are made of."""
    questions = {
        "seccomp notification": _notified,
        "seccomp ADDFD": _given,
        "openat2": lambda: _open_inside(scratch),
        "ptrace": _traced,
        "process_vm_readv": _read_memory,
        "pidfd": _pidfd,
        "landlock": _landlock,
    }
    return findings("engine", [Question(name, ask) for name, ask in questions.items()])


def _file(directory: str, name: str) -> str:
    path = f"{directory}/{name}"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    return path


def _listener() -> int:
    table = abi.abi_of(syscalls.MACHINE)
    syscalls.prctl(_NO_NEW_PRIVILEGES, 1)
    return kernel.listen(program.program(table, program.Plan(notify=("mknodat",))))


def _notified() -> str:
    os.close(_listener())
    return ""


def _given() -> str:
    """Let a child ask for a file, and answer with a descriptor."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            socket.send_fds(theirs, [b"l"], [_listener()])
            os.mknod("/nonexistent/pybuild", 0o100600)
        finally:
            os._exit(1)
    theirs.close()
    try:
        ours.settimeout(_WAITING / 1000)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if not fds:
            msg = "no listener"
            raise OSError(msg)
        request = kernel.receive(fds[0])
        if request is None:
            msg = "nothing was notified"
            raise OSError(msg)
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        kernel.give_fd(fds[0], request.id, null, 0)
    finally:
        os.kill(child, signal.SIGKILL)
    return ""


def _open_inside(scratch: str) -> str:
    fd = os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.close(syscalls.open_in_root(fd, "/..", os.O_PATH))
    return ""


def _child() -> int:
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    return child


def _traced() -> str:
    child = _child()
    try:
        registers.ptrace(registers.SEIZE, child, 0, registers.O_EXITKILL)
    finally:
        os.kill(child, signal.SIGKILL)
    return ""


def _read_memory() -> str:
    text = ctypes.create_string_buffer(b"there")
    child = _child()
    try:
        kernel.read_exactly(child, ctypes.addressof(text), len(text.raw))
    finally:
        os.kill(child, signal.SIGKILL)
    return ""


def _pidfd() -> str:
    child = _child()
    try:
        os.close(os.pidfd_open(child))
    finally:
        os.kill(child, signal.SIGKILL)
    return ""


def _landlock() -> str:
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    version = int(
        call(
            ctypes.c_long(_LANDLOCK_CREATE),
            None,
            ctypes.c_long(0),
            ctypes.c_long(_LANDLOCK_VERSION),
        )
    )
    if version < 1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    kept = "files" + (", signals, abstract sockets" if version >= _SIGNALS_SCOPED else "")
    return f"version {version}: {kept}"
