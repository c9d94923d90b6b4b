"""Trying in throw-away children what this host allows: the only way to know (C1).

A uid, a kernel version or a file in / says little about seccomp profiles, AppArmor and mounts.
Each trial does what a build would do, in a process that ends with it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
from typing import TYPE_CHECKING, NoReturn

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox.host import Tier
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 10_000  # milliseconds; a trial takes some ten
_MAX_ANSWER = 65536
_NO_NEW_PRIVILEGES = 38  # prctl


@value
class Answer:
    """How a trial ended; `reason` and `hint` say why not and what would help."""

    works: bool
    reason: str = ""
    hint: str = ""


def attempt(trial: Callable[[], None]) -> Answer:
    """Run a trial in a child; whatever it raises is the answer."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _try(trial, write_end)
    os.close(write_end)
    poll = select.poll()
    poll.register(read_end, select.POLLIN)
    data = os.read(read_end, _MAX_ANSWER) if poll.poll(_PATIENCE) else b""
    os.close(read_end)
    if not data:
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not data:
        return Answer(works=False, reason="the trial ended without an answer")
    return Answer(*json.loads(data))


def _try(trial: Callable[[], None], write_end: int) -> NoReturn:
    answer: list[object] = [True, "", ""]
    try:
        trial()
    except (HostUnsupportedError, SandboxError) as error:
        answer = [False, error.message, error.hint or ""]
    except OSError as error:
        answer = [False, (error.strerror or str(error)).lower(), ""]
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the parent's code
        answer = [False, repr(error), ""]
    finally:
        os.write(write_end, json.dumps(answer).encode()[:_MAX_ANSWER])
        os._exit(0)


def try_tier(tier: Tier, scratch: str) -> Answer:
    """Try what a tier stands on; `scratch` is a directory on the state's file system."""
    trials = {Tier.USERNS: _namespaces, Tier.EMULATE: _emulation}
    trial = trials.get(tier)
    if trial is None:
        return Answer(works=False, reason=f"{tier} is not built yet")
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as place:
        return attempt(lambda: trial(place))


def try_registering(scratch: str) -> Answer:
    """Try whether a user namespace may have emulators of its own, as since Linux 6.7."""

    def mount(place: str) -> None:
        from builder.sandbox import syscalls  # noqa: PLC0415 - in the child only
        from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415 - the same

        enter_namespace()
        syscalls.mount("binfmt_misc", place, "binfmt_misc")

    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as place:
        return attempt(lambda: mount(place))


def _namespaces(place: str) -> None:
    """A full range of ids, the namespaces of a step, an overlay on the state's disk as its root."""
    from builder.sandbox import syscalls  # noqa: PLC0415 - in the child only
    from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415 - the same
    from builder.sandbox.overlay import mount_overlay  # noqa: PLC0415

    enter_namespace()
    for name in ("lower", "upper", "work", "root"):
        os.mkdir(f"{place}/{name}")
    changes = f"{place}/upper", f"{place}/work"
    mount_overlay(f"{place}/root", place, ("lower",), changes)
    with open(f"{place}/root/file", "wb"):
        pass
    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
    os.chdir(f"{place}/root")
    try:
        syscalls.pivot_root_here()
    except OSError as error:
        raise HostUnsupportedError(
            f"cannot change the root of a namespace of our own: {(error.strerror or '').lower()}",
            hint="a seccomp profile forbids pivot_root: run with seccomp=unconfined",
        ) from error


def _emulation(place: str) -> None:
    """Notifications of system calls, and a child that may be traced."""
    del place
    from builder.sandbox import syscalls  # noqa: PLC0415 - in the child only
    from builder.sandbox.engine import abi, kernel, program, registers  # noqa: PLC0415

    table = abi.abi_of(syscalls.MACHINE)
    traced = os.fork()
    if traced == 0:
        signal.pause()
    try:
        registers.ptrace(registers.SEIZE, traced, 0, registers.O_EXITKILL)
    except OSError as error:
        raise HostUnsupportedError(
            f"cannot trace a process: {(error.strerror or '').lower()}",
            hint="allow ptrace: kernel.yama.ptrace_scope must be below 3",
        ) from error
    finally:
        os.kill(traced, signal.SIGKILL)
    syscalls.prctl(_NO_NEW_PRIVILEGES, 1)
    try:
        kernel.listen(program.program(table, program.Plan(notify=("mknodat",))))
    except OSError as error:
        raise HostUnsupportedError(
            f"cannot be notified of system calls: {(error.strerror or '').lower()}",
            hint="the kernel needs seccomp with SECCOMP_FILTER_FLAG_NEW_LISTENER (5.5 or newer),"
            " and nobody above may use it already",
        ) from error
