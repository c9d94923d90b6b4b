"""What executing a guest path means on the host: loader, arguments, and the program's own name.

A dynamic program is started by its loader from the step's tree, with --argv0 where the loader
knows that; `#!` is followed here, because the kernel would look for the interpreter on the host.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

from builder.sandbox import syscalls
from builder.sandbox.emulators import MACHINES, emulator_for
from builder.sandbox.engine import kernel, permissions
from builder.sandbox.engine.view import fail, fd_path
from cache.value import value

if TYPE_CHECKING:
    from builder.sandbox.engine.step import Step

_ELF = b"\x7fELF"
_HEADER = 64  # bytes of an ELF header
_CLASS_64 = 2
_DATA, _LITTLE_ENDIAN, _NUMBER_AT = 5, 1, 18  # byte order and kind of machine in a header
_INTERPRETER = 3  # PT_INTERP
_MAX_SEGMENTS = 128
_MAX_NAME = 4096
_LINE = 256  # bytes the kernel reads of a script's first line
_MAX_SCRIPTS = 5  # interpreters that are scripts themselves
_ARGV0 = b"--argv0"
_MAX_LOADER = 16 << 20
_ANY_EXECUTE = 0o111
_OPEN = (b"/proc/self/fd/", b"/dev/fd/")  # names of what the caller has open


@value
class Execution:
    """What to execute. `leading` are new first arguments; the caller's follow from `rest` on."""

    host: bytes
    leading: tuple[bytes, ...]
    rest: int
    guest: bytes  # what /proc/self/exe says
    uid: int = -1  # set-user-id: the new effective id
    gid: int = -1


class Programs:
    """Plans executions; remembers which loaders know --argv0."""

    def __init__(self, step: Step) -> None:
        """Plan for a step."""
        self._step = step
        self._loaders: dict[tuple[int, int, int], bool] = {}

    def plan(self, task: int, path: bytes, argv0: bytes, written: bytes) -> Execution:
        """Say how to execute an absolute guest path, which the caller wrote as `written`.

        Raises:
            OSError: it cannot be, as execve would say.
        """
        leading: tuple[bytes, ...] = ()
        rest = 0  # how many of the caller's arguments the leading ones replace
        for _ in range(_MAX_SCRIPTS):
            fd = self._executable(task, path)
            try:
                start = os.pread(fd, _LINE, 0)
                if start.startswith(b"#!"):
                    leading = (*_interpreter(start), written, *leading[1:])
                    written = argv0 = leading[0]
                    path, rest = self._absolute(task, written), 1
                    continue
                return self._elf(task, fd, (path, leading, rest, argv0))
            finally:
                os.close(fd)
        return fail(errno.ELOOP)

    def _absolute(self, task: int, path: bytes) -> bytes:
        return permissions.named(self._step, task, kernel.AT_FDCWD, path)

    def _executable(self, task: int, path: bytes) -> int:
        view = self._step.view(task)
        reference = view.reference(task, path)
        try:
            mode = self._step.records.shown(os.fstat(reference))[0]
            if not stat.S_ISREG(mode) or not mode & _ANY_EXECUTE:
                fail(errno.EACCES)
            permissions.require(self._step, task, reference, permissions.EXECUTE)
            return os.open(fd_path(reference), os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(reference)

    def _elf(
        self, task: int, fd: int, how: tuple[bytes, tuple[bytes, ...], int, bytes]
    ) -> Execution:
        path, leading, rest, argv0 = how
        view = self._step.view(task)
        host = os.readlink(fd_path(fd))
        if not os.fstat(fd).st_nlink and path.startswith(_OPEN):
            host = b"/proc/self/fd/" + path.rpartition(b"/")[2]  # memory, or removed meanwhile
        guest = view.guest_name(host)
        uid, gid = self._set_ids(fd) if not leading else (-1, -1)
        first = leading[:1] or (argv0,)
        header = os.pread(fd, _HEADER, 0)
        emulator = emulator_for(header, self._step.emulators)
        if not emulator:
            self._tell_of_foreign(header, guest)
        else:
            arguments = (emulator.encode(), b"-0", first[0], guest, *leading[1:])
            return Execution(emulator.encode(), arguments, rest or 1, guest, uid, gid)
        loader = _loader(fd)
        if loader is None:
            return Execution(host, leading or first, rest or 1, guest, uid, gid)
        reference = view.reference(task, self._absolute(task, loader))
        try:
            name = os.readlink(fd_path(reference))
            known = (_ARGV0, first[0]) if self._knows_argv0(reference) else ()
        finally:
            os.close(reference)
        arguments = (loader, *known, guest, *leading[1:])
        return Execution(name, arguments, rest or 1, guest, uid, gid)

    def _tell_of_foreign(self, header: bytes, guest: bytes) -> None:
        """Say why a program cannot be executed that would run elsewhere; execve has but one errno."""
        kind = foreign(header)
        if kind:
            name = os.fsdecode(guest)
            text = f"{name}: programs for {kind} cannot be executed in this step"
            self._step.tell(("foreign", kind), text)
            fail(errno.ENOEXEC)

    def _set_ids(self, fd: int) -> tuple[int, int]:
        mode, uid, gid = self._step.records.shown(os.fstat(fd))
        return (
            uid if mode & stat.S_ISUID else -1,
            gid if mode & stat.S_ISGID and mode & stat.S_IXGRP else -1,
        )

    def _knows_argv0(self, reference: int) -> bool:
        status = os.fstat(reference)
        key = (status.st_dev, status.st_ino, status.st_mtime_ns)
        known = self._loaders.get(key)
        if known is None:
            with open(fd_path(reference), "rb") as file:
                known = _ARGV0 in file.read(_MAX_LOADER)
            self._loaders[key] = known
        return known


def foreign(header: bytes) -> str:
    """What kind of machine an ELF program is for; empty for this one, and for what is no ELF."""
    if len(header) < _HEADER or header[:4] != _ELF:
        return ""
    order = "<" if header[_DATA] == _LITTLE_ENDIAN else ">"
    (number,) = struct.unpack_from(f"{order}H", header, _NUMBER_AT)
    for machine in MACHINES:
        if (machine.number, machine.big_endian) == (number, order == ">"):
            own = machine.name == syscalls.MACHINE
            if own and header[4] == _CLASS_64:
                return ""
            if own:
                return f"{machine.name} with 32-bit addresses"
            if machine.bits == 32 * header[4]:
                return machine.name
    return f"machine number {number}"


def _interpreter(start: bytes) -> tuple[bytes, ...]:
    """Interpreter and at most one argument of a script's first line."""
    line = start[2:].split(b"\n", 1)[0].strip(b" \t")
    words = line.split(None, 1)
    if not words:
        fail(errno.ENOEXEC)
    return tuple(words)


def _loader(fd: int) -> bytes | None:
    """PT_INTERP of an ELF file of this machine's kind; None for a static one.

    Raises:
        OSError: ENOEXEC, for anything else (32-bit programs included).
    """
    header = os.pread(fd, _HEADER, 0)
    if len(header) < _HEADER or header[:4] != _ELF or header[4] != _CLASS_64:
        fail(errno.ENOEXEC)
    (offset,) = struct.unpack_from("<Q", header, 32)
    size, count = struct.unpack_from("<HH", header, 54)
    if size < 40 or count > _MAX_SEGMENTS:  # noqa: PLR2004 - the fields read below
        fail(errno.ENOEXEC)
    for number in range(count):
        segment = os.pread(fd, size, offset + number * size)
        if len(segment) == size and struct.unpack_from("<I", segment)[0] == _INTERPRETER:
            (where,) = struct.unpack_from("<Q", segment, 8)
            (length,) = struct.unpack_from("<Q", segment, 32)
            return os.pread(fd, min(length, _MAX_NAME), where).split(b"\0")[0]
    return None
