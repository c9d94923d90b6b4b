"""One RUN step: its mounts, its sandbox, its layer. Loaded only when a step must run."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from builder.errors import ProcessFailedError, SandboxError
from builder.sandbox.spec import (
    Bind,
    BindOverlay,
    MemoryFile,
    NetworkMode,
    Process,
    SandboxSpec,
    Tmpfs,
)
from builder.solver.output import TreeOutput
from cache.value import value
from frontend.graph import BindMount, CacheMount, ExecOp, Network, SecretMount, SshMount, TmpfsMount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.sandbox.spec import Overlay, StepMount
    from builder.solver.cachemount import CacheMounts
    from builder.solver.exec_op import MountContent, Runtime, StepFiles
    from builder.solver.output import Output
    from builder.solver.scheduler import StepLog
    from cache.spec.oci import Layer
    from frontend.graph import Mount

_SIGNALLED = 128
_KILLED = 137


@value
class Step:
    """A RUN about to run on the tree of `layers`, and what it needs."""

    _op: ExecOp
    _inputs: Sequence[Output]
    _layers: Sequence[Layer]
    _runtime: Runtime
    _content: MountContent
    _cache_mounts: CacheMounts
    _secrets: Mapping[str, bytes]
    _files: StepFiles

    def run(self, log: StepLog) -> Layer:
        """Run and write the layer.

        Raises:
            ProcessFailedError: the process ended with another status than 0.
        """
        snapshotter = self._runtime.snapshotter
        with contextlib.ExitStack() as held:
            mounts = [self._mount(mount, held) for mount in self._op.mounts]
            active = snapshotter.prepare(self._layers)
            held.callback(snapshotter.discard, active)
            spec = self._spec(active.root, tuple(mount for some in mounts for mount in some))
            outcome = self._runtime.sandbox.run(spec, log.output)
            log.flush()
            if outcome.exit_code:
                hint = _hint(outcome.exit_code)
                raise ProcessFailedError(self._op.argv, outcome.exit_code, hint=hint)
            layer = snapshotter.diff(active, outcome.stubs)
            snapshotter.commit(active, layer)
        return layer

    def _spec(self, root: Overlay, mounts: tuple[StepMount, ...]) -> SandboxSpec:
        op = self._op
        alone = op.network is Network.NONE
        return SandboxSpec(
            root=root,
            process=Process(op.argv, self._environment(), op.cwd, op.user),
            mounts=mounts + _script(op),
            network=NetworkMode.NONE if alone else NetworkMode.HOST,
            hostname=op.hostname,
            resolv_conf=self._files.resolv_conf(alone),
            hosts=self._files.hosts(op.hostname, op.extra_hosts),
        )

    def _environment(self) -> tuple[tuple[str, str], ...]:
        """The step's variables, then proxies and secrets, which are no identity."""
        env = dict(self._op.proxies)
        env.update(self._op.env)
        for mount in self._op.mounts:
            if isinstance(mount, SecretMount) and mount.env:
                value = self._secrets.get(mount.id, b"")  # absent is empty (M13)
                env[mount.env] = value.decode("utf-8", "surrogateescape")
        return tuple(env.items())

    def _mount(self, mount: Mount, held: contextlib.ExitStack) -> tuple[StepMount, ...]:
        match mount:
            case BindMount():
                return (self._bind(mount),)
            case CacheMount():
                return (self._cache(mount, held),)
            case TmpfsMount(target, size):
                return (Tmpfs(target, size),)
            case SecretMount():
                return self._secret(mount)
            case SshMount(name):
                msg = f"ssh agent {name}: not found"
                raise SandboxError(msg)

    def _bind(self, mount: BindMount) -> BindOverlay:
        output = self._inputs[mount.input]
        layers: Sequence[Layer]
        path = mount.source
        if isinstance(output, TreeOutput):
            layers = output.layers
        else:
            layer, path = self._content.layer(output, mount.source)
            layers = (layer,)
        lowers = self._runtime.snapshotter.lowers(layers)
        base = self._runtime.snapshotter.base
        return BindOverlay(base, lowers, mount.target, path.strip("/"), mount.readonly)

    def _cache(self, mount: CacheMount, held: contextlib.ExitStack) -> Bind:
        origin = ""
        if mount.input >= 0:
            origin = self._content.digest(self._inputs[mount.input], mount.source)

        def fill(directory: int) -> None:
            if mount.input >= 0:
                self._content.fill(self._inputs[mount.input], mount.source, directory)

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
