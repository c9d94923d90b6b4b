"""`pybuild run`: start an image in the sandbox that RUN steps have."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from builder import interrupt
from builder import state as states
from builder.arguments import parser
from builder.base_images import BaseImages
from builder.commandhelp import page, refuse
from builder.errors import UsageError
from builder.limitvalues import FLAGS, parse_limits
from builder.options import SANDBOXES, local_platform, parse_platform
from builder.remote import Network
from builder.request import parse_pairs
from builder.resources import size_text
from builder.runtime import RuntimeStarter, Wishes, check
from builder.sandbox.network import hosts
from builder.sandbox.spec import Bind, NetworkMode, Process, SandboxSpec
from builder.solve import step_resolv_conf
from builder.solver.trees import Trees

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from builder.snapshot.snapshotter import Active
    from cache.spec.config import ImageConfig
    from cache.spec.manifest import Image
    from cache.spec.oci import Platform

_LIMIT_FLAGS = sorted(FLAGS - {"resource"})
_SANDBOXES = [name for name in SANDBOXES if name != "none"]
_NETWORKS = {
    "default": NetworkMode.HOST,
    "host": NetworkMode.HOST,
    "none": NetworkMode.NONE,
    "sandbox": NetworkMode.SANDBOX,
}
_PORTS = 65536


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run; the status is the process's own. What it writes is thrown away when it ends."""
    if argv and argv[0] in {"-h", "--help"}:
        sys.stdout.write(page("run"))
        return 0
    chosen = _parse(argv)
    platform = parse_platform(chosen.platform, environ)
    wishes = _wishes(chosen, platform)
    check(chosen.sandbox, runtime=wishes.runtime, apart=wishes.apart)
    network = Network(environ, tuple(chosen.insecure_registry))
    with states.opened(states.locate(environ, chosen.root), network) as state, interrupt.raised():
        network.origin = state.layers.origin
        images = BaseImages(state, network, pull=False, platform=platform, notice=_notice)
        image = images.resolve(chosen.image, platform)
        starter = RuntimeStarter(state, sandbox=chosen.sandbox, wishes=wishes)
        try:
            starter.start(Trees({}, state.layers).merged)
            return _start(starter, image, chosen, environ)
        finally:
            starter.close()


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    options = parser("run")
    options.add_argument("--rm", action="store_true", help="what always happens")
    options.add_argument("-i", "--interactive", action="store_true")
    options.add_argument("-e", "--env", action="append", default=[])
    options.add_argument("-v", "--volume", action="append", default=[])
    options.add_argument("-w", "--workdir", default="")
    options.add_argument("-u", "--user", default="")
    options.add_argument("--entrypoint", default=None)
    options.add_argument("--network", choices=list(_NETWORKS), default="default")
    options.add_argument("-p", "--publish", action="append", default=[])
    options.add_argument("--platform", default="")
    options.add_argument("--runtime", default="")
    options.add_argument("--sandbox", choices=_SANDBOXES, default="auto")
    for name in _LIMIT_FLAGS:
        shorts = {"memory": ["-m"], "cpu-shares": ["-c"]}.get(name, [])
        options.add_argument(*shorts, f"--{name}", default="")
    options.add_argument("--insecure-registry", action="append", default=[])
    options.add_argument("image")
    split = _command_start(argv)
    refuse(argv[:split])
    chosen = options.parse_args(list(argv[:split]))
    chosen.command = list(argv[split:])
    return chosen


def _wishes(chosen: argparse.Namespace, platform: Platform) -> Wishes:
    given = [(name, getattr(chosen, name.replace("-", "_"))) for name in _LIMIT_FLAGS]
    return Wishes(
        limits=parse_limits(given),
        foreign=platform.architecture != local_platform().architecture,
        runtime=chosen.runtime,
        apart=chosen.network == NetworkMode.SANDBOX,
        ports=tuple(_port(text, chosen.network) for text in chosen.publish),
        notice=_notice,
    )


_VALUED = frozenset(
    "-c -e --env -m -p --publish -v --volume -w --workdir -u --user --entrypoint --network --platform".split()  # noqa: SIM905
) | {
    "--insecure-registry",
    "--root",
    "--runtime",
    "--sandbox",
    *(f"--{name}" for name in _LIMIT_FLAGS),
}


def _command_start(argv: Sequence[str]) -> int:
    """Index after the image: what follows belongs to the command, whatever it looks like."""
    index = 0
    while index < len(argv):
        word = argv[index]
        if not word.startswith("-"):
            return index + 1
        index += 2 if word in _VALUED else 1
    return len(argv)


def _start(
    starter: RuntimeStarter, image: Image, chosen: argparse.Namespace, environ: Mapping[str, str]
) -> int:
    runtime = starter.runtime
    active = runtime.snapshotter.prepare(image.layers)
    try:
        spec = _spec(active, image, chosen, environ)
        outcome = runtime.sandbox.run(spec, _write)
        if outcome.memory_limit:
            _notice(f"pybuild: killed: out of memory, limit {size_text(outcome.memory_limit)}")
    finally:
        runtime.snapshotter.discard(active)
    return outcome.exit_code


def _spec(
    active: Active, image: Image, chosen: argparse.Namespace, environ: Mapping[str, str]
) -> SandboxSpec:
    config = image.config
    env = {**dict(config.env), **dict(parse_pairs("--env", chosen.env, dict(environ)))}
    hostname = image.config_blob.digest.hex[:12]
    network = _NETWORKS[chosen.network]
    return SandboxSpec(
        root=active.root,
        recorded=active.recorded,
        process=Process(
            argv=program_of(config, chosen),
            env=tuple(env.items()),
            cwd=chosen.workdir or config.working_dir or "/",
            user=chosen.user or config.user,
        ),
        mounts=tuple(_volume(text) for text in chosen.volume),
        network=network,
        hostname=hostname,
        resolv_conf=step_resolv_conf(own_network=network is not NetworkMode.HOST),
        hosts=hosts(hostname),
        interactive=chosen.interactive,
    )


def program_of(config: ImageConfig, chosen: argparse.Namespace) -> tuple[str, ...]:
    """What an image starts: its own program, or the one that the command line names.

    Raises:
        UsageError: neither names one.
    """
    if chosen.entrypoint is not None:
        entrypoint: tuple[str, ...] = (chosen.entrypoint,) if chosen.entrypoint else ()
        command = tuple(chosen.command)
    else:
        entrypoint = config.entrypoint or ()
        command = tuple(chosen.command) or config.cmd or ()
    if not entrypoint + command:
        msg = "the image names no command"
        raise UsageError(msg, hint="write one at the end of the command line")
    return entrypoint + command


def _port(text: str, network: str) -> tuple[int, int]:
    """A port of this host's and the program's own that it leads to."""
    if network != NetworkMode.SANDBOX:
        msg = f"--publish {text[:60]}: the network is this host's, so ports need no publishing"
        raise UsageError(msg, hint="leave it out, or add --network sandbox")
    outer, _, inner = text.partition(":")
    inner = inner or outer
    if not all(
        re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < _PORTS for port in (outer, inner)
    ):
        msg = f"invalid --publish {text[:60]!r}"
        raise UsageError(msg, hint="write -p HOST_PORT:PORT, such as -p 8080:80")
    return int(outer), int(inner)


def _volume(text: str) -> Bind:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target.startswith("/") or mode not in {"", "ro", "rw"}:
        msg = f"invalid volume {text!r}"
        raise UsageError(msg, hint="write -v HOST_PATH:/TARGET[:ro]")
    if not os.path.exists(source):
        msg = f"volume {source!r} does not exist"
        raise UsageError(msg)
    return Bind(os.path.abspath(source), target, readonly=mode == "ro")


def _write(stream: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


def _notice(text: str) -> None:
    sys.stderr.write(f"{text}\n")
