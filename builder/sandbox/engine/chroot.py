"""A step of root where nothing can be mounted: its root is changed, what lies elsewhere passed through.

Ids, owners and rights are the kernel's. The engine answers for the names of what would be mounts
and keeps the step to its own processes; the container around us is what keeps it in.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from typing import TYPE_CHECKING, NoReturn

from builder.errors import SandboxError
from builder.sandbox import (
    becoming,
    beginning,
    host,
    init,
    limits,
    process,
    seccomp_table,
    syscalls,
    targets,
    wire,
)
from builder.sandbox.engine import (
    abi,
    chrootanswers,
    landlock,
    natively,
    netless,
    plainfirst,
    program,
    refusals,
    supervisor,
)
from builder.sandbox.engine.identities import Identities, Identity
from builder.sandbox.engine.links import Links
from builder.sandbox.engine.ownhand import OwnHand
from builder.sandbox.engine.passthrough import SELDOM, Passthrough
from builder.sandbox.engine.places import Places
from builder.sandbox.engine.plainfirst import FIRST_GIVEN, PlainFirst, Second, Way
from builder.sandbox.engine.program import Plan
from builder.sandbox.engine.records import Records
from builder.sandbox.engine.step import Step
from builder.sandbox.engine.tracer import Tracer
from builder.sandbox.engine.view import View
from builder.sandbox.script import Script
from builder.sandbox.spec import NetworkMode, PlainRoot
from cache.value import replace, value

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from builder.sandbox.credentials import Credentials
    from builder.sandbox.engine.step import Handler
    from builder.sandbox.spec import SandboxSpec

_PR_SET_NO_NEW_PRIVS = 38
_SETPCAP, _SYS_ADMIN, _SYS_PTRACE = 1 << 8, 1 << 21, 1 << 19
_LAST_CAPABILITY = 63  # the kernel says EINVAL above its own last one
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Programs(dict[int, bytes]):
    """What processes execute, by the paths that the step knows: the kernel's to tell."""

    def __init__(self, root: bytes) -> None:
        super().__init__()
        self._root = root

    def get(self, process: int, default: bytes | None = None) -> bytes | None:  # type: ignore[override] # nothing else is asked for
        name = natively.link_of(process, b"/proc/%d/exe" % process)
        return name[len(self._root) :] if name.startswith(self._root + b"/") else default

    def __setitem__(self, process: int, name: bytes) -> None:
        """Not kept: the kernel knows better."""


@value
class _Start:
    """Where and as whom the program begins."""

    spec: SandboxSpec
    root: int  # fds
    directory: int
    owner: Credentials
    reachable: tuple[bytes, ...]  # paths of the host
    tools: process.Tools
    plan: Plan
    rights: int  # a mask of capabilities


def run(
    interpreter: beginning.Interpreter | None,
    descriptors: init.Descriptors,
    scratch: str,
    tools: process.Tools,
) -> NoReturn:
    """Be a step's supervisor to its end."""
    kept = interpreter.fds if interpreter is not None else ()
    prepare = functools.partial(_prepare, interpreter)
    supervisor.serve(descriptors, scratch, tools, prepare, kept)


def _prepare(
    interpreter: beginning.Interpreter | None,
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
    places = _filled(Places(root, path, os.fsencode(scratch), None), spec)
    records = Records(os.geteuid(), os.getegid())
    records.seed(root.fd, spec.recorded)
    step = Step(-1, {}, records, Identities(Identity()), hostname=spec.hostname.encode())
    step.programs = _Programs(path)
    view = View(path, places.table, step.is_ours, step.process_of, step.programs.get)
    step.views[b""] = view
    links = Links([place.guest for place in places.table], _links(spec.root))
    table = abi.abi_of(syscalls.MACHINE)
    hand = OwnHand(lambda *end: tracer.ended(*end), table.numbers)  # noqa: PLW0108 - made below
    passing = Passthrough(view, links, hand)
    rights = host.probe().capabilities
    step.has_network = spec.network is not NetworkMode.NONE
    connects = not step.has_network or places.has_sockets
    handlers = _handlers(passing, step, ids=not rights & _SYS_PTRACE, connects=connects)
    tracer = Tracer(step, table, handlers)
    plan = _plan(handlers)
    directory = _working_directory(places, view, passing, spec, owner)
    reachable = _reachable(path, places)
    start = _Start(spec, root.fd, directory, owner, reachable, tools, plan, rights)
    become = supervisor.forked(lambda channel: _become(start, channel))
    first = PlainFirst(interpreter, spec, owner, lambda: _way(start), become)
    report = lambda: wire.Report(tuple(reversed(root.stubs)), tuple(records.told()))  # noqa: E731 - one expression
    ready = first.ready(step, handlers, tracer, report, (tracer, view, places))
    return replace(ready, mirror=lambda answers: chrootanswers.mirror(step, passing, answers))


def _handlers(
    passing: Passthrough, step: Step, *, ids: bool, connects: bool
) -> Mapping[str, Handler]:
    return {
        **passing.calls(ids=ids),
        **refusals.CALLS,
        **({} if step.has_network else netless.SOCKET),
        **({"connect": passing.connect} if connects else {}),
    }


def _plan(handlers: Mapping[str, Handler]) -> Plan:
    return Plan(
        notify=tuple(name for name in handlers if name not in SELDOM),
        equal=tuple((name, 0, number) for name, numbers in SELDOM.items() for number in numbers),
        known=seccomp_table.LAST_KNOWN,
    )


def _filled(places: Places, spec: SandboxSpec) -> Places:
    places.add_system(spec)
    for mount in spec.mounts:
        places.add(mount)
    return places


def _links(root: PlainRoot) -> list[tuple[bytes, bytes]]:
    return [(os.fsencode(f"/{path}"), os.fsencode(text)) for path, text in root.links]


def _working_directory(
    places: Places, view: View, passing: Passthrough, spec: SandboxSpec, owner: Credentials
) -> int:
    """An fd of WORKDIR, which may lie in a place."""
    path = os.fsencode(spec.process.cwd)
    if places.lead_away(view, path, (owner.uid, owner.gid)):
        passing.enter()
        return view.open(0, path, _DIRECTORY)
    return os.open(places.working_directory(spec.process.cwd, (owner.uid, owner.gid)), _DIRECTORY)


def _reachable(path: bytes, places: Places) -> tuple[bytes, ...]:
    """What a step may name or execute by itself; the rest it gets descriptors of."""
    system = {b"/proc", b"/dev", b"/sys"}
    return path, *(place.host for place in places.table if place.host not in system)


def _way(start: _Start) -> Way:
    rules = landlock.ruleset_for_all(start.reachable)
    fds = (start.root, start.directory)

    def before(script: Script) -> None:
        becoming.die_first(script, on_error="unscored")
        script.label("unscored")
        if not start.rights & _SYS_ADMIN:  # whoever may install filters keeps set-id programs
            plainfirst.no_new_privileges(script)
        plainfirst.confined(script, None if rules is None else FIRST_GIVEN + 2)
        script.call("fchdir", FIRST_GIVEN)
        script.call("chroot", b".\0")
        script.call("fchdir", FIRST_GIVEN + 1)
        script.call("umask", 0o022)

    return Way(
        before,
        fds if rules is None else (*fds, rules),
        _second(bytes(start.tools.filter), start.plan, start.rights),
        lambda script: becoming.take_ids(script, start.owner),
    )


@functools.cache
def _second(filter_code: bytes, plan: Plan, rights: int) -> Second:
    """How any step is handed over, and keeps no more than a container has."""
    script = Script()
    becoming.report_in(script)
    becoming.restrict(script, filter_code)
    becoming.hand_over(script, program.program(abi.abi_of(syscalls.MACHINE), plan))
    becoming.close_all(script)
    if rights & _SETPCAP:
        becoming.drop_bounds(script)
    script.call("capset", *syscalls.capability_sets(process.CAPABILITIES & rights))
    becoming.go_back(script)
    return script, beginning.second(script)


def _become(start: _Start, channel: socket.socket) -> NoReturn:
    """Turn the calling process into the step's program, under the engine from here on."""
    spec = start.spec
    os.setsid()
    with contextlib.suppress(OSError):
        init.die_first()
    wanted = process.CAPABILITIES
    needed = _SYS_ADMIN  # whoever may install filters with it keeps set-id programs
    if spec.network is NetworkMode.NONE:
        wanted &= ~netless.RIGHTS
        needed |= _SETPCAP  # else those would get what is to be given up
    if start.rights & needed != needed:
        syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict(landlock.ruleset_for_all(start.reachable))
    os.fchdir(start.root)
    os.chroot(".")
    os.fchdir(start.directory)
    os.umask(0o022)

    def confine() -> None:
        limits.apply(spec.ulimits)
        with contextlib.suppress(OSError):  # an outer filter may forbid keyrings: there are none
            syscalls.join_new_session_keyring()
        syscalls.install_filter(start.tools.filter)

    supervisor.hand_over(channel, start.plan, confine)
    os.closerange(3, 1 << 16)
    variables = process.environment(spec.process, start.owner)
    _drop_rights(start.rights, wanted)
    process.take_ids(start.owner)
    process.execute(spec.process, variables)


def _drop_rights(held: int, wanted: int) -> None:
    """Keep no more than a container has, or less, now and for programs to come."""
    if held & _SETPCAP:
        for capability in range(_LAST_CAPABILITY + 1):
            if not wanted >> capability & 1:
                try:
                    syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    break
    syscalls.set_capabilities(wanted & held)
