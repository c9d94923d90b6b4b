"""Emulators of other machines: which are found, what the kernel is told, what is recognised."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st
from support.foreign_programs import arm64_program

from builder.sandbox.emulators import (
    MACHINES,
    Emulator,
    emulator_for,
    emulators,
    pattern,
    registered,
    registration,
)
from builder.sandbox.trial import try_registering

KNOWN = tuple(Emulator(machine, f"/q/{machine.name}") for machine in MACHINES)


def elf(*segments, bits=2):
    """A little-endian 64-bit header with program headers of these types."""
    start = b"\x7fELF" + bytes([bits, 1, 1])
    header = start.ljust(32, b"\0") + struct.pack("<Q", 64)
    header = header.ljust(54, b"\0") + struct.pack("<HH", 56, len(segments))
    return header.ljust(64, b"\0") + b"".join(struct.pack("<I52x", kind) for kind in segments)


def install(directory, name, content, mode=0o755):
    path = directory / name
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_only_programs_without_a_loader_are_used(tmp_path):
    """Issue 4: inside an image the loader of a dynamic emulator would not be there."""
    path = install(tmp_path, "qemu-aarch64-static", elf(1, 6))
    install(tmp_path, "qemu-riscv64", elf(1, 3))
    install(tmp_path, "qemu-s390x-static", elf(1), mode=0o644 & ~0o111)
    install(tmp_path, "qemu-arm-static", b"#!/bin/sh\n")
    install(tmp_path, "qemu-x86_64-static", elf(1))
    found = emulators("x86_64", [str(tmp_path)])
    by_name = {emulator.machine.architecture: emulator.path for emulator in found}
    assert by_name.pop("arm64") == path
    assert set(by_name) <= {"s390x"}  # root may execute what nobody may, or may not


def test_a_program_is_recognised_by_its_header():
    """Issue 4: whoever starts programs itself asks which emulator one needs."""
    assert emulator_for(arm64_program(), KNOWN) == "/q/aarch64"
    assert emulator_for(b"#!/bin/sh\n", KNOWN) == ""
    assert emulator_for(arm64_program()[:10], KNOWN) == ""
    assert emulator_for(arm64_program(), ()) == ""


def test_machines_do_not_take_each_others_programs():
    """Each header has one emulator."""
    for machine in MACHINES:
        magic, _ = pattern(machine)
        assert emulator_for(magic, KNOWN) == f"/q/{machine.name}"


def test_the_kernel_is_told_a_line_it_can_read():
    """Issue 4: magic and mask are of the same length, the flag F opens the emulator at once."""
    for emulator in KNOWN:
        line = registration(emulator)
        _, name, kind, offset, magic, mask, path, flags = line.split(b":")
        assert (kind, offset, path.decode()) == (b"M", b"", emulator.path)
        assert name.startswith(b"pybuild-")
        assert magic.count(b"\\x") == mask.count(b"\\x") == 20
        assert b"F" in flags
        assert len(line) < 1920  # the kernel's limit


@given(st.binary(max_size=80))
def test_anything_may_be_looked_at(data):
    """Headers come from images: no bytes are a surprise."""
    assert emulator_for(data, KNOWN) in {"", *(emulator.path for emulator in KNOWN)}


def test_what_the_host_has_set_up_counts(tmp_path):
    """Issue 4: a registration of the host's holds in every namespace."""
    assert not registered(KNOWN, str(tmp_path))
    (tmp_path / "qemu-riscv64").touch()
    assert registered(KNOWN, str(tmp_path))


def test_a_namespace_may_have_emulators_of_its_own(tmp_path):
    """Issue 4: the kernel that runs the tests is 6.7 or newer."""
    assert try_registering(str(tmp_path)).works
