"""Stages and an image resolver to a build graph, an image config and its history to be.

Only stages the target needs are looked at (S03); everything wrong in them is reported at once.
"""

from __future__ import annotations

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.spec.config import ImageConfig
from cache.value import replace, value
from frontend.dockerfile import steplint
from frontend.dockerfile.bases import images_needed, origin_of, origins_read, platform_of
from frontend.dockerfile.history import PendingHistory, pairs_text
from frontend.dockerfile.instructions import parse_trigger
from frontend.dockerfile.lower_copy import lower_copy, lower_workdir
from frontend.dockerfile.lower_run import lower_run
from frontend.dockerfile.metadata import Draft
from frontend.dockerfile.prelude import begin, evaluate_globals
from frontend.dockerfile.problems import LoweringError, MistakeError
from frontend.dockerfile.session import ImageResolver, LowerRequest, Origin, Session, StageWork
from frontend.dockerfile.stagehistory import stage_history
from frontend.dockerfile.stages import SCRATCH, Stage
from frontend.dockerfile.syntax import (
    Arg,
    Copy,
    HealthcheckInstruction,
    OnBuild,
    Pairs,
    Process,
    Run,
    Text,
    Words,
)
from frontend.graph import Ref
from frontend.source import DockerfileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cache.spec.oci import Platform
    from frontend.dockerfile.environment import Expander
    from frontend.dockerfile.session import Base
    from frontend.dockerfile.syntax import Instruction, Parsed
    from frontend.graph import Graph
    from frontend.ignore import IgnorePattern
    from frontend.source import Diagnostic, SourceFile, Span

__all__ = [
    "ImageResolver",
    "LowerRequest",
    "Lowered",
    "LoweredStage",
    "LoweringError",
    "PendingHistory",
    "lower",
]

_STEP_KEYWORDS = frozenset({"RUN", "COPY", "ADD", "WORKDIR"})


@value
class LoweredStage:
    """A stage that was lowered, for reports."""

    index: int
    name: str
    base: str
    ref: Ref
    span: Span


@value
class Lowered:
    """What a Dockerfile means: `config` has the base's history, `history` what comes after it."""

    graph: Graph
    result: Ref
    config: ImageConfig
    history: tuple[PendingHistory, ...]
    warnings: tuple[Diagnostic, ...] = ()
    stages: tuple[LoweredStage, ...] = ()
    also: tuple[Ref, ...] = ()  # results of further targets, built for what they do


def lower(
    source: SourceFile,
    parsed: Parsed,
    request: LowerRequest,
    resolver: ImageResolver,
    *,
    announce: Callable[[tuple[tuple[str, Platform], ...]], None] | None = None,
    ignore: Callable[[], tuple[IgnorePattern, ...]] | None = None,
    warned: Callable[[tuple[Diagnostic, ...]], None] | None = None,
) -> Lowered:
    """Lower a parsed Dockerfile for one platform.

    `announce` is told once which images will probably be asked of the resolver, before the
    first is, so that they can be looked up at the same time. `ignore` gives the patterns of the
    context's ignore file, for a warning. `warned` is told all warnings, also before a failure.

    Raises:
        DockerfileError: with every mistake found in the stages that the target needs.
        LoweringError: a base image could not be resolved; knows the FROM.
        MistakeError: the request itself is wrong, such as an unknown target (T88).
    """
    session = begin(source, parsed, request, resolver, ignore)
    try:
        target = session.stages.target(request.target)
        also = [session.stages.target(name) for name in request.also_targets]
        evaluate_globals(session)
        if announce is not None:
            announce(images_needed(session, target.index))
        for stage in (target, *also):
            walk(session, stage.index)
        session.problems.finish()
    finally:
        if warned is not None:
            warned(session.problems.warnings)
    return _lowered(session, target, also)


def _lowered(session: Session, target: Stage, also: Sequence[Stage]) -> Lowered:
    work = session.finished[target.index]
    request = session.request
    graph = session.graph.build()
    return Lowered(
        graph=graph,
        result=work.ref,
        config=work.draft.finished(request.platform, request.labels),
        history=stage_history(session, work, graph),
        warnings=tuple(dict.fromkeys(session.problems.warnings)),
        stages=tuple(
            LoweredStage(index, w.stage.name, w.stage.origin.image, w.ref, w.stage.origin.node.span)
            for index, w in sorted(session.finished.items())
        ),
        also=tuple(session.finished[stage.index].ref for stage in also),
    )


def walk(session: Session, target: int) -> None:
    """Lower the target after everything it needs; a stack of our own, for chains of any length."""
    begun: dict[int, StageWork] = {}
    origins: dict[int, Origin] = {}
    pending = [target]
    while pending:
        index = pending[-1]
        if index in session.finished:
            pending.pop()
            continue
        if index not in origins:
            origins[index] = _origin(session, session.stages.stages[index])
        base = origins[index].stage
        if base is not None and base not in session.finished:
            _check_cycle(session, index, [base], origins)
            pending.append(base)
            continue
        if index not in begun:
            begun[index] = _begin(session, session.stages.stages[index], origins[index])
        missing = [d for d in begun[index].dependencies if d not in session.finished]
        if missing:
            _check_cycle(session, index, missing, origins)
            pending.extend(reversed(missing))
            continue
        _finish(session, begun[index])
        session.finished[index] = begun[index]


def _check_cycle(
    session: Session, index: int, needed: list[int], opened: dict[int, Origin]
) -> None:
    """Refuse what only `target:` contexts can make: stages that wait for each other.

    Raises:
        DockerfileError: a stage that is needed next is itself waiting.
    """
    if any(stage in opened for stage in needed):
        name = session.stages.stages[index].name
        error = MistakeError(
            f"context recursion limit exceeded: stage {name} needs itself",
            hint="look at the target: values of --build-context",
        )
        session.problems.add(session.stages.stages[index].origin.node.span, error)
        session.problems.check()


def _origin(session: Session, stage: Stage) -> Origin:
    """Say what a FROM builds on; a wrong one is reported and replaced by scratch."""
    try:
        return origin_of(session, stage)
    except PybuildError as error:
        session.problems.add(stage.origin.node.span, error)
        return Origin(image=SCRATCH)


def _begin(session: Session, stage: Stage, origin: Origin) -> StageWork:
    """Give a stage its base and its instructions, ONBUILD triggers first (I13)."""
    span = stage.origin.node.span
    platform = session.request.platform
    base = None
    try:
        platform = platform_of(session, stage)
        if origin.image:
            base = session.resolve(origin.image, platform, span)
    except (LoweringError, DockerfileError):
        raise
    except PybuildError as error:
        session.problems.add(span, error)
    if origin.stage is not None:
        parent = session.finished[origin.stage]
        work = StageWork(stage, origin, parent.platform, parent.ref, parent.draft.child(), parent)
        work.has_workdir = parent.has_workdir
        _plan(session, work)
        return work
    if base is None:
        draft = Draft.scratch(platform, session.budget)
        if stage.replaced:  # has no working directory in the reference either
            draft = Draft(ImageConfig(platform=platform), session.budget)
        work = StageWork(stage, origin, platform, session.base(origin, span), draft)
        work.total = int(bool(origin.context))  # counted, but no step is shown for it
        _plan(session, work)
        return work
    return _on_image(session, stage, origin, platform, base)


def _on_image(
    session: Session, stage: Stage, origin: Origin, platform: Platform, base: Base
) -> StageWork:
    found = base.config.platform
    if (found.os, found.architecture) != (platform.os, platform.architecture):
        session.problems.warn(
            "InvalidBaseImagePlatform",
            f'Base image {origin.image} was pulled with platform "{found}", expected "{platform}"'
            " for current build",
            stage.origin.node.span,
        )
    # The tree is known only after the plan, whose length is in the name of the vertex.
    work = StageWork(stage, origin, platform, Ref(0), Draft(base.config, session.budget))
    work.done = work.total = 1
    _plan(session, work)
    work.ref = session.graph.add(
        base.op,
        name=session.step_name(work, f"FROM {base.pinned}"),
        span=stage.origin.node.span,
        stage=session.label(work),
    )
    return work


def _plan(session: Session, work: StageWork) -> None:
    """List the steps and the stages they read, which must be finished before them."""
    triggered = _triggered(session, work)
    own = ((instruction, False) for instruction in work.stage.instructions)
    work.steps = (*((instruction, True) for instruction in triggered), *own)
    work.total += sum(step.node.keyword in _STEP_KEYWORDS for step, _ in work.steps)
    read = (o for step, _ in work.steps for o in origins_read(session, work.stage, step))
    work.dependencies = tuple(dict.fromkeys(o.stage for o in read if o.stage is not None))


def _triggered(session: Session, work: StageWork) -> list[Instruction]:
    """Parse the base's ONBUILD triggers as instructions that stand at the FROM (I13)."""
    span = work.stage.origin.node.span
    found: list[Instruction] = []
    for text in work.draft.take_triggers():
        try:
            instruction = parse_trigger(text, session.directives)
        except PybuildError as error:
            message = f"ONBUILD trigger of the base image {text[:60]!r}: {error.message}"
            session.problems.add(span, MistakeError(message, hint=error.hint))
            continue
        found.append(replace(instruction, node=replace(instruction.node, span=span)))
    return found


def _finish(session: Session, work: StageWork) -> None:
    """Apply every step; a wrong one is reported and left out."""
    for step, triggered in work.steps:
        try:
            _apply(session, work, step, "ONBUILD " if triggered else "")
        except (LoweringError, DockerfileError):
            raise
        except PybuildError as error:
            session.problems.add(step.node.span, error)
            if session.problems.many:
                session.problems.check()


def _apply(session: Session, work: StageWork, step: Instruction, prefix: str) -> None:
    scope = work.draft.environment.scope

    def expand(text: str, /) -> str:
        return session.expand(text, scope, step.node.span)

    session.enter(work, step)
    if step.node.keyword in _STEP_KEYWORDS:
        work.done += 1
    if isinstance(step, Run):
        lower_run(session, work, step, expand, prefix)
    elif isinstance(step, Copy):
        lower_copy(session, work, step, expand, prefix)
    elif isinstance(step, Text) and step.node.keyword == "WORKDIR":
        lower_workdir(session, work, step, expand, prefix)
    elif isinstance(step, OnBuild):
        work.draft.add_trigger(step.trigger)
    else:
        created_by = _metadata(session, work, step, expand)
        session.budget.spend(len(created_by))
        work.history.append(PendingHistory(created_by))
    steplint.check(session, work, step)


def _metadata(session: Session, work: StageWork, step: Instruction, expand: Expander) -> str:
    """Fold a metadata instruction into the config and give its history text (O11)."""
    draft = work.draft
    keyword = step.node.keyword
    match step:
        case Arg():
            return _declare(session, work, step, expand)
        case Pairs():
            return (draft.set_env if keyword == "ENV" else draft.set_labels)(step, expand)
        case Process():
            return (draft.set_cmd if keyword == "CMD" else draft.set_entrypoint)(step)
        case HealthcheckInstruction():
            return draft.set_healthcheck(step)
        case Words():
            return _words(session, work, step, expand)
        case Text():
            return _text(draft, step, expand)
        case _:
            raise MistakeError(f"{keyword} can not stand here")


def _words(session: Session, work: StageWork, step: Words, expand: Expander) -> str:
    draft = work.draft
    if step.node.keyword == "SHELL":
        return draft.set_shell(step)
    if step.node.keyword == "VOLUME":
        return draft.add_volumes(step, expand)
    scope = draft.environment.scope
    return draft.expose(step, lambda word: session.split(word, scope, step.node.span))


def _text(draft: Draft, step: Text, expand: Expander) -> str:
    if step.node.keyword == "USER":
        return draft.set_user(step, expand)
    if step.node.keyword == "STOPSIGNAL":
        return draft.set_stop_signal(step, expand)
    return draft.set_maintainer(step)


def _declare(session: Session, work: StageWork, step: Arg, expand: Expander) -> str:
    """ARG: --build-arg, else the default here, else the global value, else unset (V30, V31)."""
    shown: list[tuple[str, str | None]] = []
    for name, default in step.args:
        value = session.given(name)
        own = value is not None or default is not None or name not in session.globals
        if value is None:
            value = expand(default) if default is not None else session.globals.get(name)
        work.draft.environment.declare(name, value)
        if own:
            work.arguments[name] = (step, value or "")
        shown.append((name, value))
    return pairs_text("ARG", shown)
