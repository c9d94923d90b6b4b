"""A step where nothing but seccomp and ptrace is allowed: every name is answered by the engine."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from typing import TYPE_CHECKING, NoReturn

from builder.errors import SandboxError
from builder.sandbox import (
    becoming,
    beginning,
    init,
    limits,
    process,
    seccomp,
    syscalls,
    targets,
    wire,
)
from builder.sandbox.engine import (
    abi,
    emulateanswers,
    landlock,
    netless,
    plainfirst,
    plans,
    program,
    supervisor,
)
from builder.sandbox.engine.identities import Identities, Identity
from builder.sandbox.engine.places import Places
from builder.sandbox.engine.plainfirst import FIRST_GIVEN, PlainFirst, Second, Way
from builder.sandbox.engine.records import Records
from builder.sandbox.engine.step import Step
from builder.sandbox.engine.tracer import Tracer
from builder.sandbox.engine.view import View, fd_path
from builder.sandbox.script import Script
from builder.sandbox.spec import NetworkMode, PlainRoot
from cache.value import replace, value

if TYPE_CHECKING:
    import socket

    from builder.sandbox.credentials import Credentials
    from builder.sandbox.emulators import Emulator
    from builder.sandbox.spec import SandboxSpec

_PR_SET_NO_NEW_PRIVS = 38


@value
class _Start:
    """Where and as whom the program begins."""

    spec: SandboxSpec
    places: Places
    directory: bytes  # of the host
    owner: Credentials
    readable: tuple[bytes, ...]  # paths of the host
    below: ctypes.Array[ctypes.c_char]


def filter_below() -> ctypes.Array[ctypes.c_char]:
    """The filter of all steps, as it stands behind the engine: what that answers gets there."""
    table = abi.abi_of(syscalls.MACHINE)
    answered = tuple(table.numbers[name] for name in plans.HANDLERS if name in table.numbers)
    code = seccomp.program(syscalls.MACHINE, answered, newer=True)
    return (ctypes.c_char * len(code)).from_buffer_copy(code)


def run(
    interpreter: beginning.Interpreter | None,
    emulators: tuple[Emulator, ...],
    descriptors: init.Descriptors,
    scratch: str,
    tools: process.Tools,
) -> NoReturn:
    """Be a step's supervisor to its end; `emulators` run the programs of other machines."""
    prepare = functools.partial(_prepare, interpreter, emulators)
    kept = interpreter.fds if interpreter is not None else ()
    supervisor.serve(descriptors, scratch, tools, prepare, kept)


def _prepare(
    interpreter: beginning.Interpreter | None,
    emulators: tuple[Emulator, ...],
    spec: SandboxSpec,
    scratch: str,
    tools: process.Tools,
) -> supervisor.Ready:
    if not isinstance(spec.root, PlainRoot):
        raise SandboxError("this sandbox needs a plain directory as the root of a step")
    plainfirst.refuse_what_needs_namespaces(spec)
    os.umask(0)
    path = os.fsencode(spec.root.path)
    root = targets.Root(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    owner = init.owner_of(spec, root)
    records = Records(os.geteuid(), os.getegid())
    places = Places(root, path, os.fsencode(scratch), records)
    places.add_system(spec)
    for mount in spec.mounts:
        places.add(mount)
    identities = Identities(Identity.of(owner), followed=True)
    hostname = spec.hostname.encode()
    step = Step(-1, {}, records, identities, hostname=hostname, emulators=emulators)
    step.has_network = spec.network is not NetworkMode.NONE
    handlers = plans.handlers(has_network=step.has_network)
    view = View(path, places.table, step.is_ours, step.process_of, step.programs.get)
    step.views[b""] = view
    records.seed(root.fd, spec.recorded)
    directory = _working_directory(places, view, spec, owner)
    readable = (*places.readable(), *(os.fsencode(known.path) for known in emulators))
    start = _Start(spec, places, directory, owner, readable, tools.filter)
    become = supervisor.forked(lambda channel: _become(start, channel))
    first = PlainFirst(interpreter, spec, owner, lambda: _way(start), become)
    tracer = Tracer(step, abi.abi_of(syscalls.MACHINE), handlers)
    report = lambda: wire.Report(tuple(reversed(root.stubs)), tuple(records.told()))  # noqa: E731 - one expression
    ready = first.ready(step, handlers, tracer, report, (tracer, places))
    return replace(ready, mirror=lambda answers: emulateanswers.mirror(step, places.table, answers))


def _working_directory(places: Places, view: View, spec: SandboxSpec, owner: Credentials) -> bytes:
    """The host's name of WORKDIR, which may lie in a mount."""
    path, ids = spec.process.cwd, (owner.uid, owner.gid)
    if not places.lead_away(view, os.fsencode(path), ids):
        return places.working_directory(path, ids)
    fd = view.open(0, os.fsencode(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.readlink(fd_path(fd))
    finally:
        os.close(fd)


def _way(start: _Start) -> Way:
    directory = os.open(start.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    rules = landlock.ruleset(start.places.writable(), start.readable)
    given = (directory,) if rules is None else (directory, rules)

    def before(script: Script) -> None:
        script.call("fchdir", FIRST_GIVEN)
        plainfirst.no_new_privileges(script)
        plainfirst.confined(script, None if rules is None else FIRST_GIVEN + 1)

    return Way(before, given, _second(bytes(start.below)), lambda _: None)


@functools.cache
def _second(below: bytes) -> Second:
    """How any step is handed over."""
    script = Script()
    becoming.report_in(script)
    # What names files behind the engine's back (io_uring), keys, AF_ALG and the like.
    becoming.restrict(script, below)
    becoming.hand_over(script, program.program(abi.abi_of(syscalls.MACHINE), plans.emulation()))
    becoming.close_all(script)
    becoming.go_back(script)
    return script, beginning.second(script)


def _become(start: _Start, channel: socket.socket) -> NoReturn:
    """Turn the calling process into the step's program, under the engine from here on."""
    spec = start.spec
    os.setsid()
    os.chdir(start.directory)
    has_network = spec.network is not NetworkMode.NONE

    def confine() -> None:
        syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        limits.apply(spec.ulimits)
        landlock.restrict(landlock.ruleset(start.places.writable(), start.readable))
        with contextlib.suppress(OSError):  # an outer filter may forbid keyrings: there are none
            syscalls.join_new_session_keyring()
        if not has_network:
            netless.give_up_rights()
        # What names files behind the engine's back (io_uring), keys, AF_ALG and the like.
        syscalls.install_filter(start.below)

    supervisor.hand_over(channel, plans.emulation(has_network=has_network), confine)
    os.closerange(3, 1 << 16)
    variables = process.environment(spec.process, start.owner)
    process.execute(spec.process, variables)
