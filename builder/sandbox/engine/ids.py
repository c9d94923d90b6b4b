"""Calls about who a process is: answered from its virtual identity, with the kernel's rules."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from builder.sandbox import process
from builder.sandbox.engine import kernel
from builder.sandbox.engine.step import CONTINUE
from builder.sandbox.engine.view import fail, signed

if TYPE_CHECKING:
    from builder.sandbox.engine.identities import Identity
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Handler, Step

GET_DUMPABLE, SET_DUMPABLE, SET_KEEPCAPS = 3, 4, 8  # of prctl
_SAME = -1
_USERS, _GROUPS = 0, 1  # kinds of ids
_MAX_GROUPS = 65536
_LAST = 40  # the last capability, CHECKPOINT_RESTORE
_VERSIONS = (0x19980330, 0x20071026, 0x20080522)  # of struct __user_cap_header_struct


def _own(identity: Identity, first: int) -> tuple[int, int, int]:
    """Real, effective and saved ids of one kind."""
    if first == _USERS:
        return identity.ruid, identity.euid, identity.suid
    return identity.rgid, identity.egid, identity.sgid


def _changed(identity: Identity, first: int, wanted: tuple[int, int, int]) -> Identity:
    """Set real, effective and saved ids; who is not root may only swap its own."""
    own = _own(identity, first)
    if (
        identity.euid
        and not identity.capable
        and any(number not in (_SAME, *own) for number in wanted)
    ):
        fail(errno.EPERM)
    real, effective, saved = (
        old if number == _SAME else number & 0xFFFFFFFF
        for old, number in zip(own, wanted, strict=True)
    )
    if first == _USERS:
        left = 0 in own and 0 not in (real, effective, saved)
        capable = identity.keeps if left else identity.capable
        return identity._replace(ruid=real, euid=effective, suid=saved, capable=capable)
    return identity._replace(rgid=real, egid=effective, sgid=saved)


def _set(step: Step, request: Request, first: int, wanted: tuple[int, int, int]) -> int:
    identity = step.identities.of(request.task)
    step.identities.become(request.task, _changed(identity, first, wanted))
    return 0


def _set_one(step: Step, request: Request, first: int) -> int:
    """Do setuid and setgid: all three for root, else only the effective one."""
    number = signed(request.arguments[0])
    if number == _SAME:
        fail(errno.EINVAL)
    root = step.identities.of(request.task).euid == 0
    wanted = (number, number, number) if root else (_SAME, number, _SAME)
    return _set(step, request, first, wanted)


def _set_two(step: Step, request: Request, first: int) -> int:
    """Do setreuid and setregid: the saved id follows when the real one is set or ids come to differ."""
    real, effective = (signed(number) for number in request.arguments[:2])
    own = _own(step.identities.of(request.task), first)
    follows = real != _SAME or effective not in {_SAME, own[0]}
    now = effective if effective != _SAME else own[1]
    return _set(step, request, first, (real, effective, now if follows else _SAME))


def _set_three(step: Step, request: Request, first: int) -> int:
    real, effective, saved = (signed(number) for number in request.arguments[:3])
    return _set(step, request, first, (real, effective, saved))


def _get_three(step: Step, request: Request, first: int) -> int:
    identity = step.identities.of(request.task)
    for address, number in zip(request.arguments[:3], _own(identity, first), strict=True):
        kernel.write(request.task, address, struct.pack("<I", number))
    return 0


def _set_groups(step: Step, request: Request) -> int:
    count, address = signed(request.arguments[0]), request.arguments[1]
    identity = step.identities.of(request.task)
    if identity.euid and not identity.capable:
        fail(errno.EPERM)
    if not 0 <= count <= _MAX_GROUPS:
        fail(errno.EINVAL)
    data = kernel.read_exactly(request.task, address, 4 * count)
    groups = tuple(sorted(struct.unpack(f"<{count}I", data)))
    step.identities.become(request.task, identity._replace(groups=groups))
    return 0


def _get_groups(step: Step, request: Request) -> int:
    size, address = signed(request.arguments[0]), request.arguments[1]
    groups = step.identities.of(request.task).groups
    if size:
        if size < len(groups):
            fail(errno.EINVAL)
        kernel.write(request.task, address, struct.pack(f"<{len(groups)}I", *groups))
    return len(groups)


def _get_capabilities(step: Step, request: Request) -> int:
    """capget: those of a container for root, none for others."""
    header, place = request.arguments[:2]
    version, target = struct.unpack("<Ii", kernel.read_exactly(request.task, header, 8))
    if version not in _VERSIONS:
        kernel.write(request.task, header, struct.pack("<I", _VERSIONS[-1]))
        return fail(errno.EINVAL) if place else 0
    if target and not step.is_ours(target):
        fail(errno.ESRCH)
    identity = step.identities.of(target or request.task)
    left = all((identity.ruid, identity.euid, identity.suid)) and not identity.capable
    permitted = 0 if left else process.CAPABILITIES
    effective = 0 if identity.euid else permitted
    data = struct.pack("<III", effective, permitted, 0)
    if version != _VERSIONS[0]:
        data += struct.pack("<III", effective >> 32, permitted >> 32, 0)
    kernel.write(request.task, place, data)
    return 0


def _control(step: Step, request: Request) -> int:
    """prctl, as far as it is about capabilities and who may read a process."""
    option, value = request.arguments[:2]
    identity = step.identities.of(request.task)
    match option & 0xFFFFFFFF:
        case 3 | 4:  # PR_GET_DUMPABLE, PR_SET_DUMPABLE
            return dumpable(step, request)
        case 7:  # PR_GET_KEEPCAPS
            return int(identity.keeps)
        case 8:  # PR_SET_KEEPCAPS
            if value > 1:
                fail(errno.EINVAL)
            step.identities.become(request.task, identity._replace(keeps=bool(value)))
            return 0
        case 23:  # PR_CAPBSET_READ
            return process.CAPABILITIES >> value & 1 if value <= _LAST else fail(errno.EINVAL)
        case 24:  # PR_CAPBSET_DROP
            if value > _LAST:
                fail(errno.EINVAL)
            return fail(errno.EPERM) if identity.euid and not identity.capable else 0
        case _:
            return CONTINUE


def dumpable(step: Step, request: Request) -> int:
    """Do as the kernel with GET_DUMPABLE and SET_DUMPABLE, but not hide a process from us."""
    process = step.process_of(request.task)
    if request.arguments[0] & 0xFFFFFFFF == GET_DUMPABLE:
        return int(process not in step.hidden)
    if request.arguments[1] > 1:
        fail(errno.EINVAL)
    if request.arguments[1]:
        step.hidden.discard(process)
    else:
        step.hidden.add(process)
    return 0


def _get(first: int, position: int = 0) -> Handler:
    return lambda step, request: _own(step.identities.of(request.task), first)[position]


def keep(step: Step, request: Request) -> int:
    """PR_SET_KEEPCAPS where capabilities are the kernel's, but ids are not."""
    identity = step.identities.of(request.task)
    keeps = request.arguments[1] == 1
    if identity.keeps != keeps:
        step.identities.become(request.task, identity._replace(keeps=keeps))
    return CONTINUE


CALLS: dict[str, Handler] = {
    "getuid": _get(_USERS),
    "geteuid": _get(_USERS, 1),
    "getgid": _get(_GROUPS),
    "getegid": _get(_GROUPS, 1),
    "setuid": lambda s, r: _set_one(s, r, _USERS),
    "setgid": lambda s, r: _set_one(s, r, _GROUPS),
    "setreuid": lambda s, r: _set_two(s, r, _USERS),
    "setregid": lambda s, r: _set_two(s, r, _GROUPS),
    "setresuid": lambda s, r: _set_three(s, r, _USERS),
    "setresgid": lambda s, r: _set_three(s, r, _GROUPS),
    "getresuid": lambda s, r: _get_three(s, r, _USERS),
    "getresgid": lambda s, r: _get_three(s, r, _GROUPS),
    "setfsuid": _get(_USERS, 1),
    "setfsgid": _get(_GROUPS, 1),
    "setgroups": _set_groups,
    "getgroups": _get_groups,
}
# Where the kernel gives a step no capabilities at all.
CAPABILITIES: dict[str, Handler] = {
    "capget": _get_capabilities,
    "prctl": _control,
    "capset": lambda _s, _r: 0,
}
