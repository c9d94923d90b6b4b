"""The step's own process, from init's fork to the image's program.

Runs after the root was changed: imports nothing, opens nothing of the host. Takes on keyring,
filter, capabilities and ids, finds the program and hands over to the trampoline. Failures of
lookup are told on stderr with exit codes 126 and 127, failures of set-up on the error pipe.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, NoReturn

from builder.sandbox import limits, syscalls, trampoline
from cache.value import value

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

    from builder.sandbox.credentials import Credentials
    from builder.sandbox.spec import Process, SandboxSpec

NOT_EXECUTABLE = 126
NOT_FOUND = 127
SETUP_FAILED = b"!"  # starts a message on the error pipe; never the low byte of a small -errno
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The 14 a container has: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP
# NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
CAPABILITIES = 0xA80425FB
_OUT_OF_THE_WAY = 10  # above the fds arranged below
_LAST_CAPABILITY = 63  # the kernel says EINVAL above its own last one


@value
class Tools:
    """Made once by the launcher: the filter and the trampoline's fd."""

    filter: ctypes.Array[ctypes.c_char]
    trampoline: int


def environment(process: Process, credentials: Credentials) -> dict[str, str]:
    """The variables of the step; HOME comes from passwd when not given (R05)."""
    found = dict(process.env)
    if not found.get("HOME"):
        found["HOME"] = credentials.home
    return found


def take_ids(credentials: Credentials) -> None:
    """Become a user, as far as ids go."""
    os.setgroups(credentials.groups)
    os.setresgid(credentials.gid, credentials.gid, credentials.gid)
    os.setresuid(credentials.uid, credentials.uid, credentials.uid)


def _nothing() -> None:
    """Do nothing more."""


@value
class Manner:
    """How a process becomes a step's: `filtered` is called once docker's filter is in place."""

    take_ids: Callable[[Credentials], None] = take_ids
    filtered: Callable[[], None] = _nothing


NATIVE = Manner()


def become(
    spec: SandboxSpec,
    credentials: Credentials,
    tools: Tools,
    error_fd: int,
    manner: Manner = NATIVE,
) -> NoReturn:
    """Turn the calling process (a fork of init) into the step's program."""
    process = spec.process
    try:
        fd = fcntl.fcntl(tools.trampoline, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY)
        if error_fd != trampoline.ERROR_FD:
            os.dup2(error_fd, trampoline.ERROR_FD)
        fcntl.fcntl(trampoline.ERROR_FD, fcntl.F_SETFD, 0)
        error_fd = trampoline.ERROR_FD
        _restrict(spec, credentials, tools, manner)
        os.closerange(error_fd + 1, fd)
        syscalls.close_from(fd + 1)
    except OSError as error:
        text = f"{error.filename or 'set-up'}: {error.strerror}"
        os.write(error_fd, SETUP_FAILED + text.encode("utf-8", "surrogateescape"))
        os._exit(NOT_EXECUTABLE)
    execute(process, environment(process, credentials), through=fd)


def execute(process: Process, variables: dict[str, str], *, through: int | None = None) -> NoReturn:
    """Turn into the program, by way of the one that `through` is an fd of; fail as shells do."""
    name = process.argv[0]
    path, reason = find_program(name, variables.get("PATH") or DEFAULT_PATH)
    if reason:
        fail(name, reason)
    try:
        if through is None:
            os.execve(path, process.argv, variables)  # noqa: S606 - that is the point
        os.execve(through, [path, *process.argv], variables)  # noqa: S606 - likewise
    except OSError as error:
        fail(name, error.errno)
    except ValueError:
        fail(name, errno.EINVAL)  # null bytes in argv, `=` in a variable's name


def _restrict(spec: SandboxSpec, credentials: Credentials, tools: Tools, manner: Manner) -> None:
    os.setsid()
    os.umask(0o022)
    limits.apply(spec.ulimits)
    with contextlib.suppress(OSError):  # an outer filter may forbid keyrings: then there are none
        syscalls.join_new_session_keyring()
    if spec.insecure:
        manner.filtered()
        _take_ids_with_everything(credentials, manner)
        return
    syscalls.install_filter(tools.filter)  # while CAP_SYS_ADMIN: no_new_privs stays off
    manner.filtered()
    for capability in range(_LAST_CAPABILITY + 1):
        if not CAPABILITIES >> capability & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                break
    syscalls.set_capabilities(CAPABILITIES)
    manner.take_ids(credentials)


def _take_ids_with_everything(credentials: Credentials, manner: Manner) -> None:
    """Take the ids and keep every capability, for programs to come as well (R21)."""
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    manner.take_ids(credentials)
    held = syscalls.known_capabilities(_LAST_CAPABILITY)
    syscalls.set_capabilities(held, inheritable=held)
    for capability in range(_LAST_CAPABILITY + 1):
        if held >> capability & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, capability)


def find_program(name: str, search: str) -> tuple[str, int]:
    """The path to execute and 0, or the errno that says why there is none."""
    if "/" in name:
        return name, _unusable(name)
    refused = 0
    for directory in search.split(":"):
        path = f"{directory or '.'}/{name}"
        reason = _unusable(path)
        if not reason:
            return path, 0
        if reason == errno.EACCES:
            refused = reason
    return name, refused or errno.ENOENT


def _unusable(path: str) -> int:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return error.errno or errno.ENOENT
    except ValueError:
        return errno.ENOENT
    if stat.S_ISDIR(mode) or not os.access(path, os.X_OK):
        return errno.EACCES
    return 0


def fail(name: str, reason: int | None) -> NoReturn:
    """Say on stderr why there is no program, as container runtimes do, and end."""
    code, text = explain(name, reason or errno.EIO)
    os.write(2, text.encode("utf-8", "surrogateescape"))
    os._exit(code)


def explain(name: str, reason: int) -> tuple[int, str]:
    """Exit code and message for a program that cannot be executed."""
    missing = reason in (errno.ENOENT, errno.ENOTDIR)
    if missing and "/" not in name:
        return NOT_FOUND, f'exec: "{name}": executable file not found in $PATH\n'
    text = os.strerror(reason).lower()
    return NOT_FOUND if missing else NOT_EXECUTABLE, f'exec: "{name}": {text}\n'
