"""RUN: a process in a sandbox over a prepared snapshot, its change written as a layer."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Protocol

from builder.errors import ProcessFailedError, SandboxError
from builder.sandbox.spec import (
    Bind,
    BindOverlay,
    MemoryFile,
    NetworkMode,
    Process,
    SandboxSpec,
    StepMount,
    Tmpfs,
)
from builder.solver.output import Output, TreeOutput
from cache.keys import CacheKey
from cache.value import value
from frontend.graph import BindMount, CacheMount, ExecOp, Network, SecretMount, Sharing, TmpfsMount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.sandbox.spec import Sandbox
    from builder.snapshot.snapshotter import Snapshotter
    from builder.solver.cachemount import CacheMounts
    from builder.solver.scheduler import StepLog
    from cache.spec.oci import Layer
    from frontend.graph import Mount, Op

_SIGNALLED = 128
_KILLED = 137


@value
class Runtime:
    """What a RUN needs, made only when one must run."""

    sandbox: Sandbox
    snapshotter: Snapshotter


class MountContent(Protocol):
    """Content behind bind and cache mounts."""

    def digest(self, output: Output, path: str) -> str:
        """Identify what lies at a path of an output, by content.

        Raises:
            PybuildError: nothing is there.
        """

    def layer(self, output: Output, path: str) -> tuple[Layer, str]:
        """Write what lies at a path as a layer; gives the layer and the path to mount in it."""

    def fill(self, output: Output, path: str, directory: int) -> None:
        """Write what lies below a path into a directory descriptor."""


@value
class StepFiles:
    """Files of the host's making that every RUN sees: /etc/hosts by host name, resolv.conf."""

    resolv_conf: Callable[[bool], bytes]
    hosts: Callable[[str, tuple[tuple[str, str], ...]], bytes]


class ExecHandler:
    """OpHandler for RUN."""

    def __init__(
        self,
        runtime: Callable[[], Runtime],
        content: MountContent,
        cache_mounts: CacheMounts,
        secrets: Mapping[str, bytes],
        files: StepFiles,
    ) -> None:
        """`runtime` is called from worker threads, after it was made."""
        self._runtime = runtime
        self._content = content
        self._cache_mounts = cache_mounts
        self._secrets = secrets
        self._files = files

    def key(self, op: Op, inputs: Sequence[Output]) -> CacheKey:
        """Everything the process can see except secrets, proxies and cache contents (K10, K11)."""
        if not isinstance(op, ExecOp):
            raise TypeError(op)
        return CacheKey.of(
            ("op", "exec.v1"),
            ("parent", _base(inputs).chain.hex),
            ("command", json.dumps(op.argv)),
            *((f"env {name}", value) for name, value in op.env),
            ("env order", json.dumps([name for name, _ in op.env])),
            ("workdir", op.cwd),
            ("user", op.user),
            ("network", op.network),
            ("hostname", op.hostname),
            ("extra hosts", json.dumps([name for name, _ in op.extra_hosts])),
            ("script", op.script),
            *(
                (f"mount {number} {mount.target}", self._identity(mount, inputs))
                for number, mount in enumerate(op.mounts)
            ),
        )

    def _identity(self, mount: Mount, inputs: Sequence[Output]) -> str:
        match mount:
            case BindMount(target, source, path, readonly):
                content = self._content.digest(inputs[source], path)
                return json.dumps(["bind", target, path, readonly, content])
            case CacheMount():
                shared = mount.sharing is Sharing.SHARED
                return json.dumps(["cache", mount.target, mount.id, shared, mount.readonly])
            case TmpfsMount(target, size):
                return json.dumps(["tmpfs", target, size])
            case SecretMount():
                owner = [mount.mode, mount.uid, mount.gid]
                return json.dumps(["secret", mount.id, mount.target, mount.env, owner])

    def run(self, op: Op, inputs: Sequence[Output], log: StepLog) -> Layer:
        """Run the process and write its layer.

        Raises:
            ProcessFailedError: it ended with another status than 0.
        """
        if not isinstance(op, ExecOp):
            raise TypeError(op)
        runtime = self._runtime()
        base = _base(inputs)
        with contextlib.ExitStack() as held:
            mounts = [self._mount(mount, inputs, runtime, held) for mount in op.mounts]
            active = runtime.snapshotter.prepare(base.layers)
            held.callback(runtime.snapshotter.discard, active)
            spec = SandboxSpec(
                root=active.root,
                process=Process(op.argv, self._environment(op), op.cwd, op.user),
                mounts=tuple(mount for some in mounts for mount in some) + _script(op),
                network=NetworkMode.NONE if op.network is Network.NONE else NetworkMode.HOST,
                hostname=op.hostname,
                resolv_conf=self._files.resolv_conf(op.network is Network.NONE),
                hosts=self._files.hosts(op.hostname, op.extra_hosts),
            )
            outcome = runtime.sandbox.run(spec, log.output)
            log.flush()
            if outcome.exit_code:
                raise ProcessFailedError(op.argv, outcome.exit_code, hint=_hint(outcome.exit_code))
            layer = runtime.snapshotter.diff(active, outcome.stubs)
            runtime.snapshotter.commit(active, layer)
        return layer

    def _environment(self, op: ExecOp) -> tuple[tuple[str, str], ...]:
        """The step's variables, then proxies and secrets, which are no identity."""
        env = dict(op.proxies)
        env.update(op.env)
        for mount in op.mounts:
            if isinstance(mount, SecretMount) and mount.env:
                value = self._secrets.get(mount.id, b"")  # absent is empty (M13)
                env[mount.env] = value.decode("utf-8", "surrogateescape")
        return tuple(env.items())

    def _mount(
        self, mount: Mount, inputs: Sequence[Output], runtime: Runtime, held: contextlib.ExitStack
    ) -> tuple[StepMount, ...]:
        match mount:
            case BindMount():
                return (self._bind(mount, inputs, runtime),)
            case CacheMount():
                return (self._cache(mount, inputs, held),)
            case TmpfsMount(target, size):
                return (Tmpfs(target, size),)
            case SecretMount():
                return self._secret(mount)

    def _bind(self, mount: BindMount, inputs: Sequence[Output], runtime: Runtime) -> BindOverlay:
        output = inputs[mount.input]
        layers: Sequence[Layer]
        path = mount.source
        if isinstance(output, TreeOutput):
            layers = output.layers
        else:
            layer, path = self._content.layer(output, mount.source)
            layers = (layer,)
        lowers = runtime.snapshotter.lowers(layers)
        base = runtime.snapshotter.base
        return BindOverlay(base, lowers, mount.target, path.strip("/"), mount.readonly)

    def _cache(
        self, mount: CacheMount, inputs: Sequence[Output], held: contextlib.ExitStack
    ) -> Bind:
        origin = ""
        if mount.input >= 0:
            origin = self._content.digest(inputs[mount.input], mount.source)

        def fill(directory: int) -> None:
            if mount.input >= 0:
                self._content.fill(inputs[mount.input], mount.source, directory)

        path = held.enter_context(self._cache_mounts.directory(mount, origin, fill))
        return Bind(path, mount.target, readonly=mount.readonly)

    def _secret(self, mount: SecretMount) -> tuple[StepMount, ...]:
        value = self._secrets.get(mount.id)
        if value is None:
            if mount.required:
                msg = f"secret {mount.id}: not found"
                hint = f"give it with --secret id={mount.id},src=PATH"
                raise SandboxError(msg, hint=hint)
            return ()
        if not mount.target:
            return ()
        return (MemoryFile(mount.target, value, mount.mode, mount.uid, mount.gid),)


def _base(inputs: Sequence[Output]) -> TreeOutput:
    base = inputs[0]
    if not isinstance(base, TreeOutput):
        msg = "the step has no tree to work on"
        raise SandboxError(msg)
    return base


def _script(op: ExecOp) -> tuple[StepMount, ...]:
    if not op.script_name:
        return ()
    data = op.script.encode("utf-8", "surrogateescape")
    return (MemoryFile(f"/dev/pipes/{op.script_name}", data, 0o755),)


def _hint(exit_code: int) -> str | None:
    if exit_code == _KILLED:
        return "the process was killed; if it ran out of memory, give the build more"
    if exit_code > _SIGNALLED:
        return f"the process was ended by signal {exit_code - _SIGNALLED}"
    return None
