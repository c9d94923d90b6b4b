"""What a target takes: its build arguments, secrets and ssh agents (--call outline).

Lowers the target as a build does, but keeps only what can be asked of its user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.value import state, value
from frontend.dockerfile import shell
from frontend.dockerfile.lower import walk
from frontend.dockerfile.prelude import begin, evaluate_globals
from frontend.dockerfile.targets import described
from frontend.graph import ExecOp, SecretMount, SshMount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from frontend.dockerfile.session import ImageResolver, LowerRequest, Session, StageWork
    from frontend.dockerfile.syntax import Parsed
    from frontend.source import SourceFile, Span


@value
class Argument:
    """A build argument, with the value it has in this build."""

    name: str
    value: str
    description: str
    span: Span


@value
class Need:
    """A secret or an ssh agent by its id."""

    name: str
    required: bool
    span: Span


@value
class Outline:
    """What a target takes, each kind by line."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    secrets: tuple[Need, ...]
    ssh: tuple[Need, ...]


def outline(
    source: SourceFile, parsed: Parsed, request: LowerRequest, resolver: ImageResolver
) -> Outline:
    """Say what a target takes.

    Raises:
        DockerfileError, LoweringError, MistakeError: as a build would.
    """
    session = begin(source, parsed, request, resolver)
    target = session.stages.target(request.target)
    evaluate_globals(session)
    walk(session, target.index)
    session.problems.finish()
    name = target.origin.stage
    return Outline(
        name=name,
        description=described(target.origin.node.comments, name),
        arguments=_arguments(session, target.index),
        secrets=_needs(session, SecretMount),
        ssh=_needs(session, SshMount),
    )


def _needs(session: Session, kind: type[SecretMount | SshMount]) -> tuple[Need, ...]:
    found: dict[str, Need] = {}
    for vertex in session.graph.build().vertices:
        if isinstance(vertex.op, ExecOp):
            for mount in vertex.op.mounts:
                if isinstance(mount, kind):
                    found.setdefault(mount.id, Need(mount.id, mount.required, vertex.span))
    return tuple(sorted(found.values(), key=lambda need: need.span))


@state
class _Global:
    """An ARG before the first FROM, and the other variables its default is made of."""

    argument: Argument
    parts: set[str]


class _Asked(dict[str, str]):
    """Variables that note which of them were found."""

    def __init__(self, scope: Mapping[str, str]) -> None:
        super().__init__(scope)
        self.found: set[str] = set()

    def get(self, name: str, default: str | None = None, /) -> str | None:  # type: ignore[override]
        if name in self:
            self.found.add(name)
        return super().get(name, default)


def _arguments(session: Session, target: int) -> tuple[Argument, ...]:
    """Collect what stages use: the target first, then its base, then those it copies from."""
    known = _globals(session)
    asked = _Asked(session.globals)
    found: dict[str, Argument] = {}
    for work in _reachable(session, target):
        own = {
            name: Argument(name, value, described(step.node.comments, name), step.node.span)
            for name, (step, value) in work.arguments.items()
        }
        used = {*_named_by_from(session, work, asked), *work.draft.environment.declared}
        for name in sorted(_with_parts(used, known, own)):
            argument = own.get(name) or (known[name].argument if name in known else None)
            if argument is not None:
                found.setdefault(name, argument)
    return tuple(sorted(found.values(), key=lambda argument: argument.span))


def _reachable(session: Session, target: int) -> Iterator[StageWork]:
    pending, seen = [target], {target}
    while pending:
        work = session.finished[pending.pop()]
        yield work
        base = work.origin.stage
        following = (*work.dependencies[::-1], *(() if base is None else (base,)))
        for index in following:
            if index not in seen:
                seen.add(index)
                pending.append(index)


def _globals(session: Session) -> dict[str, _Global]:
    """List the global ARGs; one that is given anew keeps what its old default was made of."""
    known: dict[str, _Global] = {}
    own = {name for step in session.stages.global_args for name, _ in step.args}
    scope = _Asked({n: v for n, v in session.globals.items() if n not in own})
    for step in session.stages.global_args:
        for name, default in step.args:
            scope.found = set()
            given = session.given(name)
            if given is None and default is not None:
                given = shell.expand(default, scope, escape=session.directives.escape)
            parts = scope.found - {name}
            if name in scope.found and name in known:
                parts |= known[name].parts
            if given is not None:
                scope[name] = given
            text = described(step.node.comments, name)
            known[name] = _Global(Argument(name, given or "", text, step.node.span), parts)
    return known


def _named_by_from(session: Session, work: StageWork, scope: _Asked) -> set[str]:
    scope.found = set()
    origin = work.stage.origin
    for text in (origin.image, origin.platform):
        if "$" in text:
            shell.expand(text, scope, escape=session.directives.escape)
    return scope.found


def _with_parts(
    used: set[str], known: Mapping[str, _Global], own: Mapping[str, Argument]
) -> set[str]:
    """Add the arguments that the defaults of used global ones are made of."""
    pending, all_used = list(used), set(used)
    while pending:
        name = pending.pop()
        if name in known and name not in own:
            new = known[name].parts - all_used
            all_used |= new
            pending.extend(new)
    return all_used
