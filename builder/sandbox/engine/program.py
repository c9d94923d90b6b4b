"""The seccomp program that hands calls to the engine: what is notified, what is traced, bit tests.

Pure: builds bytes, installs nothing. Which calls go where is a plan by name; docker's allow-list
is a program of its own, and where both speak the kernel takes the refusal.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from cache.value import value

if TYPE_CHECKING:
    from builder.sandbox.engine.abi import Abi

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _NOTIFY, _TRACE, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x7FF00000, 0x00050000
_NOT_IMPLEMENTED = 38
_OTHER_WAY = 0x40000000  # the bit of x32's numbers
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]


@value
class Plan:
    """What happens to calls by name; those not named run as usual.

    `bits` are notified only if an argument (by position) has one of some bits, `traced_bits`
    traced; `equal` are notified only if an argument is a small number. Numbers of another way to call (x32) are nobody's and refused.
    """

    notify: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    refuse: tuple[tuple[str, int], ...] = ()  # with the errno
    bits: tuple[tuple[str, int, int], ...] = ()
    traced_bits: tuple[tuple[str, int, int], ...] = ()
    equal: tuple[tuple[str, int, int], ...] = ()
    known: int = 0  # numbers above this one are notified as well; 0 for none
    foreign: bool = False  # whether programs of other architectures, such as 32 bits, run as usual


CREATING = (("openat", 2, os.O_CREAT), ("open", 1, os.O_CREAT))


def program(abi: Abi, plan: Plan) -> bytes:
    """The program for a machine as instructions of eight bytes."""
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, abi.audit),
        (_RETURN, 0, 0, _ALLOW if plan.foreign else _ERRNO | _NOT_IMPLEMENTED),
        (_LOAD, 0, 0, _NUMBER),
        (_ANY_BIT, 0, 1, _OTHER_WAY),
        (_RETURN, 0, 0, _ERRNO | _NOT_IMPLEMENTED),
    ]
    for names, action in ((plan.notify, _NOTIFY), (plan.trace, _TRACE)):
        for number in _numbers(abi, names):
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]
    for name, errno in plan.refuse:
        for number in _numbers(abi, (name,)):
            code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno)]
    code += _tests_of_arguments(abi, plan)
    if plan.known:
        code += [(_AT_LEAST, 0, 1, plan.known + 1), (_RETURN, 0, 0, _NOTIFY)]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _tests_of_arguments(abi: Abi, plan: Plan) -> list[Instruction]:
    code: list[Instruction] = []
    for name, position, wanted in plan.equal:
        for number in _numbers(abi, (name,)):
            code += _if_equal(number, position, wanted)
    for tests, action in ((plan.bits, _NOTIFY), (plan.traced_bits, _TRACE)):
        for name, position, mask in tests:
            for number in _numbers(abi, (name,)):
                code += _if_bits(number, position, mask, action)
    return code


def _if_bits(number: int, position: int, mask: int, action: int) -> list[Instruction]:
    low, high = mask & 0xFFFFFFFF, mask >> 32
    place = _ARGUMENTS + 8 * position
    return [
        (_EQUAL, 0, 6, number),
        (_LOAD, 0, 0, place),
        (_ANY_BIT, 2, 0, low),
        (_LOAD, 0, 0, place + 4),
        (_ANY_BIT, 0, 1, high),
        (_RETURN, 0, 0, action),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _if_equal(number: int, position: int, wanted: int) -> list[Instruction]:
    """Notify a call with an argument of that number; what follows finds the call's own loaded."""
    place = _ARGUMENTS + 8 * position
    return [
        (_EQUAL, 0, 6, number),
        (_LOAD, 0, 0, place),
        (_EQUAL, 0, 3, wanted),
        (_LOAD, 0, 0, place + 4),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _NOTIFY),
        (_LOAD, 0, 0, _NUMBER),
    ]


def _numbers(abi: Abi, names: tuple[str, ...]) -> list[int]:
    return [abi.numbers[name] for name in names if name in abi.numbers]
