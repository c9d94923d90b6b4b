"""One RUN step: its mounts, its sandbox, its layer. Loaded only when a step must run."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from builder.errors import OutOfMemoryError, ProcessFailedError, SandboxError
from builder.resources import size_text
from builder.sandbox.spec import (
    DEFAULT_SHM_SIZE,
    Bind,
    BindOverlay,
    MemoryFile,
    NetworkMode,
    Process,
    SandboxSpec,
    Tmpfs,
)
from builder.solver.cachemount import CacheUse
from builder.solver.output import TreeOutput
from cache.value import value
from frontend.graph import BindMount, CacheMount, ExecOp, Network, SecretMount, SshMount, TmpfsMount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from builder.sandbox.spec import StepMount
    from builder.snapshot.snapshotter import Active
    from builder.solver.cachemount import CacheMounts
    from builder.solver.exec_op import Agents, MountContent, Runtime, StepFiles
    from builder.solver.output import Output
    from builder.solver.scheduler import StepLog
    from cache.spec.oci import Layer
    from frontend.graph import Mount

_SIGNALLED = 128
_APART = frozenset({Network.NONE, Network.SANDBOX})
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
    _agents: Agents | None = None

    def run(self, log: StepLog) -> Layer:
        """Run and write the layer.

        Raises:
            ProcessFailedError: the process ended with another status than 0.
            OutOfMemoryError: it was killed.
        """
        snapshotter = self._runtime.snapshotter
        with contextlib.ExitStack() as held:
            mounts = self._mounts(held)
            active = snapshotter.prepare(self._layers)
            held.callback(snapshotter.discard, active)
            spec = self._spec(active, mounts)
            outcome = self._runtime.sandbox.run(spec, log.output)
            log.flush()
            if outcome.memory_limit:
                raise OutOfMemoryError(size_text(outcome.memory_limit))
            if outcome.exit_code:
                hint = _hint(outcome.exit_code)
                raise ProcessFailedError(self._op.argv, outcome.exit_code, hint=hint)
            layer = snapshotter.diff(active, outcome.stubs, outcome.recorded)
            snapshotter.commit(active, layer)
        return layer

    def _spec(self, active: Active, mounts: tuple[StepMount, ...]) -> SandboxSpec:
        op = self._op
        network = NetworkMode(op.network if op.network in _APART else "host")
        return SandboxSpec(
            root=active.root,
            recorded=active.recorded,
            process=Process(op.argv, self._environment(), op.cwd, op.user),
            mounts=mounts + _script(op),
            network=network,
            hostname=op.hostname,
            resolv_conf=self._files.resolv_conf(network is not NetworkMode.HOST),
            hosts=self._files.hosts(op.hostname, op.extra_hosts),
            shm_size=op.shm_size or DEFAULT_SHM_SIZE,
            insecure=op.insecure,
            ulimits=tuple((limit.name, limit.soft, limit.hard) for limit in op.ulimits),
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

    def _mounts(self, held: contextlib.ExitStack) -> tuple[StepMount, ...]:
        """Prepare every mount; of those with the same target the last one counts (M08)."""
        caches = [mount for mount in self._op.mounts if isinstance(mount, CacheMount)]
        uses = [self._cache_use(mount) for mount in caches]
        paths = iter(held.enter_context(self._cache_mounts.hold(uses)))
        made: dict[str, StepMount] = {}
        for mount in self._op.mounts:
            step = self._mount(mount, paths, held)
            if step is not None:
                made.pop(step.target, None)
                made[step.target] = step
        return tuple(made.values())

    def _mount(
        self, mount: Mount, caches: Iterator[str], held: contextlib.ExitStack
    ) -> StepMount | None:
        match mount:
            case BindMount():
                return self._bind(mount, held)
            case CacheMount(target):
                inside = mount.source.strip("/")
                owner = (mount.uid, mount.gid) if mount.owned and not inside else (-1, -1)
                return Bind(next(caches), target, inside, mount.readonly, *owner)
            case TmpfsMount(target, size, readonly):
                return Tmpfs(target, size, readonly)
            case SecretMount():
                return self._secret(mount)
            case SshMount():
                return self._agent(mount, held)

    def _bind(self, mount: BindMount, held: contextlib.ExitStack) -> BindOverlay:
        output = self._inputs[mount.input]
        layers: Sequence[Layer]
        path = mount.source
        if isinstance(output, TreeOutput):
            layers = output.layers
        else:
            layer, path = self._content.layer(output, mount.source)
            layers = (layer,)
        trees = self._runtime.snapshotter
        lowers = trees.lowers(layers) if mount.readonly else held.enter_context(trees.lent(layers))
        inside, known = path.strip("/"), trees.recorded(layers)
        return BindOverlay(trees.base, lowers, mount.target, inside, mount.readonly, known)

    def _cache_use(self, mount: CacheMount) -> CacheUse:
        if mount.input < 0:
            return CacheUse(mount, "", lambda _: None)
        source = self._inputs[mount.input]
        if isinstance(source, TreeOutput):
            origin = source.chain.hex
        else:
            origin = self._content.digest(source, "/")
        return CacheUse(mount, origin, lambda directory: self._content.fill(source, "/", directory))

    def _secret(self, mount: SecretMount) -> MemoryFile | None:
        value = self._secrets.get(mount.id)
        if value is None:
            if mount.required:
                msg = f"secret {mount.id}: not found"
                hint = f"give it with --secret id={mount.id},src=PATH"
                raise SandboxError(msg, hint=hint)
            return None
        if not mount.target:
            return None
        return MemoryFile(mount.target, value, mount.mode, mount.uid, mount.gid)

    def _agent(self, mount: SshMount, held: contextlib.ExitStack) -> Bind | None:
        socket = self._agents.socket(mount) if self._agents is not None else None
        if socket is not None:
            return Bind(held.enter_context(socket), mount.target, readonly=False)
        if mount.required:
            msg = f'no ssh agent "{mount.id}" was given to the build'
            raise SandboxError(msg, hint=f"give it with --ssh {mount.id}")
        return None


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
