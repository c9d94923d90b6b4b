"""Programs for other machines: which emulators this host has, and the kernel told of them.

Since 6.7 each user namespace can have its own binfmt_misc. What is registered there with the
flag F is opened once, so that nothing of the emulator is in the image, and only programs in
our namespace are concerned: no root, no set-up of the host. `emulator_for` is for sandboxes
that start programs themselves.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from builder.sandbox import syscalls
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable

PACKAGE = "qemu-user-static"
_DIRECTORIES = ("/usr/bin", "/usr/local/bin", "/bin")
_REGISTERED = "/proc/sys/fs/binfmt_misc"
_NOTHING_MORE = 64  # bytes of an ELF header
_PROGRAM_INTERPRETER = 3  # PT_INTERP
_MAX_HEADERS = 64  # program headers looked at
_FLAGS = "POCF"  # argv[0] kept, program opened, its set-id bits heeded, emulator opened now


@value
class Machine:
    """A kind of machine: its OCI architecture, qemu's name, and what its ELF headers say."""

    architecture: str
    name: str
    bits: int
    number: int
    big_endian: bool = False


MACHINES = (
    Machine("386", "i386", 32, 3),
    Machine("amd64", "x86_64", 64, 62),
    Machine("arm", "arm", 32, 40),
    Machine("arm64", "aarch64", 64, 183),
    Machine("loong64", "loongarch64", 64, 258),
    Machine("mips64le", "mips64el", 64, 8),
    Machine("mipsle", "mipsel", 32, 8),
    Machine("ppc64", "ppc64", 64, 21, big_endian=True),
    Machine("ppc64le", "ppc64le", 64, 21),
    Machine("riscv64", "riscv64", 64, 243),
    Machine("s390x", "s390x", 64, 22, big_endian=True),
)


@value
class Emulator:
    """A program that runs those of a machine."""

    machine: Machine
    path: str


def emulators(own: str, directories: Iterable[str] = _DIRECTORIES) -> tuple[Emulator, ...]:
    """What is installed here for machines other than `own` (as uname names it).

    A program that needs a loader is no use: inside an image its own would be looked for.
    """
    found = []
    places = tuple(directories)
    for machine in MACHINES:
        if machine.name == own:
            continue
        names = (f"qemu-{machine.name}-static", f"qemu-{machine.name}")
        paths = (f"{directory}/{name}" for name in names for directory in places)
        path = next((path for path in paths if _is_static(path)), "")
        if path:
            found.append(Emulator(machine, path))
    return tuple(found)


def _is_static(path: str) -> bool:
    """Whether a program of this machine can run without a loader."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        header = os.read(fd, _NOTHING_MORE)
        if len(header) < _NOTHING_MORE or header[:5] != b"\x7fELF\x02":
            return False
        (start,) = struct.unpack_from("=Q", header, 32)
        size, count = struct.unpack_from("=HH", header, 54)
        for index in range(min(count, _MAX_HEADERS)):
            kind = os.pread(fd, 4, start + index * size)
            if kind == struct.pack("=I", _PROGRAM_INTERPRETER):
                return False
    except (OSError, OverflowError):
        return False
    finally:
        os.close(fd)
    return os.access(path, os.X_OK)


def pattern(machine: Machine) -> tuple[bytes, bytes]:
    """How the first bytes of a machine's programs look, and which bits of them count.

    The system byte may be anything; the type may be that of a program or of a shared object.
    """
    order = ">" if machine.big_endian else "<"
    start = b"\x7fELF" + bytes((machine.bits // 32, 2 if machine.big_endian else 1, 1))
    magic = start + bytes(9) + struct.pack(f"{order}HH", 2, machine.number)
    mask = b"\xff" * 7 + b"\0" + b"\xff" * 8 + struct.pack(f"{order}HH", 0xFFFE, 0xFFFF)
    return magic, mask


def emulator_for(header: bytes, known: Iterable[Emulator]) -> str:
    """The emulator of a program, given its first bytes; "" when it needs none or has none."""
    for emulator in known:
        magic, mask = pattern(emulator.machine)
        seen = zip(header, magic, mask, strict=False)
        if len(header) >= len(magic) and all(a & m == b & m for a, b, m in seen):
            return emulator.path
    return ""


def registration(emulator: Emulator) -> bytes:
    """The line that tells the kernel of an emulator."""
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in part) for part in pattern(emulator.machine))
    return f":pybuild-{emulator.machine.name}:M::{magic}:{mask}:{emulator.path}:{_FLAGS}".encode()


def registered(known: Iterable[Emulator], directory: str = _REGISTERED) -> bool:
    """Whether the host itself has set up an emulator for one of these machines."""
    return any(os.path.exists(f"{directory}/qemu-{emulator.machine.name}") for emulator in known)


def register(known: Iterable[Emulator], directory: str) -> bool:
    """Tell the kernel; `directory` is where its file system stays mounted, in our namespace.

    False where the kernel is older, or refuses: what the host has registered itself still holds.
    """
    try:
        syscalls.mount("binfmt_misc", directory, "binfmt_misc")
        for emulator in known:
            fd = os.open(f"{directory}/register", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, registration(emulator))
            finally:
                os.close(fd)
    except OSError:
        return False
    return True
