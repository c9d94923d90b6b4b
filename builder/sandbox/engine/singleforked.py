"""A step of a single id with a copy of its supervisor as first process: for what few steps want.

The first process makes the root, hands it over, and starts the program, as init does.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, NoReturn

from builder.sandbox import init, process, syscalls, wire
from builder.sandbox.credentials import Credentials
from builder.sandbox.engine import singleplan, supervisor
from builder.sandbox.engine.maderoot import MadeRoot

if TYPE_CHECKING:
    from builder.sandbox.spec import SandboxSpec

_LARGE = 1 << 20  # bytes; what the first process tells is a name and some numbers
_ABOVE = 20  # fds of what a process becomes: its error pipe and the trampoline
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Forked:
    """The first process of one step (implements First)."""

    def __init__(self, spec: SandboxSpec, scratch: str, tools: process.Tools) -> None:
        """Start nothing yet."""
        self._spec = spec
        self._scratch = scratch
        self._tools = tools
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._trouble = os.memfd_create("trouble", os.MFD_CLOEXEC)

    def start(self, ends: supervisor.Ends) -> int:
        """Make the process."""
        fork = lambda: syscalls.fork_into(syscalls.CLONE_NEWPID)  # noqa: E731 - one expression
        return supervisor.forked(self._become, fork)(ends)

    def root(self) -> MadeRoot:
        """What it tells of its root, once that is made."""
        data, fds, _, _ = socket.recv_fds(self._ours, _LARGE, 1)
        facts = json.loads(data)
        uid, gid, groups = facts["user"]
        owner = Credentials(uid, gid, tuple(groups), "")
        stubs = tuple((path, mtime) for path, mtime in facts["stubs"])
        return MadeRoot(fds[0], facts["owned"], facts["bound"], stubs, owner)

    def trouble(self) -> wire.Report | None:
        """What went wrong."""
        os.lseek(self._trouble, 0, os.SEEK_SET)
        data = init.read_all(self._trouble)
        return (wire.decode_report(data) or wire.Report()) if data else None

    def code(self, code: int) -> int:
        """It ends as the program did."""
        return code

    def _become(self, channel: socket.socket) -> NoReturn:
        """Be the step's first process to its end."""

        def run_it() -> int:
            spec = self._spec
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.umask(0o022)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # our /proc is ours until we enter the root
            ready = init.prepare(spec, self._scratch, init.mount_everything, recording=True)
            init.enter(ready)
            _tell(self._theirs, ready)
            manner = _manner(ready, channel)

            def become(error_fd: int) -> NoReturn:
                process.become(spec, ready.credentials, self._tools, error_fd, manner)

            return init.supervise(spec, become, lambda: None)

        init.guarded(run_it, self._trouble)


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
