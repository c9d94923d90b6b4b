"""The story of a build: read, parse, lower, solve, finish."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from builder import state as states
from builder.base_images import BaseImages
from builder.clock import Clock
from builder.dockerfile_input import context_directory, read_dockerfile
from builder.errors import SolveError, UsageError
from builder.finish import Finished, Finisher, outputs_of, solved
from builder.options import local_platform
from builder.remote import Network
from builder.solve import Solve
from cache.value import value
from frontend.dockerfile.instructions import parse_dockerfile
from frontend.dockerfile.lower import Lowered, LowerRequest, lower

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.progress.deferred import DeferredReporter
    from builder.request import BuildRequest
    from builder.solver.scheduler import Explained
    from frontend.source import Diagnostic, SourceFile


@value
class Caller:
    """The process around a build: environment, terminal, where news and waits are told."""

    environ: Mapping[str, str]
    reporter: DeferredReporter
    notice: Callable[[str], None]
    stdout_is_terminal: bool


@value
class Built:
    """What a build gave and what it took."""

    finished: Finished
    steps_run: int
    steps_cached: int
    explained: tuple[Explained, ...]
    warnings: tuple[Diagnostic, ...]
    source: SourceFile


def graph(request: BuildRequest, caller: Caller) -> str:
    """Compile only: the build graph as text (--call graph)."""
    with contextlib.ExitStack() as stack:
        return _compiled(request, caller, stack).lowered.graph.dump()


def build(request: BuildRequest, caller: Caller) -> Built:
    """Build a request to its outputs.

    Raises:
        PybuildError: whatever went wrong; nothing is half-written.
    """
    outputs = outputs_of(request, stdout_is_terminal=caller.stdout_is_terminal)
    with contextlib.ExitStack() as stack:
        compiled = _compiled(request, caller, stack)
        state, network, lowered = compiled.state, compiled.network, compiled.lowered
        solve = Solve(
            request, caller.environ, state, network, compiled.images, lowered, caller.reporter
        )
        stack.callback(solve.close)
        try:
            solver = solve.run(compiled.path)
        except SolveError as error:
            span, source = error.vertex.span, compiled.source
            error.excerpt = f"{source.name}:{span.start}\n{source.excerpt(span)}"
            raise
        image = solved(lowered, solver.outputs, Clock(request.source_date_epoch))
        first_id = len(lowered.graph.vertices)
        finisher = Finisher(request, state, network, caller.reporter, first_id)
        finished = finisher.finish(image, outputs)
        explained = tuple(solver.explained[ref] for ref in sorted(solver.explained))
    return Built(finished, solver.ran, solver.cached, explained, lowered.warnings, compiled.source)


@value
class _Compiled:
    source: SourceFile
    path: str
    state: states.State
    network: Network
    images: BaseImages
    lowered: Lowered


def _compiled(request: BuildRequest, caller: Caller, stack: contextlib.ExitStack) -> _Compiled:
    if len(request.platforms) > 1:
        msg = "several platforms in one build are not supported yet"
        raise UsageError(msg, hint="build once for each --platform")
    context_directory(request.context)
    source, path = read_dockerfile(request.context, request.dockerfile)
    parsed = parse_dockerfile(source)
    network = Network(caller.environ, request.insecure_registries)
    state = stack.enter_context(
        states.opened(states.locate(caller.environ), network, network.progress)
    )
    network.origin = state.layers.origin
    images = BaseImages(
        state, network, pull=request.pull, platform=request.platform, notice=caller.notice
    )
    lowered = lower(source, parsed, _lower_request(request), images)
    return _Compiled(source, path, state, network, images, lowered)


def _lower_request(request: BuildRequest) -> LowerRequest:
    return LowerRequest(
        platform=request.platform,
        build_platform=local_platform(),
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        network=request.network,
        source_date_epoch=request.source_date_epoch,
        extra_hosts=request.extra_hosts,
        contexts=request.contexts,
        allow=request.allow,
        shm_size=request.shm_size,
        ulimits=request.ulimits,
        no_cache_filter=request.no_cache_filter,
    )
