"""Calls that reach other processes: allowed within the step, and as if nobody else were there."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from builder.sandbox.engine import identities, kernel
from builder.sandbox.engine.step import CONTINUE
from builder.sandbox.engine.view import fail, signed

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Handler, Step

_EVERYONE = -1
_PTRACE_TRACEME = 0
_PRIO_USER, _IOPRIO_WHO_USER = 2, 3
_PROCESS_BEFORE_USER = 2  # process, group, user: in both numberings
_NAME = 65  # bytes of a field of struct utsname; the domain name after them stays as it is


def _one(position: int) -> Handler:
    """Let a call on a process through if that is ours."""

    def handle(step: Step, request: Request) -> int:
        target = signed(request.arguments[position])
        if not step.is_ours(target):
            fail(errno.ESRCH)
        return CONTINUE

    return handle


def _priority(user: int) -> Handler:
    """A process, a group or, as the kind `user`, all of a user by number; 0 is the caller."""

    def handle(step: Step, request: Request) -> int:
        kind, who = (signed(number) for number in request.arguments[:2])
        if kind == user:
            fail(errno.EPERM)
        is_process = kind == user - _PROCESS_BEFORE_USER
        if who and not (step.is_ours(who) if is_process else _is_our_group(step, who)):
            fail(errno.ESRCH)
        return CONTINUE

    return handle


def _scheduling(step: Step, request: Request) -> int:
    """Where and when a process of the step runs; 0 is the caller."""
    target = signed(request.arguments[0])
    if target and not step.is_ours(target):
        fail(errno.ESRCH)
    return CONTINUE


def _limits(step: Step, request: Request) -> int:
    """prlimit64 within the step; the limit that carries identities stays as it is."""
    target, resource, new = request.arguments[:3]
    if signed(target) and not step.is_ours(signed(target)):
        fail(errno.ESRCH)
    return 0 if new and signed(resource) == identities.LIMIT else CONTINUE


def _set_limit(_step: Step, request: Request) -> int:
    return 0 if signed(request.arguments[0]) == identities.LIMIT else CONTINUE


def _kill(step: Step, request: Request) -> int:
    target, number = (signed(argument) for argument in request.arguments[:2])
    if target == _EVERYONE:
        own = step.process_of(request.task)
        for process in set(step.processes.values()) - {own}:
            os.kill(process, number)
        return 0
    if target > 0 and not step.is_ours(target):
        fail(errno.ESRCH)
    if target < 0 and not _is_our_group(step, -target):
        fail(errno.ESRCH)
    return CONTINUE


def _is_our_group(step: Step, group: int) -> bool:
    for process in set(step.processes.values()):
        try:
            if os.getpgid(process) == group:
                return True
        except ProcessLookupError:
            continue
    return False


def _ptrace(step: Step, request: Request) -> int:
    """Refused: a process has one tracer, and that is the engine."""
    if signed(request.arguments[0]) != _PTRACE_TRACEME and not step.is_ours(
        signed(request.arguments[1])
    ):
        fail(errno.ESRCH)
    step.tell("ptrace", "ptrace: not permitted here, so strace, gdb and leak checks do not work")
    fail(errno.EPERM)


def _uname(step: Step, request: Request) -> int:
    """The host's names but the step's own host name."""
    known = os.uname()
    names = (known.sysname, known.nodename, known.release, known.version, known.machine)
    fields = [name.encode()[: _NAME - 1].ljust(_NAME, b"\0") for name in names]
    fields[1] = step.hostname[: _NAME - 1].ljust(_NAME, b"\0")
    kernel.write(request.task, request.arguments[0], b"".join(fields))
    return 0


CALLS: dict[str, Handler] = {
    "uname": _uname,
    "kill": _kill,
    "tkill": _one(0),
    "tgkill": _one(0),
    "rt_sigqueueinfo": _one(0),
    "rt_tgsigqueueinfo": _one(0),
    "pidfd_open": _one(0),
    "process_vm_readv": _one(0),
    "process_vm_writev": _one(0),
    "setpriority": _priority(_PRIO_USER),
    "ioprio_set": _priority(_IOPRIO_WHO_USER),
    "sched_setaffinity": _scheduling,
    "sched_setscheduler": _scheduling,
    "sched_setparam": _scheduling,
    "sched_setattr": _scheduling,
    "prlimit64": _limits,
    "setrlimit": _set_limit,
    "ptrace": _ptrace,
}
