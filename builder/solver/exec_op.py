"""RUN: a process in a sandbox over a prepared snapshot, its change written as a layer."""

from __future__ import annotations

import json
import os

from builder.errors import HostUnsupportedError, SandboxError
from builder.solver.output import Output, TreeOutput
from cache.hints import TYPE_CHECKING, Protocol
from cache.keys import CacheKey
from cache.spec.oci import Platform
from cache.value import value
from frontend.graph import BindMount, CacheMount, ExecOp, SecretMount, Sharing, SshMount, TmpfsMount

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from builder.sandbox.spec import Sandbox
    from builder.snapshot.snapshotter import Snapshotter
    from builder.solver.cachemount import CacheMounts
    from builder.solver.scheduler import StepLog
    from cache.spec.oci import Layer
    from frontend.graph import Mount, Op


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


class Agents(Protocol):
    """The ssh agents a build may use (M14)."""

    def socket(self, mount: SshMount) -> AbstractContextManager[str] | None:
        """Give the path of a socket that reaches an agent while it is held; None for no such id.

        Raises:
            PybuildError: the agent cannot be used.
        """


class ExecHandler:
    """OpHandler for RUN."""

    def __init__(
        self,
        runtime: Callable[[], Runtime],
        content: MountContent,
        cache_mounts: CacheMounts,
        secrets: Mapping[str, bytes],
        files: StepFiles,
        agents: Agents | None = None,
    ) -> None:
        """`runtime` is called from worker threads, after it was made."""
        self._runtime = runtime
        self._content = content
        self._cache_mounts = cache_mounts
        self._secrets = secrets
        self._files = files
        self._agents = agents

    def key(self, op: Op, inputs: Sequence[Output]) -> CacheKey:
        """Everything the process can see except secrets, proxies and cache contents (K10, K11)."""
        if not isinstance(op, ExecOp):
            raise TypeError(op)
        return CacheKey.of(
            ("op", "exec.v1"),
            ("parent", tree_of(inputs).chain.hex),
            ("command", json.dumps(op.argv)),
            *((f"env {name}", value) for name, value in op.env),
            ("env order", json.dumps([name for name, _ in op.env])),
            ("workdir", op.cwd),
            ("user", op.user),
            ("network", op.network),
            ("hostname", op.hostname),
            ("extra hosts", json.dumps([name for name, _ in op.extra_hosts])),
            ("script", op.script),
            ("platform", op.platform),
            *_unusual(op),
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
                return json.dumps(["cache", *self._cache_identity(mount, inputs)])
            case TmpfsMount(target, size, readonly):
                return json.dumps(["tmpfs", target, size, *(["ro"] if readonly else [])])
            case SecretMount():
                owner = [mount.mode, mount.uid, mount.gid]
                given = _given(required=mount.required)
                return json.dumps(["secret", mount.id, mount.target, mount.env, owner, *given])
            case SshMount():
                owner = [mount.mode, mount.uid, mount.gid]
                given = _given(required=mount.required)
                return json.dumps(["ssh", mount.id, mount.target, owner, *given])

    def _cache_identity(self, mount: CacheMount, inputs: Sequence[Output]) -> list[object]:
        """A cache's content is no identity, nor is an id that is not the target's own (K12)."""
        usual = mount.sharing is Sharing.SHARED and mount.target in {
            mount.id,
            mount.id.partition("/")[2],
        }
        owner = [mount.mode, mount.uid, mount.gid] if mount.owned else []
        content = ""
        if mount.input >= 0 and not mount.owned:
            content = self._content.digest(inputs[mount.input], mount.source)
        return [mount.target, mount.id if usual else "", mount.readonly, owner, content]

    def run(self, op: Op, inputs: Sequence[Output], log: StepLog) -> Layer:
        """Run the process and write its layer.

        Raises:
            ProcessFailedError: it ended with another status than 0.
            HostUnsupportedError: it is for a machine that does not exist.
        """
        from builder.solver.exec_run import Step  # noqa: PLC0415 - a cached build runs nothing

        if not isinstance(op, ExecOp):
            raise TypeError(op)
        _check(op.platform)
        step = Step(
            op,
            inputs,
            tree_of(inputs).layers,
            self._runtime(),
            self._content,
            self._cache_mounts,
            self._secrets,
            self._files,
            self._agents,
        )
        return step.run(log)


def _check(platform: str) -> None:
    """Refuse what nothing can run; of other machines' programs the kernel says so itself."""
    if not platform:
        return
    wanted = Platform.parse(platform)
    own = Platform.parse(f"linux/{os.uname().machine}").architecture
    if not wanted.is_known() and wanted.architecture != own:
        msg = f"RUN for {platform}: no machine of that kind is known, nor an emulator"
        raise HostUnsupportedError(
            msg, hint="check --platform, or start the stage with FROM --platform=$BUILDPLATFORM"
        )


def _given(*, required: bool) -> list[str]:
    """What ran without a secret or an agent says nothing of a step that must have it."""
    return ["required"] if required else []


def _unusual(op: ExecOp) -> list[tuple[str, str]]:
    """What few steps have, left out where they do not."""
    parts = []
    if op.insecure:
        parts.append(("security", "insecure"))
    if op.after:
        parts.append(("earlier users of caches", op.after))
    if op.shm_size:
        parts.append(("shm size", str(op.shm_size)))
    if op.ulimits:
        limits = [(limit.name, limit.soft, limit.hard) for limit in op.ulimits]
        parts.append(("ulimits", json.dumps(limits)))
    return parts


def tree_of(inputs: Sequence[Output]) -> TreeOutput:
    """The tree a step works on: its first input."""
    base = inputs[0]
    if not isinstance(base, TreeOutput):
        msg = "the step has no tree to work on"
        raise SandboxError(msg)
    return base
