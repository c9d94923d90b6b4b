"""A step of a single id prepared by its supervisor and begun by the interpreter: no Python is forked.

The supervisor enters the namespaces of the step, makes its root, and is back in its own before
anything of the image runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Self

from builder.sandbox import becoming, beginning, init, process, syscalls
from builder.sandbox.engine import abi, program, singleplan
from builder.sandbox.engine.maderoot import MadeRoot
from builder.sandbox.engine.results import Results
from builder.sandbox.script import Script
from builder.sandbox.spec import NetworkMode
from cache.value import value

if TYPE_CHECKING:
    from builder.sandbox.engine.supervisor import Ends
    from builder.sandbox.mounts import Scratch
    from builder.sandbox.spec import SandboxSpec


@value
class Equipment:
    """What such steps need and is made once: how to come home, and the interpreter."""

    home: beginning.Home
    interpreter: beginning.Interpreter
    filter_code: bytes

    @classmethod
    def make(cls, tools: process.Tools) -> Self | None:
        """Prepare in the launcher; None where it cannot be had."""
        found = beginning.Interpreter.make()
        if found is None:
            return None
        filter_code = bytes(tools.filter)
        _becoming(filter_code, is_root=True)  # of most steps; what is forked from us has it
        # Not the namespace of processes, which belongs to the host: only children leave it.
        return cls(beginning.Home.here(("mnt", "ipc", "uts", "cgroup")), found, filter_code)

    @property
    def fds(self) -> tuple[int, ...]:
        """What must stay open."""
        return (
            *self.interpreter.fds,
            *(fd for fd, _ in self.home.namespaces),
            self.home.root,
        )


def fits(spec: SandboxSpec) -> bool:
    """Whether a step can be run like this."""
    is_usual = spec.network is NetworkMode.HOST and not (spec.insecure or spec.ulimits)
    return is_usual and becoming.fits(spec.process)


class Direct:
    """The first process of one step (implements First)."""

    def __init__(self, equipment: Equipment, spec: SandboxSpec, scratch: str) -> None:
        """Start nothing yet."""
        self._equipment = equipment
        self._spec = spec
        self._scratch = scratch
        self._results = Results(spec.process.argv[0])
        self.trouble = self._results.trouble
        self.code = self._results.code
        self._root: MadeRoot | None = None
        self._pid = 0

    def start(self, ends: Ends) -> int:
        """Make the root and the process.

        Raises:
            SandboxError: the specification cannot be met.
        """
        text = os.memfd_create("script", os.MFD_CLOEXEC)
        try:
            pid = self._begin(ends, beginning.Talk(ends.ours, text))
        except OSError as error:
            raise init.explained(error).error or error from error
        finally:
            os.close(text)
        with contextlib.suppress(OSError):  # it has ended, which shows in its results
            ends.ours.send(b"2")  # nothing of ours is in the step's namespaces any more
        return pid

    def _begin(self, ends: Ends, talk: beginning.Talk) -> int:
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # our /proc is ours until something runs
        os.umask(0o022)
        try:
            scratch = init.leave(self._scratch)
            theirs = (self._results.fd, ends.theirs.fileno(), talk.text)
            outer = self._equipment.interpreter.start((0, 1, 2), theirs, ())
            ends.theirs.close()
            self._prepare(talk, scratch)
            os.waitpid(outer, 0)
        finally:
            self._equipment.home.enter()
            os.umask(0)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        return self._pid

    def _prepare(self, talk: beginning.Talk, scratch: Scratch) -> None:
        spec, script = self._spec, self._results.third
        mount_proc = functools.partial(talk.mount_proc, apart=self._apart)
        mount = functools.partial(init.mount_everything, mount_proc=mount_proc)
        ready, root_path = init.finish(spec, scratch, mount, recording=True)
        os.close(ready.working_directory)
        root, owner = ready.root, ready.credentials
        stubs = tuple(reversed(root.stubs))
        self._root = MadeRoot(root.fd, root.owned or (), root.bound, stubs, owner)
        becoming.in_new_root(script, spec, root_path)
        becoming.execute(script, spec.process, owner)
        self._results.second, built = _becoming(self._equipment.filter_code, is_root=owner.uid == 0)
        talk.write(built, script)

    def _apart(self, pid: int) -> None:
        """The process that is the first of its namespace has a number in ours."""
        self._pid = pid

    def root(self) -> MadeRoot:
        """What was made."""
        assert self._root is not None  # noqa: S101 - start() came before
        return self._root


@functools.cache
def _becoming(filter_code: bytes, *, is_root: bool) -> tuple[Script, bytes]:
    """What a step's process does first: for any step of root, or of others."""
    plan = program.program(abi.abi_of(syscalls.MACHINE), singleplan.plan(is_root=is_root))
    script = Script()
    becoming.settle(script)
    script.call("umask", 0o022)
    becoming.report_in(script)
    becoming.restrict(script, filter_code)  # while CAP_SYS_ADMIN: no_new_privs stays off
    becoming.hand_over(script, plan)
    becoming.close_all(script)
    becoming.drop_bounds(script)
    script.call("capset", *syscalls.capability_sets(process.CAPABILITIES))
    becoming.go_back(script)
    return script, beginning.second(script)
