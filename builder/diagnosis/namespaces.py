"""What the kernel allows in namespaces of our own: the ids, the mounts, the root."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from builder.diagnosis.asking import Question, findings
from builder.errors import HostUnsupportedError
from builder.sandbox import host, namespace, syscalls
from builder.sandbox.loopback import raise_loopback
from builder.sandbox.overlay import mount_overlay
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.diagnosis.finding import Finding

_SOMEBODY = 1234  # an id inside that is not ours
_HERE = -100  # AT_FDCWD
_TMPFS = "size=1m"


def identities(facts: host.Host) -> list[Finding]:
    """Whether a user namespace can be made, and which ids it can have."""
    questions = [
        Question("user namespace", lambda: _unshared(facts)),
        Question("id map: direct", lambda: _direct(facts)),
        Question("id map: newuidmap", lambda: _subordinate(facts)),
        Question("id map: single", lambda: _mapped(host.single(facts), facts)),
    ]
    found = findings("namespaces", questions)
    if found[1].works:  # nobody who is told of a second way needs it
        found[2] = replace(found[2], hint="")
    return found


def inside(facts: host.Host, found: list[Finding], scratch: str) -> list[Finding]:
    """What works inside a namespace with the best map that was found."""
    mapping = _best(facts, {finding.name for finding in found if finding.works})
    asked: dict[str, Callable[[str], str]] = {
        "private mounts": _slave,
        "tmpfs": _tmpfs,
        "overlay on disk": _overlay_on_disk,
        "overlay in memory": _overlay_in_memory,
        "fresh proc": _fresh_proc,
        "shared proc": lambda place: _cloned("/proc", place),
        "shared devices": lambda place: _cloned("/dev/null", place),
        "devpts": _devpts,
        "pivot_root": _pivoted,
        "chroot inside": _chrooted,
        "chown inside": _chowned,
        "setgroups inside": _grouped,
        "own network": _networked,
        "own binfmt_misc": _binfmt,
    }
    places = {name: f"{scratch}/{number}" for number, name in enumerate(asked)}
    questions = [
        Question(name, functools.partial(_prepared, ask, places[name]))
        for name, ask in asked.items()
    ]
    return findings("namespaces", questions, lambda: namespace.become_root(mapping, facts))


def _best(facts: host.Host, working: set[str]) -> host.Mapping:
    if "id map: direct" in working:
        return host.direct(facts) or host.single(facts)
    if "id map: newuidmap" in working:
        return host.subordinate(facts)
    return host.single(facts)


def _unshared(facts: host.Host) -> str:
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise host.explain_unshare(error, facts) from error
    return ""


def _direct(facts: host.Host) -> str:
    mapping = host.direct(facts)
    if mapping is None:
        msg = "this needs CAP_SETUID, CAP_SETGID, CAP_SETFCAP and 65536 ids"
        raise HostUnsupportedError(msg)
    return _mapped(mapping, facts)


def _subordinate(facts: host.Host) -> str:
    return _mapped(host.subordinate(facts), facts)


def _mapped(mapping: host.Mapping, facts: host.Host) -> str:
    namespace.become_root(mapping, facts)
    count = sum(extent.count for extent in mapping.uids)
    return "1 id" if count == 1 else f"{count} ids"


def _prepared(ask: Callable[[str], str], place: str) -> str:
    """Ask in mounts of its own, with an empty directory."""
    os.mkdir(place)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    return ask(place)


def _slave(place: str) -> str:
    del place
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    return ""


def _tmpfs(place: str) -> str:
    syscalls.mount("tmpfs", place, "tmpfs", 0, _TMPFS)
    return ""


def _overlay_on_disk(place: str) -> str:
    return _stacked(place, place)


def _overlay_in_memory(place: str) -> str:
    os.mkdir(f"{place}/memory")
    syscalls.mount("tmpfs", f"{place}/memory", "tmpfs", 0, _TMPFS)
    return _stacked(place, f"{place}/memory")


def _stacked(place: str, changes: str) -> str:
    """Replace a directory in an overlay, which is where a half-working one fails."""
    for directory in (f"{place}/lower", f"{place}/lower/d", f"{place}/root"):
        os.mkdir(directory)
    for directory in ("upper", "work"):
        os.mkdir(f"{changes}/{directory}")
    mount_overlay(f"{place}/root", place, ("lower",), (f"{changes}/upper", f"{changes}/work"))
    os.rmdir(f"{place}/root/d")
    os.mkdir(f"{place}/root/d")
    syscalls.umount(f"{place}/root", syscalls.MNT_DETACH)
    return ""


def _fresh_proc(place: str) -> str:
    syscalls.unshare(syscalls.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        number = 0
        try:
            syscalls.mount("proc", place, "proc")
        except OSError as error:
            number = error.errno or 1
        finally:
            os._exit(number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code > 0:
        raise OSError(code, os.strerror(code))
    return ""


def _cloned(source: str, place: str) -> str:
    target = f"{place}/target"
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o600))
    tree = syscalls.clone_tree(_HERE, source)
    syscalls.attach(tree, os.open(target, os.O_PATH | os.O_CLOEXEC))
    return ""


def _devpts(place: str) -> str:
    syscalls.mount("devpts", place, "devpts", 0, "newinstance,ptmxmode=0666")
    return ""


def _pivoted(place: str) -> str:
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    syscalls.mount("tmpfs", place, "tmpfs", 0, _TMPFS)
    os.chdir(place)
    syscalls.pivot_root_here()
    return ""


def _chrooted(place: str) -> str:
    os.chroot(place)
    return ""


def _chowned(place: str) -> str:
    os.chown(place, _SOMEBODY, _SOMEBODY)
    os.chown(place, 0, 0)
    return ""


def _grouped(place: str) -> str:
    del place
    os.setgroups([_SOMEBODY])
    return ""


def _networked(place: str) -> str:
    del place
    syscalls.unshare(syscalls.CLONE_NEWNET)
    raise_loopback()
    return ""


def _binfmt(place: str) -> str:
    syscalls.mount("binfmt_misc", place, "binfmt_misc")
    return ""
