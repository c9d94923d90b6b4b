"""What only a task itself can do about places: go there, run what lies there, stay open to us.

It is made to: a descriptor is put into it, and its call becomes another one. Knows nothing of
paths that lie in the tree.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel
from builder.sandbox.engine.kernel import fail
from builder.sandbox.engine.natively import acting_as
from builder.sandbox.engine.registers import RESTART
from builder.sandbox.engine.remote import borrowed
from builder.sandbox.engine.taskowners import owner_of
from builder.sandbox.engine.view import fd_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.remote import Borrowed
    from builder.sandbox.engine.step import Step
    from builder.sandbox.engine.taskowners import Owner

_SET_DUMPABLE = 1 << 32 | 4  # which is 4 to the kernel, but not to the plan of such a step
_MOST_SCRIPTS = 5  # that are run by scripts, as the kernel's
_HEAD = 256  # bytes of a script's first line that count
_MAX_ARGUMENTS = 1 << 17
_RED_ZONE = 256  # bytes below the stack pointer that are the task's


class OwnHand:
    """Calls of one step's tasks."""

    def __init__(self, ended: Callable[[int, int], None], numbers: Mapping[str, int]) -> None:
        """`ended` is told of tasks that end meanwhile, `numbers` are those of calls by name."""
        self._ended = ended
        self._numbers = numbers

    def reach(self, task: int) -> None:
        """Be allowed to read a task that changed its ids: the kernel looks at our real ones.

        Raises:
            ProcessLookupError: it is gone.
        """
        owner = owner_of(task)
        os.setresgid(owner.gids[0], -1, -1)
        os.setresuid(owner.uids[0], -1, -1)

    def change_directory(self, step: Step, request: Request, fd: int) -> None:
        """Have a task work in the directory of an O_PATH fd."""
        readable = os.open(fd_path(fd), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        number = -1

        def release() -> None:
            nonlocal number
            number = _put(step, request, readable)

        try:
            with self._borrowed(request, release, anew=True) as task:
                if number < 0:
                    return
                result = task.call(self._numbers["fchdir"], number)
                task.call(self._numbers["close"], number)
                task.registers.returning(result)
        finally:
            os.close(readable)

    def change_ids(self, step: Step, request: Request) -> None:
        """Let a task change its ids, and be read nevertheless."""

        def release() -> None:
            kernel.proceed(step.listener, request.id)

        with self._borrowed(request, release, anew=False) as task:
            task.call(self._numbers["prctl"], _SET_DUMPABLE, 1)

    def execute(self, step: Step, request: Request, path: bytes, at: int) -> int | None:
        """Have a task execute what lies in a place; `at` is the position of the path."""
        program, leading, fd = self._program(step, request.task, path)
        pointers = kernel.read_pointers(request.task, request.arguments[at + 1], _MAX_ARGUMENTS)
        kept = pointers[1:] if leading else pointers
        number = -1

        def release() -> None:
            nonlocal number
            number = _put(step, request, fd)

        try:
            with self._borrowed(request, release, anew=True) as task:
                if number < 0:
                    return None
                name = b"" if fd >= 0 else program
                place, array = _write(request.task, task.registers.stack, (name, *leading), kept)
                variables = request.arguments[at + 2]
                if fd >= 0:
                    given = (number, place, array, variables, kernel.AT_EMPTY_PATH)
                    task.registers.begin_as(self._numbers["execveat"], *given)
                else:
                    task.registers.begin_as(self._numbers["execve"], place, array, variables)
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def _program(self, step: Step, task: int, path: bytes) -> tuple[bytes, list[bytes], int]:
        """What is executed in the end, its first arguments if that is a script's, and its fd.

        The fd is -1 for what the kernel finds by itself.
        """
        view, leading = step.view(task), list[bytes]()
        for _ in range(_MOST_SCRIPTS):
            found = view.resolved(task, path, follow=True)
            if not view.lies_in_place(found):
                return path, leading, -1
            fd = view.open(task, found, os.O_RDONLY | os.O_NONBLOCK)
            try:
                head = _head(fd, owner_of(task))
            except OSError:
                os.close(fd)
                raise
            if not head.startswith(b"#!"):
                return path, leading, fd
            os.close(fd)
            words = head[2:].partition(b"\n")[0].split(None, 1)
            if not words:
                fail(errno.ENOEXEC)
            leading = [words[0], *(word.strip() for word in words[1:]), path, *leading[1:]]
            path = words[0]
        return fail(errno.ELOOP)

    def _borrowed(
        self, request: Request, release: Callable[[], None], *, anew: bool
    ) -> AbstractContextManager[Borrowed]:
        return borrowed(request.task, release, self._ended, anew=anew)


def _put(step: Step, request: Request, fd: int) -> int:
    """Have a task make its call again, with a copy of our fd if there is one; its number there.

    It is -1 if that cannot be, which is then what the call says.
    """
    number = 0
    if fd >= 0:
        try:
            number = kernel.put_fd(step.listener, request.id, fd, os.O_CLOEXEC)
        except OSError as error:
            kernel.answer(step.listener, request.id, 0, error.errno or errno.EMFILE)
            return -1
    kernel.answer(step.listener, request.id, 0, RESTART)
    return number


def _head(fd: int, owner: Owner) -> bytes:
    """The first bytes of a program that somebody may execute."""
    with acting_as(owner):
        if not os.access(fd_path(fd), os.X_OK, effective_ids=True):
            fail(errno.EACCES)
    return os.pread(fd, _HEAD, 0)


def _write(task: int, stack: int, texts: tuple[bytes, ...], kept: list[int]) -> tuple[int, int]:
    """Write a path, new arguments and the array of all; where the path and the array are."""
    data = [text + b"\0" for text in texts]
    start = place = stack - _RED_ZONE - sum(len(text) for text in data)
    addresses = []
    for text in data:
        addresses.append(place)
        place += len(text)
    pointers = [*addresses[1:], *kept, 0]
    array = (start - 8 * len(pointers)) & ~15
    kernel.write(task, start, b"".join(data))
    kernel.write(task, array, struct.pack(f"<{len(pointers)}Q", *pointers))
    return addresses[0], array
