"""A step in namespaces of its own where a single id is mapped: owners and devices are recorded.

Its mounts, processes and network are the kernel's, as where a full range of ids is mapped. The
supervisor stays outside of them; the step's first process makes them, as ever, and hands over
its root and the program's calls.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from builder.errors import SandboxError
from builder.sandbox import init, process, syscalls, wire
from builder.sandbox.credentials import Credentials
from builder.sandbox.engine import abi, boundtrees, singleplan, supervisor
from builder.sandbox.engine.identities import Identities, Identity
from builder.sandbox.engine.interruptions import Interruptions
from builder.sandbox.engine.mounted import MountedView
from builder.sandbox.engine.overlaid import OverlaidRecords
from builder.sandbox.engine.records import Records
from builder.sandbox.engine.step import Step
from builder.sandbox.spec import Overlay
from cache.value import value

if TYPE_CHECKING:
    from builder.sandbox.spec import SandboxSpec

_LARGE = 1 << 20  # bytes; what the first process tells is a name and some numbers
_ABOVE = 20  # fds of what a process becomes: its error pipe and the trampoline
_COARSE = 5  # CLOCK_REALTIME_COARSE, which files are stamped with
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def run(descriptors: init.Descriptors, scratch: str, tools: process.Tools) -> NoReturn:
    """Be a step's supervisor to its end."""
    supervisor.serve(descriptors, scratch, tools, _prepare)


@value
class _Start:
    """What the step's first process works with; `told` goes to us, `trouble` is a file."""

    spec: SandboxSpec
    scratch: str
    tools: process.Tools
    told: socket.socket
    trouble: int


class _Single:
    """One step (implements Tasks), which ends with its first process."""

    def __init__(self, spec: SandboxSpec, upper: str, told: socket.socket, trouble: int) -> None:
        self.status: dict[int, int] = {}
        self.step = Step(-1, {}, Records(0, 0), Identities(Identity()), has_umasks=False)
        self._spec = spec
        self._told = told
        self._trouble = trouble
        self._first = 0
        self._interruptions = Interruptions(abi.abi_of(syscalls.MACHINE), singleplan.HANDLERS)
        self._stubs: tuple[tuple[str, int], ...] = ()
        self._upper_fd = os.open(upper, _DIRECTORY)
        # Changes to come have this time or a later one: what is copied up is told apart by it.
        self._started = time.clock_gettime_ns(_COARSE)

    def fork(self) -> int:
        """Make the first process."""
        pid = syscalls.fork_into(syscalls.CLONE_NEWPID)
        if pid:
            self._first = pid
        return pid

    def begin(self, child: int) -> None:
        """Take in what the first process told of its root; `child`, its program, waits."""
        self._interruptions.begin(child)
        data, fds, _, _ = socket.recv_fds(self._told, _LARGE, 1)
        facts = json.loads(data)
        root_fd = fds[0]
        records = OverlaidRecords(root_fd, self._upper_fd, self._started)
        records.seed(root_fd, self._spec.recorded)
        for device, inode, uid, gid in facts["owned"]:
            record = records.make((device, inode))
            record.uid, record.gid = uid, gid
        for path in (*self._spec.process.cwd.split("/"), *(m.target for m in self._spec.mounts)):
            records.called(os.fsencode(path))
        boundtrees.seed(records, root_fd, self._spec.mounts, facts["bound"])
        uid, gid, groups = facts["user"]
        owner = Credentials(uid, gid, tuple(groups), "")
        self._stubs = tuple((path, mtime) for path, mtime in facts["stubs"])
        self.step.records = records
        self.step.identities = Identities(Identity.of(owner))
        self.step.views[b""] = MountedView(root_fd, self.step.process_of)

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
        os.lseek(self._trouble, 0, os.SEEK_SET)
        data = init.read_all(self._trouble)
        if data:
            return wire.decode_report(data) or wire.Report()
        records = self.step.records
        return wire.Report(self._stubs, tuple(records.told()))


def _prepare(spec: SandboxSpec, scratch: str, tools: process.Tools) -> supervisor.Ready:
    if not isinstance(spec.root, Overlay):
        raise SandboxError("this sandbox needs an overlay as the root of a step")
    os.umask(0)  # files that we make have the modes that were asked for
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    trouble = os.memfd_create("trouble", os.MFD_CLOEXEC)
    single = _Single(spec, spec.root.upper, ours, trouble)
    start = _Start(spec, scratch, tools, theirs, trouble)
    return supervisor.Ready(
        single.step,
        singleplan.HANDLERS,
        single,
        lambda channel: _become(start, channel),
        single.finish,
        lambda: None,
        single.fork,
    )


def _become(start: _Start, channel: socket.socket) -> NoReturn:
    """Be the step's first process to its end."""

    def run_it() -> int:
        spec = start.spec
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.umask(0o022)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # our /proc is ours until we enter the root
        ready = init.prepare(spec, start.scratch, init.mount_everything, recording=True)
        init.enter(ready)
        _tell(start.told, ready)
        manner = _manner(ready, channel)

        def become(error_fd: int) -> NoReturn:
            process.become(spec, ready.credentials, start.tools, error_fd, manner)

        return init.supervise(spec, become, lambda: None)

    init.guarded(run_it, start.trouble)


def _tell(told: socket.socket, ready: init.Ready) -> None:
    user = ready.credentials
    facts = {
        "stubs": tuple(reversed(ready.root.stubs)),
        "owned": ready.root.owned,
        "bound": ready.root.bound,
        "user": (user.uid, user.gid, user.groups),
    }
    root = os.open("/", _DIRECTORY)
    socket.send_fds(told, [json.dumps(facts).encode("ascii")], [root])
    os.close(root)


def _manner(ready: init.Ready, channel: socket.socket) -> process.Manner:
    plan = singleplan.plan(is_root=ready.credentials.uid == 0)

    def hand_over() -> None:
        supervisor.hand_over(high, plan, lambda: None)

    # Out of the way of what a process arranges before it becomes another program.
    fd = fcntl.fcntl(channel, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
    high = socket.socket(fileno=fd)
    channel.close()
    return process.Manner(take_ids=lambda _: None, filtered=hand_over)
