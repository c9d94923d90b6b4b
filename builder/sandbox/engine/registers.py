"""A stopped task's registers by what they mean to a system call, and ptrace itself."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from builder.sandbox import syscalls

CONT, SYSCALL, GETEVENTMSG, SEIZE, INTERRUPT, LISTEN = 7, 24, 0x4201, 0x4206, 0x4207, 0x4208
GETSIGMASK, SETSIGMASK = 0x420A, 0x420B
_GETREGSET, _SETREGSET = 0x4204, 0x4205
_PRSTATUS, _SYSTEM_CALL = 1, 0x404
O_TRACEFORK, O_TRACEVFORK, O_TRACECLONE, O_TRACEEXEC = 0x2, 0x4, 0x8, 0x10
O_SYSGOOD, O_TRACESECCOMP, O_EXITKILL = 0x1, 0x80, 0x100000

_AARCH64: Final = syscalls.MACHINE == "aarch64"
_WORDS = 34 if _AARCH64 else 27
_ARGUMENTS = (0, 1, 2, 3, 4, 5) if _AARCH64 else (14, 13, 12, 7, 9, 8)
_RESULT, _STACK, _COUNTER = (0, 31, 32) if _AARCH64 else (10, 19, 16)
_NUMBER = 8 if _AARCH64 else 15  # x8; orig_rax
_INSTRUCTION = 4 if _AARCH64 else 2  # bytes of svc; of syscall
_NONE = (1 << 64) - 1
_RESTART_MAYBE, RESTART = 512, 513  # ERESTARTSYS, ERESTARTNOINTR: of the kernel, to itself
RESULT_IS_ARGUMENT: Final = _AARCH64  # x0 holds the first argument, then the result

_PTRACE = ctypes.CDLL(None, use_errno=True).ptrace
_PTRACE.restype = ctypes.c_long
_PTRACE.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


_DATA = (ctypes.c_uint64 * _WORDS)()
_IOVEC = ctypes.c_uint64 * 2  # struct iovec: address, length
_VECTOR = _IOVEC(ctypes.addressof(_DATA), ctypes.sizeof(_DATA))
_CALL_NUMBER = ctypes.c_int(0)
_CALL_VECTOR = _IOVEC(ctypes.addressof(_CALL_NUMBER), ctypes.sizeof(_CALL_NUMBER))


def ptrace(request: int, task: int, address: int = 0, data: int = 0) -> None:
    """Trace a task: the system call of this name, with numbers.

    Raises:
        ProcessLookupError: the task is gone; OSError: anything else.
    """
    if _PTRACE(request, task, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def event_message(task: int) -> int:
    """What the event a task stopped for says: a new task's id, the old id at exec."""
    message = ctypes.c_ulong(0)
    ptrace(GETEVENTMSG, task, 0, ctypes.addressof(message))
    return message.value


class Registers:
    """The registers of a task that is stopped."""

    def __init__(self, task: int, words: tuple[int, ...]) -> None:
        """Hold a copy of the words."""
        self._task = task
        self._words = list(words)

    @classmethod
    def of(cls, task: int) -> Registers:
        """Read a task's."""
        _VECTOR[1] = ctypes.sizeof(_DATA)
        ptrace(_GETREGSET, task, _PRSTATUS, ctypes.addressof(_VECTOR))
        return cls(task, tuple(_DATA))

    def copy(self) -> Registers:
        """The same words again."""
        return Registers(self._task, tuple(self._words))

    @property
    def number(self) -> int:
        """The number of the call."""
        return self._words[_NUMBER]

    @property
    def stack(self) -> int:
        """The stack pointer."""
        return self._words[_STACK]

    @property
    def result(self) -> int:
        """What the call returned, signed."""
        value: int = struct.unpack("<q", struct.pack("<Q", self._words[_RESULT]))[0]
        return value

    @property
    def interrupted(self) -> bool:
        """Whether a signal interrupted the call, so that its handler may let it fail.

        Where registers are those of before the call by then, this cannot be told.
        """
        return not RESULT_IS_ARGUMENT and self.result == -_RESTART_MAYBE

    def begin_anew(self) -> None:
        """Let an interrupted call be made again, whatever the handler of the signal says."""
        self._words[_RESULT] = (-RESTART) & _NONE
        self.store()

    def argument(self, position: int) -> int:
        """An argument of the call."""
        return self._words[_ARGUMENTS[position]]

    def set_argument(self, position: int, value: int) -> None:
        """Change an argument."""
        self._words[_ARGUMENTS[position]] = value & _NONE

    def store(self) -> None:
        """Write all of them back."""
        for position, word in enumerate(self._words):
            _DATA[position] = word
        _VECTOR[1] = ctypes.sizeof(_DATA)
        ptrace(_SETREGSET, self._task, _PRSTATUS, ctypes.addressof(_VECTOR))

    def call_instead(self, number: int, *arguments: int) -> None:
        """Make the call about to be made another one."""
        for position, value in enumerate(arguments):
            self.set_argument(position, value)
        self._set_number(number)
        self.store()

    def skip(self, error: int) -> None:
        """Let the call about to be made fail without being made."""
        self._words[_RESULT] = (-error) & _NONE
        self._set_number(_NONE)
        self.store()

    def again(self) -> None:
        """Go back to before the call's instruction, as if it was never executed."""
        self._words[_COUNTER] -= _INSTRUCTION
        if not _AARCH64:
            self._words[_RESULT] = self._words[_NUMBER]
            self._words[_NUMBER] = _NONE
        self.store()

    def call_now(self, number: int, *arguments: int, anew: bool) -> None:
        """Have a task on its way back from a call make another one first; we stay as they are.

        `anew` says that it was about to make the call again.
        """
        words = self.copy()
        for position, value in enumerate(arguments):
            words.set_argument(position, value)
        words.prepare(number, rewind=not (_AARCH64 and anew))
        words.store()

    def prepare(self, number: int, *, rewind: bool) -> None:
        """Stand before the call's instruction, with another number."""
        if rewind:
            self._words[_COUNTER] -= _INSTRUCTION
        if _AARCH64:
            self._words[_NUMBER] = number
        else:
            self._words[_RESULT], self._words[_NUMBER] = number, _NONE

    def returning(self, result: int) -> None:
        """Have a task that was about to make its call again return from it with a result."""
        if _AARCH64:
            self._words[_COUNTER] += _INSTRUCTION
        else:
            self._words[_NUMBER] = _NONE
        self._words[_RESULT] = result & _NONE
        self.store()

    def begin_as(self, number: int, *arguments: int) -> None:
        """Have a task that was about to make its call again make another one instead."""
        for position, value in enumerate(arguments):
            self.set_argument(position, value)
        self._words[_NUMBER] = number
        self.store()

    def _set_number(self, number: int) -> None:
        if not _AARCH64:
            self._words[_NUMBER] = number
            return
        _CALL_NUMBER.value = -1 if number == _NONE else number
        ptrace(_SETREGSET, self._task, _SYSTEM_CALL, ctypes.addressof(_CALL_VECTOR))
