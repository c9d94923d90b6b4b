"""Entering the user and mount namespace the whole build lives in.

Done once per process and before any thread exists: the kernel lets only single-threaded
processes change their user namespace. Afterwards the process is root over a full range of ids,
or over its own alone, in a private mount namespace, and stays so; host.py chose how.
"""

from __future__ import annotations

import functools
import os
from typing import NoReturn

from builder.errors import SandboxError
from builder.sandbox import host, syscalls
from cache.value import value

_READ_SIZE = 65536
_STDERR = 2


@value
class Namespace:
    """The namespace entered: who we were outside, and how many ids there are."""

    tier: host.Tier
    outer_uid: int
    outer_gid: int
    ids: int


@functools.cache  # a process enters once; the namespace is its state, this is only the memory of it
def enter_namespace(tier: host.Tier = host.Tier.USERNS) -> Namespace:
    """Become root in a user and mount namespace of our own; later calls return the same.

    Raises:
        HostUnsupportedError: the host does not allow it.
        SandboxError: called after a thread was started.
    """
    if len(os.listdir("/proc/self/task")) != 1:
        raise SandboxError("the user namespace must be entered before threads are started")
    facts = host.probe()
    mapping = host.mapping_for(tier, facts)
    join(mapping, facts)
    return Namespace(mapping.tier, facts.uid, facts.gid, sum(e.count for e in mapping.uids))


def join(mapping: host.Mapping, facts: host.Host) -> None:
    """Become root in new namespaces with the ids of a mapping, mounts apart from the host's.

    Raises:
        HostUnsupportedError: the host does not allow it.
    """
    become_root(mapping, facts)
    try:
        # Slave: what the host unmounts goes here too, what we mount stays here.
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    except OSError as error:
        raise host.explain_mount(error, facts) from error


def become_root(mapping: host.Mapping, facts: host.Host) -> None:
    """Make a user and a mount namespace and be root over the ids of a mapping there.

    Raises:
        HostUnsupportedError: the host does not allow it.
    """
    go_read, go_write = os.pipe()
    told_read, told_write = os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(go_write)
        os.close(told_read)
        _help(mapping, parent, go_read, told_write)
    os.close(go_read)
    os.close(told_write)
    try:
        _unshare(facts)
        os.write(go_write, b"u")
        trouble = _read_all(told_read)
    finally:
        os.close(go_write)
        os.close(told_read)
        os.waitpid(helper, 0)
    if trouble:
        raise host.explain_map(_complaint(trouble.decode("utf-8", "replace")), facts)
    try:
        if mapping.tier is not host.Tier.SINGLE:
            os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise host.explain_map((error.strerror or str(error)).lower(), facts) from error


def _unshare(facts: host.Host) -> None:
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        raise host.explain_unshare(error, facts) from error


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, _READ_SIZE):
        parts.append(part)
    return b"".join(parts)


def _help(mapping: host.Mapping, target: int, go: int, told: int) -> NoReturn:
    """The helper process, still outside: map the target's ids when told to."""
    try:
        if os.read(go, 1):
            if mapping.newuidmap:
                _map_by_program(mapping, target, told)
            else:
                _map_directly(mapping, target)
    except OSError as error:
        os.write(told, f"{error.strerror}".encode())
    finally:
        os._exit(0)


def _map_directly(mapping: host.Mapping, target: int) -> None:
    if mapping.tier is host.Tier.SINGLE:  # who may not map other groups must give these up first
        _write(f"/proc/{target}/setgroups", b"deny")
    for name, extents in (("uid_map", mapping.uids), ("gid_map", mapping.gids)):
        _write(f"/proc/{target}/{name}", "".join(f"{extent}\n" for extent in extents).encode())


def _complaint(text: str) -> str:
    """What the helpers said in one line; how they ended where they said nothing."""
    lines = [line.strip().lower() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("(")]
    return "; ".join(sorted(said or lines))


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _map_by_program(mapping: host.Mapping, target: int, told: int) -> None:
    """Run both helpers side by side; what they complain of goes to the pipe."""
    started = []
    for program, extents in (
        (mapping.newuidmap, mapping.uids),
        (mapping.newgidmap, mapping.gids),
    ):
        numbers = " ".join(map(str, extents)).split()
        actions = [(os.POSIX_SPAWN_DUP2, told, _STDERR)]
        argv = [program, str(target), *numbers]
        started.append((program, os.posix_spawn(program, argv, {}, file_actions=actions)))
    for program, pid in started:
        _, status = os.waitpid(pid, 0)
        if status:
            code = os.waitstatus_to_exitcode(status)
            os.write(told, f" ({program} ended with status {code})".encode())
