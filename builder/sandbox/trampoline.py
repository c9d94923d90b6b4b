"""The program between Python and the image's: a sealed in-memory ELF that only calls execve.

Without it the image could name /proc/self/exe as the interpreter of a script and so run, and
later overwrite, the host's Python (D04). With it that name is this file: sealed, in memory,
and refusing to run a second time. Its whole work, on fd 3 = the write end of an error pipe:

    fcntl(3, F_SETFD, FD_CLOEXEC), or exit 126 when there is no fd 3
    execve(argv[0], argv + 1, envp)
    write(3, &result, 8); exit 126
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from builder.errors import HostUnsupportedError
from builder.sandbox import syscalls

ERROR_FD = 3

BASE = 0x400000
_HEADER, _SEGMENT = 64, 56  # bytes

_CODE = {
    "x86_64": (
        62,  # EM_X86_64
        (
            "b848000000 bf03000000 be02000000 ba01000000 0f05"  # fcntl
            "4885c0 782f"  # negative: exit
            "488b0c24 488b7c2408 488d742410 488d54cc10 b83b000000 0f05"  # execve
            "50 b801000000 bf03000000 4889e6 ba08000000 0f05"  # write
            "b8e7000000 bf7e000000 0f05"  # exit_group(126)
        ),
    ),
    "aarch64": (
        183,  # EM_AARCH64
        (
            "280380d2 600080d2 410080d2 220080d2 010000d4"  # fcntl
            "a001f8b7"  # negative: exit
            "e30340f9 e00740f9 e1430091 220c038b a81b80d2 010000d4"  # execve
            "e00300f9 080880d2 600080d2 e1030091 020180d2 010000d4"  # write
            "c80b80d2 c00f80d2 010000d4"  # exit_group(126)
        ),
    ),
}


def image(machine: str) -> bytes:
    """The ELF file for a machine name."""
    return elf(machine, bytes.fromhex(_CODE[machine][1]))


def headers_size(segments: int) -> int:
    """How far from BASE the code of an elf() begins."""
    return _HEADER + segments * _SEGMENT


def elf(machine: str, code: bytes, memory: tuple[int, int] | None = None) -> bytes:
    """An ELF file that begins with `code`, which is read-only; `memory` is (address, size)."""
    start = headers_size(1 if memory is None else 2)
    size = start + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,  # ET_EXEC
        _CODE[machine][0],
        1,
        BASE + start,
        64,
        0,
        0,
        _HEADER,
        _SEGMENT,
        1 if memory is None else 2,
        0,
        0,
        0,
    )
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    if memory is not None:
        address, room = memory
        segments += struct.pack("<IIQQQQQQ", 1, 6, 0, address, address, 0, room, 0x1000)
    return header + segments + code


def sealed(data: bytes) -> int:
    """An executable fd of an ELF file that nobody can change any more."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("init", flags | syscalls.MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise HostUnsupportedError(
                f"executable memory files are refused: {error.strerror}",
                hint="set the sysctl vm.memfd_noexec to 0 or 1",
            ) from error
        fd = os.memfd_create("init", flags)  # before 6.3: always executable
    os.write(fd, data)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
