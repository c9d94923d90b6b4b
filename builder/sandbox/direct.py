"""Steps prepared by the launcher itself and finished by the interpreter: no Python is forked.

The launcher enters the namespaces of the step, makes its root, and is back in its own before
anything of the image runs; the interpreter, process 1 of the step's PID namespace, mounts /proc,
changes the root and starts the program. Only for steps like most; init.py runs the others, and
all of them where this is not to be had. Must not know how steps are asked for.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
from typing import TYPE_CHECKING, Self

from builder.errors import HostUnsupportedError
from builder.sandbox import becoming, beginning, init, interpreter, process, syscalls, wire
from builder.sandbox.script import Script
from builder.sandbox.spec import NetworkMode, Overlay
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.sandbox.init import Descriptors
    from builder.sandbox.mounts import Scratch
    from builder.sandbox.spec import SandboxSpec


@value
class Direct:
    """What such steps need and is made once."""

    home: beginning.Home
    interpreter: beginning.Interpreter
    becoming: Script
    becoming_built: bytes
    scratch: str

    @classmethod
    def make(cls, scratch: str, tools: process.Tools) -> Self | None:
        """Prepare in the launcher; None where it cannot be had."""
        found = beginning.Interpreter.make()
        if found is None:
            return None
        script = _becoming(bytes(tools.filter))
        try:
            built = beginning.second(script)
            return cls(beginning.Home.here(), found, script, built, scratch)
        except (OSError, HostUnsupportedError):
            return None


@value
class Running:
    """A step on its way. The descriptors are its own."""

    pid: int
    results: int
    report: int
    stderr: int
    program: str
    scripts: tuple[tuple[int, Script], ...]  # by the address each lies at
    is_prepared: bool


def fits(spec: SandboxSpec) -> bool:
    """Whether a step can be run like this."""
    return (
        spec.network is NetworkMode.HOST
        and isinstance(spec.root, Overlay)
        and not (spec.insecure or spec.interactive)
        and not (spec.cgroups or spec.processors or spec.ulimits)
        and becoming.fits(spec.process)
    )


def start(direct: Direct, spec: SandboxSpec, descriptors: Descriptors) -> Running:
    """Prepare and start a step. What goes wrong with it is in its report.

    Raises:
        OSError: no process could be started.
    """
    results = os.memfd_create("results", os.MFD_CLOEXEC)
    text = os.memfd_create("script", os.MFD_CLOEXEC)
    ours, theirs = socket.socketpair()
    script = Script()
    pid, is_prepared = 0, False
    try:
        scratch = init.leave(direct.scratch)
        syscalls.unshare(syscalls.CLONE_NEWPID)
        streams = (direct.interpreter.null, descriptors.stdout, descriptors.stderr)
        pid = direct.interpreter.start(streams, (results, theirs.fileno(), text), ())
        theirs.close()
        with _told(descriptors.report):
            _prepare(direct, spec, script, scratch, beginning.Talk(ours, text), descriptors.report)
            is_prepared = True
    except BaseException:
        os.close(results)
        raise
    finally:
        direct.home.enter()
        if is_prepared:
            with contextlib.suppress(OSError):  # it has ended, which shows in its results
                ours.send(b"2")  # nothing of ours is in the step's namespaces any more
        ours.close()
        theirs.close()
        os.close(text)
    report, stderr = (os.dup(fd) for fd in (descriptors.report, descriptors.stderr))
    scripts = ((interpreter.SECOND, direct.becoming), (interpreter.THIRD, script))
    return Running(pid, results, report, stderr, spec.process.argv[0], scripts, is_prepared)


def finish(running: Running, code: int) -> int:
    """The exit code of a step whose process 1 ended with `code`; tells what went wrong."""
    try:
        return _outcome(running, code)
    finally:
        for fd in (running.results, running.report, running.stderr):
            os.close(fd)


def _outcome(running: Running, code: int) -> int:
    if not running.is_prepared:
        return process.NOT_EXECUTABLE
    told = becoming.outcome(running.results, running.scripts, running.program, code)
    if told.text:
        os.write(running.stderr, told.text.encode("utf-8", "surrogateescape"))
    if told.error is not None:
        os.ftruncate(running.report, 0)
        os.lseek(running.report, 0, os.SEEK_SET)
        init.report(running.report, wire.Report(error=told.error))
    return told.code


@contextlib.contextmanager
def _told(report: int) -> Iterator[None]:
    """Report what goes wrong."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the launcher goes on with other steps
        init.report(report, init.explained(error))


def _prepare(
    direct: Direct,
    spec: SandboxSpec,
    script: Script,
    scratch: Scratch,
    talk: beginning.Talk,
    report: int,
) -> None:
    """Make the root, and write the script that starts the program in it."""
    mount = functools.partial(init.mount_everything, mount_proc=talk.mount_proc)
    ready, root_path = init.finish(spec, scratch, mount)
    os.close(ready.working_directory)
    os.close(ready.root.fd)
    becoming.in_new_root(script, spec, root_path)
    becoming.take_ids(script, ready.credentials)
    becoming.execute(script, spec.process, ready.credentials)
    talk.write(direct.becoming_built, script)
    init.report(report, wire.Report(stubs=tuple(reversed(ready.root.stubs))))


def _becoming(filter_code: bytes) -> Script:
    """What process.become() does first: limits, keyring, filter, capabilities. For any step."""
    script = Script()
    becoming.close_all(script)
    becoming.settle(script)
    script.call("umask", 0o022)
    becoming.restrict(script, filter_code)
    becoming.drop_bounds(script)
    script.call("capset", *syscalls.capability_sets(process.CAPABILITIES))
    becoming.go_back(script)
    return script
