"""Trying in throw-away children what this host allows: the only way to know (C1).

A uid, a kernel version or a file in / says little about seccomp profiles, AppArmor and mounts.
Each trial does what a build would do, in a process that ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import tempfile
from typing import TYPE_CHECKING, Any, NoReturn

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox.host import Tier
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    answer = in_child(lambda: _tried(trial))
    if answer is None:
        return Answer(works=False, reason="the trial ended without an answer")
    return Answer(*answer)


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns (JSON) in a child that ends with it; None when it did not come to that."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _work(work, write_end)
    os.close(write_end)
    try:
        data = _read_all(read_end)
    finally:
        os.close(read_end)
        if not data:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    try:
        return json.loads(data)
    except ValueError:
        return None


def _read_all(fd: int) -> bytes:
    """All that a child writes, as long as it does so soon."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    found = b""
    while poll.poll(_PATIENCE):
        data = os.read(fd, _MAX_ANSWER)
        if not data or len(found) > _MAX_ANSWER:
            return found
        found += data
    return b""


def _work(work: Callable[[], Any], write_end: int) -> NoReturn:
    try:
        view = memoryview(json.dumps(work()).encode())
        while view:
            view = view[os.write(write_end, view) :]
    finally:
        os._exit(0)


def _tried(trial: Callable[[], None]) -> list[object]:
    try:
        trial()
    except (HostUnsupportedError, SandboxError) as error:
        return [False, error.message, error.hint or ""]
    except OSError as error:
        return [False, (error.strerror or str(error)).lower(), ""]
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the parent's code
        return [False, repr(error), ""]
    return [True, "", ""]


def try_tier(tier: Tier, scratch: str) -> Answer:
    """Try what a tier stands on; `scratch` is a directory on the state's file system."""
    trials = {Tier.USERNS: _namespaces, Tier.EMULATE: _emulation}
    trial = trials.get(tier)
    if trial is None:
        return Answer(works=False, reason=f"{tier} is not built yet")
    with playground(scratch) as place:
        return attempt(lambda: trial(place))


@contextlib.contextmanager
def playground(scratch: str) -> Iterator[str]:
    """A new directory in `scratch` for trials in children; it goes with all they leave in it."""
    from cache.archive.rooted import remove_tree  # noqa: PLC0415 - once per boot

    place = tempfile.mkdtemp(dir=scratch)
    try:
        yield place
    finally:
        parent = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent, os.path.basename(place))
        finally:
            os.close(parent)


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
