"""A log of the calls the engine answers, for who looks into what a program does: name, path, answer.

Off unless PYBUILD_DEBUG_EMULATE names a file; nothing is wrapped then, so it costs nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel
from builder.sandbox.engine.step import CONTINUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from builder.sandbox.engine.registers import Registers
    from builder.sandbox.engine.step import Handler, Step

VARIABLE = "PYBUILD_DEBUG_EMULATE"
# Which arguments are paths, where that is not the first, or the second of a name that ends in "at".
_PATHS: Mapping[str, tuple[int, ...]] = {
    "rename": (0, 1), "renameat": (1, 3), "renameat2": (1, 3), "link": (0, 1), "linkat": (1, 3),
    "symlink": (0, 1), "symlinkat": (0, 2), "faccessat2": (1,), "fchmodat2": (1,), "statx": (1,),
    "openat2": (1,), "inotify_add_watch": (1,), "mount": (0, 1), "pivot_root": (0, 1),
}  # fmt: skip
_ONE_PATH = frozenset({
    "open", "creat", "stat", "lstat", "access", "readlink", "mkdir", "rmdir", "unlink", "chmod",
    "chown", "lchown", "mknod", "utime", "utimes", "truncate", "statfs", "chdir", "chroot",
    "execve", "setxattr", "lsetxattr", "getxattr", "lgetxattr", "listxattr", "llistxattr",
    "removexattr", "lremovexattr", "umount2", "swapon", "swapoff", "acct", "uselib",
})  # fmt: skip


class CallLog:
    """A file to which a line is added for each call."""

    def __init__(self, path: str) -> None:
        """Open the file, or make it."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)

    def add(self, task: int, name: str, paths: Sequence[str], answer: str) -> None:
        """Add a line."""
        line = " ".join((str(task), name, *paths, "->", answer))
        os.write(self._fd, f"{line}\n".encode())

    def handler(self, name: str, act: Handler) -> Handler:
        """A handler that tells what it answered."""

        def handle(step: Step, request: kernel.Request) -> int | None:
            paths = _paths(request.task, name, request.arguments.__getitem__)
            with self._failure(request.task, name, paths):
                result = act(step, request)
            answer = "done" if result is None else str(result)
            answer = "left to the kernel" if result == CONTINUE else answer
            self.add(request.task, name, paths, answer)
            return result

        return handle

    def act(
        self, name: str, act: Callable[[int, Registers], None]
    ) -> Callable[[int, Registers], None]:
        """A rewriting of a call that tells of it."""

        def handle(task: int, found: Registers) -> None:
            paths = _paths(task, name, found.argument)
            with self._failure(task, name, paths):
                act(task, found)
            self.add(task, name, paths, "left to the kernel, rewritten")

        return handle

    @contextlib.contextmanager
    def _failure(self, task: int, name: str, paths: Sequence[str]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.add(task, name, paths, errno.errorcode.get(error.errno or 0, str(error)))
            raise


def from_environment() -> CallLog | None:
    """The log that the builder's environment asks for."""
    path = os.environ.get(VARIABLE)
    return CallLog(path) if path else None


def _paths(task: int, name: str, argument: Callable[[int], int]) -> list[str]:
    positions = _PATHS.get(name)
    if positions is None:
        positions = (0,) if name in _ONE_PATH else (1,) if name.endswith("at") else ()
    return [_text(task, argument(position)) for position in positions]


def _text(task: int, address: int) -> str:
    try:
        path = kernel.read_path(task, address)
    except OSError:
        return "?"
    return repr(os.fsdecode(path).encode("utf-8", "surrogateescape"))[1:]
