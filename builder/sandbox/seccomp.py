"""The seccomp filter of a RUN process: from the allow-list data to a classic BPF program.

Pure: builds bytes, installs nothing. Foreign architectures and numbers above the known table
get ENOSYS, so that programs fall back as on an old kernel; what is refused gets EPERM.
"""

from __future__ import annotations

import errno
import struct

from builder.errors import HostUnsupportedError
from builder.sandbox.seccomp_table import ALLOWED, LAST_KNOWN

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALLOW = 0x7FFF0000
_NOTIFY = 0x7FC00000
_REFUSE = 0x00050000  # SECCOMP_RET_ERRNO, the number in the low half

_NUMBER, _ARCHITECTURE, _ARGUMENT0, _ARGUMENT0_HIGH = 0, 4, 16, 20
_ARGUMENT = 8  # bytes

# Calls that make devices, each with the position of the mode.
_MAKING = {"x86_64": ((133, 1), (259, 2)), "aarch64": ((33, 2),)}
_DEVICE = 0o020000  # a bit that character and block devices have, and nothing else that is made

_NAMESPACE_FLAGS = 0x7E020000  # every CLONE_NEW* that clone(2) takes
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_FAMILIES_REFUSED = (38, 40)  # AF_ALG, AF_VSOCK

# audit architecture, column in the table, (clone, clone3, personality, socket)
_MACHINES = {
    "x86_64": (0xC000003E, 1, (56, 435, 135, 41)),
    "aarch64": (0xC00000B7, 2, (220, 435, 92, 198)),
}

Instruction = tuple[int, int, int, int]

_OTHER_WAY = 0x40000000  # the bit of x32's numbers
# What is above the table but a number of this machine's is let through.
_NEWER: tuple[Instruction, ...] = (
    (_AT_LEAST, 2, 0, _OTHER_WAY),
    (_AT_LEAST, 0, 1, LAST_KNOWN + 1),
    (_RETURN, 0, 0, _ALLOW),
)


def allowed_numbers(machine: str) -> tuple[int, ...]:
    """The numbers allowed whatever their arguments, sorted."""
    column = _MACHINES[machine][1]
    rows = (item.split(":") for item in ALLOWED.split())
    return tuple(sorted(int(row[column]) for row in rows if row[column]))


def ranges(numbers: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Sorted numbers as closed intervals."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def _ret(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _errno(number: int) -> Instruction:
    return _ret(_REFUSE | number)


def _when_number(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body` (which returns on every path) for one system call."""
    return [(_EQUAL, 0, len(body), number), *body]


def _special(calls: tuple[int, int, int, int]) -> list[Instruction]:
    clone, clone3, personality, socket = calls
    values: list[Instruction] = []
    for value in _PERSONALITIES:
        values += [(_EQUAL, 0, 1, value), _ret(_ALLOW)]
    families: list[Instruction] = []
    for family in _FAMILIES_REFUSED:
        families += [(_EQUAL, 0, 1, family), _errno(errno.EPERM)]
    load: Instruction = (_LOAD, 0, 0, _ARGUMENT0)
    namespaces = [(_ANY_BIT, 0, 1, _NAMESPACE_FLAGS), _errno(errno.EPERM), _ret(_ALLOW)]
    return [
        *_when_number(clone3, [_errno(errno.ENOSYS)]),
        *_when_number(clone, [load, *namespaces]),
        *_when_number(personality, [load, *values, _errno(errno.EPERM)]),
        *_when_number(socket, [load, *families, _ret(_ALLOW)]),
    ]


def program(machine: str, answered: tuple[int, ...] = (), *, newer: bool = False) -> bytes:
    """The filter for a machine name as instructions of eight bytes.

    Where another filter hands calls to somebody who answers them, a refusal here would win:
    the numbers `answered`, and with `newer` those that are unknown here, are let through for it.

    Raises:
        HostUnsupportedError: no table for this machine.
    """
    if machine not in _MACHINES:
        raise HostUnsupportedError(
            f'no system call table for machine "{machine}"',
            hint="RUN works on x86_64 and aarch64",
        )
    architecture, _, calls = _MACHINES[machine]
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        _errno(errno.ENOSYS),
        (_LOAD, 0, 0, _NUMBER),
        *(_NEWER if newer else ()),
        (_AT_LEAST, 0, 1, LAST_KNOWN + 1),
        _errno(errno.ENOSYS),
        *_special(calls),
    ]
    numbers = tuple(sorted({*allowed_numbers(machine), *answered}))
    # Ascending intervals: below the first bound nothing further can match.
    for first, last in ranges(numbers):
        code += [(_AT_LEAST, 1, 0, first), _errno(errno.EPERM)]
        code += [(_AT_LEAST, 1, 0, last + 1), _ret(_ALLOW)]
    code.append(_errno(errno.EPERM))
    return _packed(code)


def devices(machine: str) -> bytes:
    """The filter that hands over the calls by which devices are made, and allows everything.

    Raises:
        HostUnsupportedError: no table for this machine.
    """
    if machine not in _MAKING:
        raise HostUnsupportedError(f'no system call table for machine "{machine}"')
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _MACHINES[machine][0]),
        _ret(_ALLOW),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for number, position in _MAKING[machine]:
        mode: Instruction = (_LOAD, 0, 0, _ARGUMENT0 + _ARGUMENT * position)
        tested = [mode, (_ANY_BIT, 0, 1, _DEVICE), _ret(_NOTIFY), _ret(_ALLOW)]
        code += _when_number(number, tested)
    return _packed([*code, _ret(_ALLOW)])


def _packed(code: list[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
