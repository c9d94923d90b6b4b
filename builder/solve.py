"""Wiring of one solve: contexts, handlers, runtime, and the order in which they come to life."""

from __future__ import annotations

import contextlib
import os

from builder.clock import Clock
from builder.options import local_platform
from builder.runtime import RuntimeStarter, Wishes
from builder.sandbox.network import RESOLV_CONF, hosts, resolv_conf
from builder.solver.cachemount import CacheMounts, renewed_ids
from builder.solver.earlier import EarlierLayers
from builder.solver.exec_op import ExecHandler, StepFiles
from builder.solver.file_op import FileHandler, StoredMountContent
from builder.solver.git_op import GitHandler
from builder.solver.http_op import HttpHandler
from builder.solver.output import ContextOutput, Output, TreeOutput
from builder.solver.scheduler import Policy, Solver
from builder.solver.steplog import ReportedLog
from builder.solver.trees import Trees
from cache.hints import TYPE_CHECKING
from cache.keys import CacheKey, KeyPart
from cache.spec.digest import framed
from cache.statcache import StoredStatCache
from frontend.dockerfile.contexts import Contexts
from frontend.dockerfile.session import CONTEXT
from frontend.graph import (
    ContextOp,
    CopyOp,
    ExecOp,
    GitOp,
    HttpOp,
    ImageOp,
    MkdirOp,
    Ref,
)
from frontend.graph import Network as NetworkChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from builder.base_images import BaseImages
    from builder.cachetransfer import SharedCache
    from builder.context.local import LocalContext
    from builder.dockerfile_input import BuildInput
    from builder.layerforms import LayerForm
    from builder.progress.current import CurrentProgress
    from builder.progress.deferred import DeferredReporter
    from builder.remote import Network
    from builder.request import BuildRequest
    from builder.solver.scheduler import OpHandler, StepLog
    from builder.ssh import SshAgents
    from builder.state import State
    from cache.spec.oci import Layer
    from frontend.dockerfile.lower import Lowered
    from frontend.graph import Graph, Op

_LIMIT = 1024 * 1024  # bytes read of a resolv.conf


class StepHandler:
    """An OpHandler whose downloads report to the step that runs it, keyed by the epoch too."""

    def __init__(
        self,
        inner: OpHandler,
        progress: CurrentProgress,
        epoch: int | None,
        compressing: Callable[[Op], AbstractContextManager[None]],
    ) -> None:
        """Wrap a handler. An epoch changes the times in layers and so what a step is."""
        self._inner = inner
        self._compressing = compressing
        self._epoch = epoch
        self._progress = progress

    def key(self, op: Op, inputs: Sequence[Output]) -> CacheKey | None:
        """The inner handler's, and the epoch where there is one."""
        key = self._inner.key(op, inputs)
        if key is None or self._epoch is None:
            return key
        return CacheKey((*key.parts, KeyPart("source date epoch", str(self._epoch))))

    def run(self, op: Op, inputs: Sequence[Output], log: StepLog) -> Output | Layer:
        """Run with transfers reported."""
        with self._progress.to(log.progress), self._compressing(op):
            return self._inner.run(op, inputs, log)


class Solve:
    """One solve of a lowered Dockerfile; close it when its outputs were used."""

    def __init__(
        self,
        request: BuildRequest,
        secrets: Mapping[str, bytes],
        state: State,
        network: Network,
        images: BaseImages,
        lowered: Lowered,
        reporter: DeferredReporter,
        given: BuildInput,
        *,
        more: Sequence[Ref] = (),
        notice: Callable[[str], None],
        ahead: LayerForm | None = None,
    ) -> None:
        """Wire up; nothing runs yet. `more` are further results, of other platforms."""
        self._more = more
        self._forms = _forms(lowered.graph, (lowered.result, *more), ahead)
        self._request = request
        self._input = given
        self._state = state
        self._network = network
        self._shared = _shared(request, state, network, notice)
        self._images = images
        self._lowered = lowered
        self._reporter = reporter
        self._stack = contextlib.ExitStack()
        self._runtime = _starter(request, state, lowered.graph, notice)
        self._stack.callback(self._runtime.close)
        self._secrets = secrets
        self._clock = Clock(request.source_date_epoch)
        self._memo = StoredStatCache(state.memos)
        self._http = HttpHandler(
            network.get, state.store, state.memos, self._secrets, network.is_unchanged
        )
        self._git = GitHandler(
            lambda: network.git(state.root, request, secrets), state.layers, self._clock.nanoseconds
        )

    def run(self) -> Solver:
        """Solve; what the cache answers is answered before anything is started.

        Raises:
            SolveError: a step failed; HostUnsupportedError: this host cannot run one.
        """
        contexts = self._contexts()
        trees = Trees(contexts, self._state.layers)
        solver = self._solver(trees)
        solver.probe()
        if solver.pending:
            if solver.needs_sandbox:
                self._runtime.start(trees.merged)
            self._reporter.begin()
            solver.run(self._cancel)
        for context in contexts.values():
            context.remember()
        return solver

    @property
    def selections(self) -> Mapping[bytes, bytes]:
        """What was selected of trees that never change, for those who share a cache."""
        return {} if self._shared is None else self._shared.selections.used

    def _cancel(self) -> None:
        self._runtime.cancel()
        self._git.cancel()

    def close(self) -> None:
        """End the sandbox and close the contexts; idempotent."""
        self._stack.close()

    def _contexts(self) -> dict[str, LocalContext]:
        """Open the directories that the graph reads; what is not used is not looked at (S07)."""
        ops = (vertex.op for vertex in self._lowered.graph.vertices)
        names = {op.name for op in ops if isinstance(op, ContextOp)}
        if self._input.layers is not None:
            names.discard(CONTEXT)
        if not names:
            return {}
        from builder.directories import open_directory  # noqa: PLC0415 - needs a context

        contexts: dict[str, LocalContext] = {}
        for name in sorted(names):
            path, dockerfile = self._place(name)
            context = open_directory(
                name, path, dockerfile, hidden=(self._state.root,), memo=self._memo
            )
            self._stack.callback(context.close)
            contexts[name] = context
        return contexts

    def _place(self, name: str) -> tuple[str, str]:
        """The directory of a context, and the Dockerfile its ignore file may lie beside."""
        if name == CONTEXT:
            return self._request.context, self._input.path
        return Contexts(self._request.contexts).path(name), ""

    def _solver(self, trees: Trees) -> Solver:
        policy = Policy(
            now=self._clock.text,
            is_present=self._state.layers.has,
            use_cache=not self._request.no_cache,
            explain=self._request.explain,
            workers=max(4, 2 * (os.cpu_count() or 1)),
            idle=self._ready,
        )
        return Solver(
            self._lowered.graph,
            self._lowered.result,
            self._handlers(trees),
            self._state.records if self._shared is None else self._shared.records,
            self._reporter,
            policy,
            more=self._more,
            slots=self._slots(),
            step_log=self._step_log,
            given=self._given,
        )

    def _ready(self) -> None:
        """Load what will be needed while steps run."""
        from builder.solver.readying import ready  # noqa: PLC0415 - only with steps to run

        ops = (vertex.op for vertex in self._lowered.graph.vertices)
        ready(ops, compressed=bool(self._forms))

    def _handlers(self, trees: Trees) -> Mapping[type, OpHandler]:
        layers, memo = self._state.layers, self._memo
        now, earlier = self._clock.nanoseconds, EarlierLayers(layers, memo)
        lasting = None if self._shared is None else self._shared.selections
        files = FileHandler(trees, layers, self._state.store, memo, now, earlier, lasting)
        runs = ExecHandler(
            lambda: self._runtime.runtime,
            StoredMountContent(trees, layers, memo),
            CacheMounts(
                self._state.root,
                lambda: self._runtime.cancelled,
                renewed_ids(self._lowered.graph, everything=self._request.no_cache),
                lambda: self._runtime.owners,
            ),
            self._secrets,
            StepFiles(step_resolv_conf, hosts),
            self._agents(),
        )
        handlers: dict[type, OpHandler] = {
            ExecOp: runs,
            CopyOp: files,
            MkdirOp: files,
            HttpOp: self._http,
            GitOp: self._git,
        }
        epoch = self._request.source_date_epoch
        return {
            op: StepHandler(handler, self._network.progress, epoch, self._compressing)
            for op, handler in handlers.items()
        }

    def _compressing(self, op: Op) -> AbstractContextManager[None]:
        """Have a layer that will be part of a result compressed while it is written."""
        form = self._forms.get(id(op))
        if form is None:
            return self._state.layers.compressing("")
        return self._state.layers.compressing(form.media_type, alone=form.alone)

    def _agents(self) -> SshAgents | None:
        if not self._request.ssh:
            return None
        from builder.ssh import SshAgents  # noqa: PLC0415 - only when asked

        agents = SshAgents(self._request.ssh, os.environ, f"{self._state.root}/agents")
        self._stack.callback(agents.close)
        return agents

    def _given(self, op: Op) -> Output | None:
        match op:
            case ImageOp():
                return TreeOutput(self._images.resolved[op.manifest].layers)
            case ContextOp(name):
                layers = self._input.layers if name == CONTEXT else None
                return ContextOutput(name) if layers is None else TreeOutput(layers)
            case HttpOp():
                return self._http.known(op)
            case _:
                return None

    def _slots(self) -> dict[Ref, str]:
        """Name each step across builds: by Dockerfile, stage and position in the stage."""
        dockerfile = os.path.abspath(self._input.path)
        place = f"{os.path.abspath(self._request.context)}\0{dockerfile}"
        project = framed("pybuild.slot.v1", [place.encode("utf-8", "surrogateescape")]).hex[:16]
        counts: dict[str, int] = {}
        slots: dict[Ref, str] = {}
        for index, vertex in enumerate(self._lowered.graph.vertices):
            if isinstance(vertex.op, (ExecOp, CopyOp, MkdirOp)):
                counts[vertex.stage] = counts.get(vertex.stage, 0) + 1
                slots[Ref(index)] = f"{project} {vertex.stage} {counts[vertex.stage]}"
        return slots

    def _step_log(self, ref: Ref) -> StepLog:
        vertex = self._lowered.graph[ref]
        secrets = self._secrets.values() if isinstance(vertex.op, ExecOp) else ()
        return ReportedLog(ref, self._reporter, tuple(secrets))


def _shared(
    request: BuildRequest, state: State, network: Network, notice: Callable[[str], None]
) -> SharedCache | None:
    """The cache that others share, where one is named."""
    if not (request.cache_from or request.cache_to):
        return None
    from builder.cachetransfer import shared_cache  # noqa: PLC0415 - only when asked

    return shared_cache(request, state, network, notice)


def _starter(
    request: BuildRequest, state: State, graph: Graph, notice: Callable[[str], None]
) -> RuntimeStarter:
    wishes = Wishes(
        limits=request.limits,
        foreign=_is_foreign(request, graph),
        runtime=request.runtime,
        apart=request.network is NetworkChoice.SANDBOX,
        notice=notice,
    )
    return RuntimeStarter(state, request.source_date_epoch, request.sandbox, wishes)


def _is_foreign(request: BuildRequest, graph: Graph) -> bool:
    """Whether programs of other machines may have to run."""
    own = local_platform().architecture
    images = [vertex.op.platform for vertex in graph.vertices if isinstance(vertex.op, ImageOp)]
    return any(
        platform.architecture != own for platform in (request.platform, *request.platforms, *images)
    )


def _forms(graph: Graph, results: Sequence[Ref], ahead: LayerForm | None) -> dict[int, LayerForm]:
    if ahead is None:
        return {}
    from builder.layerforms import forms  # noqa: PLC0415 - only with outputs

    return forms(graph, results, ahead)


def step_resolv_conf(own_network: bool) -> bytes:
    """What a step's /etc/resolv.conf says, from this host's."""
    text = ""
    with contextlib.suppress(OSError), open(RESOLV_CONF, "rb") as file:
        text = file.read(_LIMIT).decode("utf-8", "replace")
    return resolv_conf(text, own_network)
