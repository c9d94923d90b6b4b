"""The story of a build: read, parse, lower, solve, finish."""

from __future__ import annotations

import contextlib
from functools import partial

from builder import state as states
from builder.base_images import BaseImages
from builder.clock import Clock
from builder.dockerfile_input import BuildInput, is_directory, read_dockerfile, read_ignore
from builder.epoch import with_epoch
from builder.errors import SolveError, UsageError
from builder.finish import Finished, Finisher
from builder.options import local_platform
from builder.outputs import insecure_hosts, outputs_of
from builder.platforms import foreign_hint, joined, makes_index, platforms_of
from builder.remote import Network
from builder.results import solved
from builder.runtime import check
from builder.solve import Solve
from cache.hints import TYPE_CHECKING
from cache.value import replace, value
from frontend.dockerfile.instructions import try_parse
from frontend.dockerfile.lower import Lowered, LowerRequest, lower
from frontend.graph import Network as NetworkChoice
from frontend.source import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from builder.export.output import OutputSpec
    from builder.layerforms import LayerForm
    from builder.progress.deferred import DeferredReporter
    from builder.remote_context import RemoteContext
    from builder.request import BuildRequest
    from builder.solver.scheduler import Explained, Solver
    from cache.spec.oci import Platform
    from frontend.dockerfile.syntax import Parsed
    from frontend.ignore import IgnorePattern
    from frontend.source import Diagnostic, SourceFile


def _unheard(source: SourceFile, warnings: tuple[Diagnostic, ...]) -> None:
    """Nobody asks for warnings before the build is over."""


@value
class Caller:
    """The process around a build: environment, terminal, where news and waits are told."""

    environ: Mapping[str, str]
    reporter: DeferredReporter
    notice: Callable[[str], None]
    stdout_is_terminal: bool
    warned: Callable[[SourceFile, tuple[Diagnostic, ...]], None] = _unheard


@value
class Built:
    """What a build gave and what it took."""

    finished: Finished
    steps_run: int
    steps_cached: int
    explained: tuple[Explained, ...]
    warnings: tuple[Diagnostic, ...]
    source: SourceFile
    unconsumed: tuple[str, ...] = ()  # build arguments that nothing asked for


def graph(request: BuildRequest, caller: Caller) -> str:
    """Compile only: the build graph as text (--call graph)."""
    with contextlib.ExitStack() as stack:
        return _compiled(request, caller, stack, _lent(request, caller)).parts[0].graph.dump()


def build(request: BuildRequest, caller: Caller) -> Built:
    """Build a request to its outputs.

    Raises:
        PybuildError: whatever went wrong; nothing is half-written.
    """
    outputs = outputs_of(request, stdout_is_terminal=caller.stdout_is_terminal)
    apart = request.network is NetworkChoice.SANDBOX
    check(request.sandbox, runtime=request.runtime, apart=apart)
    secrets = _lent(request, caller)
    request = replace(request, insecure_registries=insecure_hosts(request, outputs))
    with contextlib.ExitStack() as stack:
        compiled = _compiled(request, caller, stack, secrets)
        state, network, parts = compiled.state, compiled.network, compiled.parts
        solve = Solve(
            compiled.request,
            secrets,
            state,
            network,
            compiled.images,
            parts[0],
            caller.reporter,
            compiled.given,
            more=[*(part.result for part in parts[1:]), *(r for part in parts for r in part.also)],
            notice=caller.notice,
            ahead=_ahead(outputs, request, state, network),
        )
        stack.callback(solve.close)
        try:
            solver = solve.run()
        except SolveError as error:
            _place(error, compiled.given.source)
            raise
        finished = _finish(compiled, solve, solver, outputs, caller)
    return _built(finished, solver, request, compiled)


def _ahead(
    outputs: tuple[OutputSpec, ...], request: BuildRequest, state: states.State, network: Network
) -> LayerForm | None:
    """What the outputs will want layers in; those that will be pushed are sent as they are made."""
    if not outputs:
        return None
    from builder.layerforms import form_of  # noqa: PLC0415 - only with outputs

    names = [name for out in outputs if out.push for name in out.names or request.tags]
    if names:
        state.layers.follow = partial(network.follow, names[0], state.layers)
    return form_of(outputs)


def _finish(
    compiled: _Compiled,
    solve: Solve,
    solver: Solver,
    outputs: tuple[OutputSpec, ...],
    caller: Caller,
) -> Finished:
    """Turn what was solved into images, outputs and what others are to have of the cache."""
    request, parts = compiled.request, compiled.parts
    clock = Clock(request.source_date_epoch)
    images = [solved(part, solver.outputs, clock) for part in parts]
    first_id = len(parts[0].graph.vertices)
    is_multi = makes_index(request)
    state, network = compiled.state, compiled.network
    finisher = Finisher(request, state, network, caller.reporter, first_id, makes_index=is_multi)
    finished = finisher.finish(images, outputs)
    for place in request.cache_to:
        results = [part.result for part in parts]
        records = solver.records(None if place.everything else results)
        finisher.keep_cache(place, records, solve.selections)
    return finished


def _place(error: SolveError, source: SourceFile) -> None:
    """Add to a step's failure what only its Dockerfile and this machine tell."""
    span = error.vertex.span
    error.hint = error.hint or foreign_hint(error.log_tail, local_platform())
    error.excerpt = f"{source.name}:{span.start}\n{source.excerpt(span)}"


def _built(finished: Finished, solver: Solver, request: BuildRequest, compiled: _Compiled) -> Built:
    return Built(
        finished,
        solver.ran,
        solver.cached,
        tuple(solver.explained[ref] for ref in sorted(solver.explained)),
        compiled.parts[0].warnings,
        compiled.given.source,
        _unconsumed(request, compiled),
    )


def _lent(request: BuildRequest, caller: Caller) -> dict[str, bytes]:
    """Read secrets and check ssh agents before anything else is done."""
    if not (request.secrets or request.ssh):
        return {}
    from builder.secrets import check_agents, read_secrets  # noqa: PLC0415 - only when asked

    check_agents(request.ssh, caller.environ)
    return read_secrets(request.secrets, caller.environ)


def _unconsumed(request: BuildRequest, compiled: _Compiled) -> tuple[str, ...]:
    if not request.build_args:
        return ()
    from frontend.dockerfile.unconsumed import unconsumed  # noqa: PLC0415 - only when asked

    images = compiled.images.resolved.values()
    triggers = [text for image in images for text in image.config.on_build]
    return unconsumed(compiled.parsed, triggers, (name for name, _ in request.build_args))


@value
class Examined:
    """What a Dockerfile can be looked at with, without building it."""

    given: BuildInput
    request: LowerRequest
    images: BaseImages
    ignore: Callable[[], tuple[IgnorePattern, ...]]
    ignore_name: Callable[[], str]


def examined(request: BuildRequest, caller: Caller, stack: contextlib.ExitStack) -> Examined:
    """Get the Dockerfile, and open what resolves its images (--call); nothing is parsed.

    Raises:
        UsageError: there is no Dockerfile that can be read.
    """
    network = Network(caller.environ, request.insecure_registries)
    local = _local(request, network)
    state = stack.enter_context(
        states.opened(states.locate(caller.environ, request.root), network, network.progress)
    )
    network.origin = state.layers.origin
    given = local or _remote(request, caller, state, network, _lent(request, caller)).load()
    images = BaseImages(
        state, network, pull=request.pull, platform=request.platform, notice=caller.notice
    )
    asked = _lower_request(request, request.platform)
    return Examined(
        given,
        asked,
        images,
        lambda: _ignore(request, given),
        lambda: read_ignore(request.context, given.path)[0],
    )


@value
class _Compiled:
    request: BuildRequest  # with the epoch that the Dockerfile declares
    given: BuildInput
    parsed: Parsed
    state: states.State
    network: Network
    images: BaseImages
    parts: tuple[Lowered, ...]  # one for each platform, all over one graph


def _compiled(
    request: BuildRequest,
    caller: Caller,
    stack: contextlib.ExitStack,
    secrets: Mapping[str, bytes],
) -> _Compiled:
    network = Network(caller.environ, request.insecure_registries)
    stack.callback(network.close)
    local = _local(request, network)
    parsed = local and _parsed(local.source, request, caller)
    state = stack.enter_context(
        states.opened(states.locate(caller.environ, request.root), network, network.progress)
    )
    network.origin = state.layers.origin
    remote = partial(_remote, request, caller, state, network, secrets)
    given = local or remote().load()
    parsed = parsed or _parsed(given.source, request, caller)
    request = with_epoch(request, given, parsed, lambda op: remote().time_of(op))
    images = BaseImages(
        state, network, pull=request.pull, platform=request.platform, notice=caller.notice
    )
    parts = [
        lower(
            given.source,
            parsed,
            _lower_request(request, platform),
            images,
            ignore=lambda: _ignore(request, given),
            warned=partial(caller.warned, given.source) if platform == request.platform else None,
        )
        for platform in platforms_of(request)
    ]
    return _Compiled(request, given, parsed, state, network, images, joined(parts))


def _local(request: BuildRequest, network: Network) -> BuildInput | None:
    """Read the Dockerfile of a directory, before any state is touched; None for other contexts."""
    if not is_directory(request.context):
        return None
    return BuildInput(*read_dockerfile(request.context, request.dockerfile, network.read))


def _parsed(source: SourceFile, request: BuildRequest, caller: Caller) -> Parsed:
    """Parse; what deserves a warning before the first mistake is told first (T14)."""
    attempt = try_parse(source)
    _check_frontend(source, attempt.parsed.directives.syntax, dict(request.build_args))
    if attempt.problems:
        from frontend.dockerfile.check import written_warnings  # noqa: PLC0415 - rarely needed

        asked = _lower_request(request, request.platform)
        caller.warned(source, written_warnings(source, attempt, asked))
        raise DockerfileError(source, attempt.problems)
    return attempt.parsed


def _check_frontend(source: SourceFile, syntax: str, build_args: Mapping[str, str]) -> None:
    """Refuse other languages than ours; the argument goes before the directive (P14)."""
    chosen = build_args.get("BUILDKIT_SYNTAX") or syntax
    if not chosen or chosen.startswith("docker/dockerfile"):
        return
    from frontend.dockerfile import frontends  # noqa: PLC0415 - rarely needed

    if frontends.is_builtin(chosen):
        return
    if chosen == syntax:
        raise frontends.refusal(source, syntax)
    msg = f"--build-arg BUILDKIT_SYNTAX={chosen[:100]}: this frontend is not built in"
    raise UsageError(msg, hint=frontends.HINT)


def _ignore(request: BuildRequest, given: BuildInput) -> tuple[IgnorePattern, ...]:
    """Give the patterns of the ignore file that a local context has."""
    if given.layers is not None:
        return ()
    name, text = read_ignore(request.context, given.path)
    if not text:
        return ()
    from frontend.ignore import parse_ignore  # noqa: PLC0415 - start-up time

    return parse_ignore(text, name)


def _remote(
    request: BuildRequest,
    caller: Caller,
    state: states.State,
    network: Network,
    secrets: Mapping[str, bytes],
) -> RemoteContext:
    from builder.remote_context import RemoteContext  # noqa: PLC0415 - most are directories

    clock = Clock(request.source_date_epoch)
    return RemoteContext(request, state, network, secrets, clock, caller.notice)


def _lower_request(request: BuildRequest, platform: Platform) -> LowerRequest:
    return LowerRequest(
        platform=platform,
        build_platform=local_platform(),
        target=request.target,
        also_targets=request.also_targets,
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
        multi_platform=makes_index(request),
    )
