"""The seccomp program, run by a small interpreter for both architectures."""

from __future__ import annotations

import errno
import struct

import pytest

from builder.errors import HostUnsupportedError
from builder.sandbox import seccomp, trampoline
from builder.sandbox.seccomp_table import ALLOWED, LAST_KNOWN

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW = "allow"


NOTIFY = 0x7FC00000


def verdict(machine, number, argument=0, architecture=None):
    """What the filter says: "allow" or an errno."""
    action = ran(seccomp.program(machine), machine, number, (argument,), architecture)
    return ALLOW if action == 0x7FFF0000 else action & 0xFFFF


def ran(program, machine, number, arguments=(), architecture=None):
    """The action that a program gives."""
    code = list(struct.iter_unpack("=HBBI", program))
    six = (*arguments, *[0] * 6)[:6]
    data = struct.pack("=IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *six)
    accumulator, position = 0, 0
    while True:
        operation, yes, no, value = code[position]
        position += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
            continue
        taken = {
            0x15: accumulator == value,
            0x35: accumulator >= value,
            0x45: bool(accumulator & value),
        }[operation]
        position += yes if taken else no


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_only_devices_are_handed_over(machine):
    """F3: mknod of a character or block device; files, FIFOs, sockets and other calls are not."""
    calls = {"x86_64": ((133, 1), (259, 2)), "aarch64": ((33, 2),)}[machine]
    program = seccomp.devices(machine)
    for number, position in calls:
        for mode in (0o20644, 0o60000, 0o20000):
            assert ran(program, machine, number, (*[0] * position, mode)) == NOTIFY
        for mode in (0, 0o644, 0o100644, 0o10644, 0o140755):
            assert ran(program, machine, number, (*[0] * position, mode)) == 0x7FFF0000
        assert ran(program, machine, number, (0, 0o20644, 0o20644), 0x40000003) == 0x7FFF0000
    assert ran(program, machine, 1, (0o20000, 0o20000, 0o20000)) == 0x7FFF0000
    with pytest.raises(HostUnsupportedError):
        seccomp.devices("riscv64")


REFUSED = {  # name: (x86_64, aarch64)
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "mount": (165, 40),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_by_handle_at": (304, 265),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "reboot": (169, 142),
    "clock_settime": (227, 112),
}


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize("name", REFUSED)
def test_administration_is_refused(machine, name):
    """What administers the host gets EPERM on both architectures (D11)."""
    assert verdict(machine, REFUSED[name][machine == "aarch64"]) == errno.EPERM


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_arguments_decide_where_they_must(machine):
    """clone, socket and personality are judged by their first argument (D11, D25)."""
    clone, socket, personality = {"x86_64": (56, 41, 135), "aarch64": (220, 198, 92)}[machine]
    assert verdict(machine, clone, 17) == ALLOW
    for flag in (0x10000000, 0x00020000, 0x40000000, 0x02000000):
        assert verdict(machine, clone, 17 | flag) == errno.EPERM
    assert verdict(machine, socket, 2) == verdict(machine, socket, 1) == ALLOW
    assert verdict(machine, socket, 38) == verdict(machine, socket, 40) == errno.EPERM
    assert verdict(machine, personality, 0xFFFFFFFF) == verdict(machine, personality, 8) == ALLOW
    assert verdict(machine, personality, 0x0400000) == errno.EPERM


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_unknown_calls_look_like_an_old_kernel(machine):
    """clone3, numbers above the table, x32 and foreign architectures get ENOSYS (D11)."""
    assert verdict(machine, 435) == errno.ENOSYS
    assert verdict(machine, LAST_KNOWN + 1) == errno.ENOSYS
    assert verdict(machine, 0x40000000 + 1) == errno.ENOSYS
    assert verdict(machine, 1, architecture=0x40000003) == errno.ENOSYS


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_exactly_the_table_is_allowed(machine):
    """Every other number is allowed if and only if the table has it."""
    column = 1 + (machine == "aarch64")
    listed = {int(row.split(":")[column]) for row in ALLOWED.split() if row.split(":")[column]}
    special = {"x86_64": {56, 435, 135, 41}, "aarch64": {220, 435, 92, 198}}[machine]
    for number in range(LAST_KNOWN + 1):
        if number not in special:
            assert (verdict(machine, number) == ALLOW) == (number in listed), number


def test_an_unknown_machine_is_an_honest_error():
    """No table, no RUN (D27)."""
    with pytest.raises(HostUnsupportedError, match="riscv64"):
        seccomp.program("riscv64")


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_trampoline_is_an_elf_whose_only_segment_is_not_writable(machine):
    """The header describes the whole file as one read-execute segment (D04)."""
    image = trampoline.image(machine)
    kind, flags, offset, _, _, size, _, _ = struct.unpack_from("<IIQQQQQQ", image, 64)
    assert (kind, flags, offset, size) == (1, 5, 0, len(image))
    assert image.startswith(b"\x7fELF")
