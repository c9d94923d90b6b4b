"""A tiny program for another machine, assembled by hand: nothing to fetch, no cross compiler."""

from __future__ import annotations

import struct

GREETING = b"hello from arm64\n"
MADE = b"/made\0"
_BASE, _HEADERS = 0x400000, 64 + 56


def _move(register, number):
    """Movz xN, #number."""
    return 0xD2800000 | number << 5 | register


def _move_minus_100(register):
    """Movn xN, #99: AT_FDCWD."""
    return 0x92800000 | 99 << 5 | register


def _address(register, distance):
    """Adr xN, here + distance."""
    return 0x10000000 | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5 | register


def arm64_program():
    """Make the directory /made, greet on standard output, end with 0."""
    call = 0xD4000001
    length = 13 * 4
    code = [
        _move_minus_100(0),
        _address(1, length + len(GREETING) - 4),
        _move(2, 0o755),
        _move(8, 34),  # mkdirat
        call,
        _move(0, 1),
        _address(1, length - 6 * 4),
        _move(2, len(GREETING)),
        _move(8, 64),  # write
        call,
        _move(0, 0),
        _move(8, 93),  # exit
        call,
    ]
    body = struct.pack("<13I", *code) + GREETING + MADE
    size = _HEADERS + len(body)
    start = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = start + struct.pack(
        "<HHIQQQIHHHHHH", 2, 183, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + body
