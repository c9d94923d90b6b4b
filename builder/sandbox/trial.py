"""Trying in throw-away children what this host allows: the only way to know (C1).

A uid, a kernel version or a file in / says little about seccomp profiles, AppArmor and mounts.
Each trial does what a build would do, in a process that ends with it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
from typing import TYPE_CHECKING, Any, NoReturn

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox.host import Tier
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE = 10_000  # milliseconds; a trial takes some ten
_MAX_ANSWER = 65536
_NO_NEW_PRIVILEGES = 38  # prctl
_SOMEBODY = 1234  # an id that is not ours
_PASSING = frozenset({
    errno.EAGAIN, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC,
})  # fmt: skip


@value
class Answer:
    """How a trial ended; `reason` and `hint` say why not and what would help.

    `changes` is where those of steps can be kept, as uppers.find says. `passing` is a reason that
    may be gone at any time: a full disk, a busy machine.
    """

    works: bool
    reason: str = ""
    hint: str = ""
    changes: str = ""
    passing: bool = False


def attempt(trial: Callable[[], str | None]) -> Answer:
    """Run a trial in a child; whatever it raises is the answer, what it returns are `changes`."""
    answer = in_child(lambda: _tried(trial))
    if answer is None:
        return Answer(works=False, reason="the trial ended without an answer", passing=True)
    return Answer(*answer)


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns (JSON) in a child that ends with it; None when it did not come to that."""
    return beside(work)()


def beside(work: Callable[[], Any]) -> Callable[[], Any]:
    """Begin `work` in a child; what is returned waits for it and gives its answer, as in_child."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _work(work, write_end)
    os.close(write_end)
    return lambda: _answer_of(child, read_end)


def _answer_of(child: int, read_end: int) -> Any:
    data = b""
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


def _tried(trial: Callable[[], str | None]) -> list[object]:
    try:
        changes = trial() or ""
    except (HostUnsupportedError, SandboxError) as error:
        passing = isinstance(error, SandboxError) or _is_passing(error.__cause__)
        return [False, error.message, error.hint or "", "", passing]
    except OSError as error:
        return [False, (error.strerror or str(error)).lower(), "", "", _is_passing(error)]
    except BaseException as error:  # noqa: BLE001 - nothing may escape into the parent's code
        return [False, repr(error), ""]
    return [True, "", "", changes]


def _is_passing(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _PASSING


def try_tier(tier: Tier, scratch: str) -> Answer:
    """Try what a tier stands on; `scratch` is a directory on the state's file system."""
    trials: dict[Tier, Callable[[str], str | None]] = {
        Tier.USERNS: _namespaces,
        Tier.CHROOT: _changed_root,
        Tier.SINGLE: _single,
        Tier.EMULATE: _emulation,
    }
    trial = trials.get(tier)
    if trial is None:
        return Answer(works=False, reason=f"{tier} is not built yet")
    with playground(scratch) as place:
        return attempt(lambda: trial(place))


@contextlib.contextmanager
def playground(scratch: str) -> Iterator[str]:
    """A new directory in `scratch` for trials in children; it goes with all they leave in it."""
    import tempfile  # noqa: PLC0415 - once per boot

    from cache.archive.rooted import remove_tree  # noqa: PLC0415 - the same

    place = tempfile.mkdtemp(dir=scratch)
    try:
        yield place
    finally:
        parent = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(parent, os.path.basename(place))
        finally:
            os.close(parent)


def try_registering(scratch: str, tier: Tier = Tier.USERNS) -> Answer:
    """Try whether a user namespace may have emulators of its own, as since Linux 6.7."""

    def mount(place: str) -> None:
        from builder.sandbox import syscalls  # noqa: PLC0415 - in the child only
        from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415 - the same

        enter_namespace(tier)
        syscalls.mount("binfmt_misc", place, "binfmt_misc")

    with playground(scratch) as place:
        return attempt(lambda: mount(place))


def _namespaces(place: str) -> str:
    """A full range of ids, the namespaces of a step, an overlay on the state's disk as its root."""
    from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415 - the same

    namespace = enter_namespace()
    _try_owners(place)
    changes = find_changes(place, namespace.outer_uid)
    _change_root(place)
    return changes


def _single(place: str) -> None:
    """The same with a single id, changes beside the trees, and notifications of system calls."""
    from builder.sandbox import syscalls  # noqa: PLC0415 - in the child only
    from builder.sandbox.engine import abi, kernel, program  # noqa: PLC0415 - the same
    from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415

    enter_namespace(Tier.SINGLE)
    table = abi.abi_of(syscalls.MACHINE)
    if find_changes(place, os.geteuid()):
        # owners are recorded by inode, which a file copied up from another file system changes
        raise HostUnsupportedError(
            "the state directory's file system cannot hold what steps change",
            hint="set PYBUILD_ROOT to a directory on ext4, xfs, btrfs or tmpfs",
        )
    _change_root(place)
    _listen(kernel.listen, program.program(table, program.Plan(notify=("mknodat",))))


def _change_root(place: str) -> None:
    """Make the namespaces of a step, and `place`/root their root."""
    from builder.sandbox import syscalls  # noqa: PLC0415 - in the child only

    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
    os.chdir(f"{place}/root")
    try:
        syscalls.pivot_root_here()
    except OSError as error:
        raise HostUnsupportedError(
            f"cannot change the root of a namespace of our own: {(error.strerror or '').lower()}",
            hint="a seccomp profile forbids pivot_root: run with seccomp=unconfined",
        ) from error


def find_changes(place: str, uid: int) -> str:
    """Where steps in namespaces can keep their changes; an overlay is left at `place`/root."""
    from builder import places  # noqa: PLC0415 - in the child only
    from builder.sandbox import uppers  # noqa: PLC0415 - the same

    return uppers.find(place, uid, lambda: places.volumes(places.mounts(places.read_text)))


def _try_owners(place: str) -> None:
    """Trees are unpacked beside the state, with owners that are not ours."""
    try:
        os.chown(place, _SOMEBODY, _SOMEBODY)
        os.chown(place, 0, 0)
    except OSError as error:
        raise HostUnsupportedError(
            f"owners cannot be changed in the state directory: {(error.strerror or '').lower()}",
            hint="set PYBUILD_ROOT to a directory on ext4, xfs, btrfs or tmpfs",
        ) from error


def try_programs(place: str) -> None:
    """Without an overlay between, programs of a step start from the state's own file system."""
    if os.statvfs(place).f_flag & os.ST_NOEXEC:
        raise HostUnsupportedError(
            "the state directory is on a file system mounted noexec, which programs of RUN cannot"
            " be started from",
            hint="set PYBUILD_ROOT to a directory on another",
        )


def _changed_root(place: str) -> None:
    """A directory as the root, files and processes of others, notifications of system calls."""
    try_programs(place)
    from builder.sandbox import syscalls  # noqa: PLC0415 - in the child only
    from builder.sandbox.engine import abi, kernel, program  # noqa: PLC0415 - the same

    if os.geteuid():
        raise HostUnsupportedError(
            "only root may change its root and its ids", hint="run the container as root"
        )
    try_programs(place)
    table = abi.abi_of(syscalls.MACHINE)
    _trace()
    with _explained("give a file to somebody else", "CHOWN"):
        os.chown(place, _SOMEBODY, _SOMEBODY)
    with _explained("change the root directory", "SYS_CHROOT"):
        os.chroot(place)
    os.chdir("/")
    syscalls.prctl(_NO_NEW_PRIVILEGES, 1)
    _listen(kernel.listen, program.program(table, program.Plan(notify=("mknodat",))))
    with _explained("become another group", "SETGID"):
        os.setgroups((_SOMEBODY,))
        os.setresgid(*(_SOMEBODY,) * 3)
    with _explained("become another user", "SETUID"):
        os.setresuid(*(_SOMEBODY,) * 3)


@contextlib.contextmanager
def _explained(deed: str, capability: str) -> Iterator[None]:
    """Say of a refusal what was tried, and which right of root it takes."""
    try:
        yield
    except OSError as error:
        raise HostUnsupportedError(
            f"cannot {deed}: {(error.strerror or '').lower()}",
            hint=f"root of a container needs --cap-add {capability}, in a pod"
            f" capabilities: {{add: [{capability}]}}",
        ) from error


def _emulation(place: str) -> None:
    """Notifications of system calls, and a child that may be traced."""
    try_programs(place)
    from builder.sandbox import syscalls  # noqa: PLC0415 - in the child only
    from builder.sandbox.engine import abi, kernel, program  # noqa: PLC0415 - the same

    table = abi.abi_of(syscalls.MACHINE)
    _trace()
    syscalls.prctl(_NO_NEW_PRIVILEGES, 1)
    _listen(kernel.listen, program.program(table, program.Plan(notify=("mknodat",))))


def _trace() -> None:
    """A child may be traced."""
    from builder.sandbox.engine import registers  # noqa: PLC0415 - in the child only

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


def _listen(install: Callable[[bytes], int], code: bytes) -> None:
    try:
        install(code)
    except OSError as error:
        raise HostUnsupportedError(
            f"cannot be notified of system calls: {(error.strerror or '').lower()}",
            hint="the kernel needs seccomp with SECCOMP_FILTER_FLAG_NEW_LISTENER (5.5 or newer),"
            " and nobody above may use it already",
        ) from error
