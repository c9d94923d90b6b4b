"""Process 1 of a step as a program of 170 bytes: it makes the system calls that a script lists.

Forking Python twice for each step costs several times what the step's own calls do. This program
is one sealed file in memory, has no branch of its own but those a script asks for, and is started
with vfork. Its machine code knows one loop over entries of 72 bytes:

    number (4 bytes), which of the first three arguments are slots (2), slot for the result (2),
    entry to go on with after an error (8; 0 is fatal), after a result of zero (8; 0 is the next),
    six arguments (48)

A number of -1 compares its first two arguments and goes on with the third when they are equal;
-2 stores its first. Slots are eight bytes each in memory of the program's own. After a fatal
error the entry's address and the error are in the slots REPORT and REPORT + 8, and the program
writes them to descriptor 3 and ends with 126. The script built in here waits for a byte on
descriptor 4, reads further entries from descriptor 5 and goes on with those. It refuses to run a
second time, when there is no descriptor 3 any more (D04). Must not know what a step is.
"""

from __future__ import annotations

import struct

from builder.sandbox import trampoline

RESULTS, GO, SCRIPT = 3, 4, 5  # descriptors
JUMP, STORE = 0xFFFFFFFF, 0xFFFFFFFE  # in place of a system call's number
ENTRY = struct.Struct("<IHHQQ6Q")
NONE, REPORT = 0, 8  # slots: results nobody wants, and two that are told of
SLOTS = 0x10000000
FIRST, SECOND = SLOTS + 0x1000, SLOTS + 0x11000  # where scripts are read to
FIRST_ROOM, SECOND_ROOM = 0x10000, 0x400000  # bytes
THIRD_AT = 0x8000  # within what is read second: room for a script that is always the same
THIRD = SECOND + THIRD_AT
_FAILED = 126

_CODE = {
    "x86_64": (
        "488d1d39010000 41bf00000010"  # rbx = this script's third entry, r15 = slots
        # loop: the arguments, the first three from slots where marked
        "488b7b18 488b7320 488b5328 4c8b5330 4c8b4338 4c8b4b40 0fb74b04"
        "d1e9 7304 498b3c3f d1e9 7304 498b3437 d1e9 7304 498b1417"
        "8b03 83f8ff 7438 83f8fe 7425 0f05"  # jump, store, or the call
        "0fb74b06 4989040f 483d01f0ffff 732b"  # its result; an error
        "4885c0 7516 488b4b10 4885c9 740d 4889cb eb9b"  # zero, with somewhere to go
        "0fb74b06 49893c0f 4883c348 eb8d"  # store; next
        "4839f7 75f5 4889d3 eb83"  # jump
        "488b4b08 4885c9 7408 4889cb e972ffffff"  # error, with somewhere to go
        "49895f08 49894710 488d1d06000000 e95effffff 90"  # fatal: this script's first entry
    ),
    "aarch64": (
        "d3090010 1400a2d2"  # x19 = this script's third entry, x20 = slots
        "608641a9 628e42a9 649643a9 680240b9 690a4079"
        "49000036 806a60f8 49000836 816a61f8 49001036 826a62f8"
        "1f050031 20020054 1f090031 60010054 010000d4"  # jump, store, or the call
        "690e4079 806a29f8 1ffc3fb1 c2010054"  # its result; an error
        "e00000b5 690a40f9 a90000b4 f30309aa e8ffff17"  # zero, with somewhere to go
        "690e4079 806a29f8 73220191 e4ffff17"  # store; next
        "1f0001eb a1ffff54 f30302aa e0ffff17"  # jump
        "690640f9 690000b4 f30309aa dcffff17"  # error, with somewhere to go
        "938200a9 53000010 d9ffff17"  # fatal: this script's first entry
    ),
}

# The numbers of the calls that scripts make, for the machines there is code for.
CALLS = {
    name: dict(zip(("x86_64", "aarch64"), numbers, strict=True))
    for name, numbers in {
        "capset": (126, 91),
        "chdir": (80, 49),
        "chroot": (161, 51),
        "clone": (56, 220),
        "close": (3, 57),
        "close_range": (436, 436),
        "execve": (59, 221),
        "exit_group": (231, 94),
        "fchdir": (81, 50),
        "fcntl": (72, 25),
        "keyctl": (250, 219),
        "landlock_restrict_self": (446, 446),
        "mount": (165, 40),
        "openat": (257, 56),
        "pivot_root": (155, 41),
        "prctl": (157, 167),
        "pread64": (17, 67),
        "prlimit64": (302, 261),
        "read": (0, 63),
        "rt_sigaction": (13, 134),
        "seccomp": (317, 277),
        "sendmsg": (46, 211),
        "setgroups": (116, 159),
        "setresgid": (119, 149),
        "setresuid": (117, 147),
        "setsid": (112, 157),
        "umask": (95, 166),
        "umount2": (166, 39),
        "wait4": (61, 260),
        "write": (1, 64),
    }.items()
}


def runs_on(machine: str) -> bool:
    """Whether there is a program for a machine name."""
    return machine in _CODE


def image(machine: str) -> bytes:
    """The ELF file for a machine name."""
    code = bytes.fromhex(_CODE[machine])
    start = trampoline.BASE + trampoline.headers_size(2)
    script = start + len(code)

    def entry(call: str, *arguments: int, on_error: int = 0, on_zero: int = 0) -> bytes:
        number = JUMP if call == "jump" else CALLS[call][machine]
        padded = (*arguments, *(0,) * (6 - len(arguments)))
        return ENTRY.pack(number, 0, 0, on_error, on_zero, *padded)

    end = script + ENTRY.size
    text = b"".join(
        (
            entry("write", RESULTS, SLOTS + REPORT, 16, on_error=end),
            entry("exit_group", _FAILED),
            entry("fcntl", RESULTS, 2, 1, on_error=end),  # F_SETFD, FD_CLOEXEC
            entry("read", GO, SLOTS + NONE, 1, on_zero=end),
            entry("pread64", SCRIPT, FIRST, FIRST_ROOM, 0),
            entry("jump", 0, 0, FIRST),
        )
    )
    return trampoline.elf(machine, code + text, (SLOTS, SECOND + SECOND_ROOM - SLOTS))
