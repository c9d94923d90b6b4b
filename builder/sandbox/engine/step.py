"""A step under the engine: everything a call's handler works with."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from builder.sandbox.engine.view import View, fail
from cache.value import field, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.emulators import Emulator
    from builder.sandbox.engine.identities import Identities
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.records import Records

_STATUS = 4096  # bytes of /proc/PID/status, enough for its first lines
CONTINUE = -(1 << 62)  # a handler's answer: the kernel is to do the call as it stands

# Gives the result of a call, CONTINUE, or None when it was answered already.
if TYPE_CHECKING:
    Handler = Callable[["Step", Request], int | None]


@state
class Step:
    """One step. `programs` are guest paths of what processes execute, by process."""

    listener: int
    views: dict[bytes, View]  # by the guest path of the chroot they show; b"" for the step's own
    records: Records
    identities: Identities
    processes: dict[int, int] = field(default_factory=dict)  # thread to process
    programs: dict[int, bytes] = field(default_factory=dict)
    hostname: bytes = b""
    unsure: bool = False  # whether the step may hold references to what is not its own
    emulators: tuple[Emulator, ...] = ()  # of this host, for programs of other machines
    stops: bool = False  # whether a tracer heeds `returning`
    hidden: set[int] = field(default_factory=set)  # processes that asked not to be dumpable
    returning: dict[int, Request] = field(default_factory=dict)  # to be looked at, by task
    told: set[object] = field(default_factory=set)  # what was said already
    has_umasks: bool = True  # whether umasks are virtual, too
    has_network: bool = True

    def umask(self, task: int) -> int:
        """The umask of a task."""
        if self.has_umasks:
            return self.identities.of(task).umask
        with open(f"/proc/{task}/status", "rb", buffering=0) as file:
            return int(file.read(_STATUS).partition(b"\nUmask:")[2].split(None, 1)[0], 8)

    def view(self, task: int) -> View:
        """What a task sees."""
        if len(self.views) == 1:  # nobody changed the root
            return self.views[b""]
        return self.views[self.identities.of(task).root]

    def tell(self, what: object, text: str) -> None:
        """Say something about `what` on the step's stderr, the first time."""
        if what not in self.told:
            self.told.add(what)
            with contextlib.suppress(OSError):
                os.write(2, f"pybuild: {text}\n".encode("utf-8", "replace"))

    def require_writable(self, fd: int) -> None:
        """Refuse to change a file that is not the step's to change."""
        self.views[b""].require_writable(fd)

    def process_of(self, task: int) -> int:
        """The process of a thread."""
        return self.processes.get(task, task)

    def is_ours(self, process: int) -> bool:
        """Whether a process or thread belongs to the step."""
        return process in self.processes

    def change_root(self, task: int, path: bytes) -> None:
        """chroot(2): show a task and its children the tree below a guest path."""
        view = self.view(task)
        fd = view.reference(task, view.absolute(task, -100, path))
        try:
            if not os.path.isdir(b"/proc/self/fd/%d" % fd):
                fail(20)  # ENOTDIR
            host = os.readlink(b"/proc/self/fd/%d" % fd)
        finally:
            os.close(fd)
        identity = self.identities.of(task)
        if host not in self.views:
            self.views[host] = View(host, (), self.is_ours, self.process_of)
        self.identities.become(task, identity._replace(root=host))
