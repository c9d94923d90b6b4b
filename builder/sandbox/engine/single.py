"""A step in namespaces of its own where a single id is mapped: owners and devices are recorded.

Its mounts, processes and network are the kernel's, as where a full range of ids is mapped. The
supervisor stays outside of them; the step's first process is started in them, and hands over the
program's calls.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from typing import TYPE_CHECKING, NoReturn, Protocol

from builder.errors import SandboxError
from builder.sandbox import syscalls, wire
from builder.sandbox.engine import (
    abi,
    boundtrees,
    singleanswers,
    singledirect,
    singleplan,
    supervisor,
)
from builder.sandbox.engine.identities import Identities, Identity
from builder.sandbox.engine.interruptions import Interruptions
from builder.sandbox.engine.mounted import MountedView
from builder.sandbox.engine.overlaid import OverlaidRecords
from builder.sandbox.engine.records import Records
from builder.sandbox.engine.singleforked import Forked
from builder.sandbox.engine.step import Step
from builder.sandbox.spec import Overlay

if TYPE_CHECKING:
    from builder.sandbox import init, process
    from builder.sandbox.engine.maderoot import MadeRoot
    from builder.sandbox.spec import SandboxSpec

_COARSE = 5  # CLOCK_REALTIME_COARSE, which files are stamped with
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class First(Protocol):
    """How a step's first process is made; it ends with the program, and with it all others."""

    def start(self, ends: supervisor.Ends) -> int:
        """Make it."""

    def root(self) -> MadeRoot:
        """The root that was made, once the program's process waits."""

    def trouble(self) -> wire.Report | None:
        """What went wrong before there was a program."""

    def code(self, code: int) -> int:
        """The program's exit code by that of the first process."""


class _Single:
    """One step (implements Tasks), which ends with its first process."""

    def __init__(self, spec: SandboxSpec, upper: str, first: First) -> None:
        self.status: dict[int, int] = {}
        self.step = Step(-1, {}, Records(0, 0), Identities(Identity()), has_umasks=False)
        self._spec = spec
        self._how = first
        self._first = 0
        self._stubs: tuple[tuple[str, int], ...] = ()
        self._interruptions = Interruptions(abi.abi_of(syscalls.MACHINE), singleplan.HANDLERS)
        self._upper_fd = os.open(upper, _DIRECTORY)
        # Changes to come have this time or a later one: what is copied up is told apart by it.
        self._started = time.clock_gettime_ns(_COARSE)

    def start(self, ends: supervisor.Ends) -> int:
        """Make the first process."""
        self._first = self._how.start(ends)
        return self._first

    def begin(self, child: int) -> None:
        """Take in what is known of the root; `child`, the program's process, waits."""
        self._interruptions.begin(child)
        root = self._how.root()
        records = OverlaidRecords(root.fd, self._upper_fd, self._started)
        records.seed(root.fd, self._spec.recorded)
        for device, inode, uid, gid in root.owned:
            record = records.make((device, inode))
            record.uid, record.gid = uid, gid
        for path in (*self._spec.process.cwd.split("/"), *(m.target for m in self._spec.mounts)):
            records.called(os.fsencode(path))
        boundtrees.seed(records, root.fd, self._spec.mounts, root.bound)
        self._stubs = root.stubs
        self.step.records = records
        self.step.identities = Identities(Identity.of(root.owner))
        self.step.views[b""] = MountedView(root.fd, self.step.process_of)

    def reap(self) -> bool:
        """Wait for what has ended; whether the first process has not."""
        self.status.update(self._interruptions.reap())
        return self._first not in self.status

    def kill(self) -> None:
        """Kill the first process, and with it all others."""
        if self._first and self._first not in self.status:
            os.kill(self._first, signal.SIGKILL)

    def finish(self) -> wire.Report:
        """What is to be told, or what went wrong."""
        told = tuple(self.step.records.told())
        return self._how.trouble() or wire.Report(self._stubs, told)


def run(
    equipment: singledirect.Equipment | None,
    descriptors: init.Descriptors,
    scratch: str,
    tools: process.Tools,
) -> NoReturn:
    """Be a step's supervisor to its end."""
    kept = equipment.fds if equipment is not None else ()
    prepare = functools.partial(_prepare, equipment)
    supervisor.serve(descriptors, scratch, tools, prepare, kept)


def _prepare(
    equipment: singledirect.Equipment | None, spec: SandboxSpec, scratch: str, tools: process.Tools
) -> supervisor.Ready:
    if not isinstance(spec.root, Overlay):
        raise SandboxError("this sandbox needs an overlay as the root of a step")
    os.umask(0)  # files that we make have the modes that were asked for
    first: First
    if equipment is not None and singledirect.fits(spec):
        first = singledirect.Direct(equipment, spec, scratch)
    else:
        first = Forked(spec, scratch, tools)
    single = _Single(spec, spec.root.upper, first)
    return supervisor.Ready(
        single.step,
        singleplan.HANDLERS,
        single,
        single.start,
        single.finish,
        lambda: None,
        first.code,
        lambda answers: singleanswers.mirror(single.step, answers),
        lasts=not isinstance(first, Forked),
    )
