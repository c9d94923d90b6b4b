"""SOURCE_DATE_EPOCH as a Dockerfile's global ARG declares it (O20); reads no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frontend.dockerfile import remote, shell
from frontend.dockerfile.contexts import FileSource, GitSource
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.stages import SCRATCH, global_scope, group
from frontend.dockerfile.syntax import Arg, Copy
from frontend.graph import GitOp, HttpOp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cache.errors import PybuildError
    from cache.spec.oci import Platform
    from frontend.dockerfile.contexts import Contexts
    from frontend.dockerfile.stages import Stage
    from frontend.dockerfile.syntax import Parsed
    from frontend.source import Span

NAME = "SOURCE_DATE_EPOCH"


def declared_epoch(parsed: Parsed, build_args: Mapping[str, str]) -> str:
    """The expanded default of a global ARG SOURCE_DATE_EPOCH; "" without one.

    Mistakes in the global ARGs are lowering's to report.
    """
    stages = group(parsed)
    if not any(name == NAME for arg in stages.global_args for name, _ in arg.args):
        return ""
    return _globals(parsed, build_args).get(NAME, "")


def _globals(parsed: Parsed, build_args: Mapping[str, str]) -> dict[str, str]:
    def expand(text: str, scope: Mapping[str, str], span: Span) -> str:
        del span
        return shell.expand(text, scope, escape=parsed.directives.escape)

    def failed(span: Span, error: PybuildError) -> None:
        del span, error

    return global_scope(group(parsed).global_args, {}, build_args, expand, failed)


def named_source(
    parsed: Parsed,
    name: str,
    contexts: Contexts,
    build_args: Mapping[str, str],
    platform: Platform,
) -> GitOp | HttpOp | None:
    """What a named context or a stage is fetched from, whose time is the epoch; None: it has none.

    Raises:
        MistakeError: the name leads nowhere, or to a stage that is not just one remote ADD.
    """
    context = contexts.find(name, platform)
    if context is not None:
        source = context.source
        return source.op if isinstance(source, (FileSource, GitSource)) else None
    for stage in group(parsed).stages:
        if stage.origin.stage and stage.origin.stage == name.lower():
            return _added(parsed, stage, build_args)
    raise MistakeError(
        f"invalid SOURCE_DATE_EPOCH {name[:40]!r}",
        hint="give whole seconds since 1970, context, or the name of a context or a stage",
    )


def _added(parsed: Parsed, stage: Stage, build_args: Mapping[str, str]) -> GitOp | HttpOp:
    """Give what the only ADD of a stage fetches."""
    scope = _globals(parsed, build_args)
    scope.pop(NAME, None)

    def expand(text: str) -> str:
        return shell.expand(text, scope, escape=parsed.directives.escape)

    if expand(stage.origin.image) != SCRATCH:
        raise MistakeError("SOURCE_DATE_EPOCH stage must use FROM scratch")
    found: GitOp | HttpOp | None = None
    for step in stage.instructions:
        if isinstance(step, Arg):
            for name, default in step.args:
                if name in build_args or default is not None:
                    scope[name] = build_args[name] if name in build_args else expand(default or "")
        elif isinstance(step, Copy) and step.node.keyword == "ADD" and found is None:
            found = _remote(step, expand)
        else:
            raise MistakeError(
                f"SOURCE_DATE_EPOCH stage can only have ARG and one remote ADD, not {step.node.keyword}"
            )
    if found is None:
        raise MistakeError("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")
    return found


def _remote(step: Copy, expand: Callable[[str], str]) -> GitOp | HttpOp:
    if len(step.sources) != 1 or step.heredocs:
        raise MistakeError("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")
    url = expand(step.sources[0])
    reference = remote.git(url)
    if reference is not None:
        return reference.operation()
    if remote.is_http(url):
        return HttpOp(url, remote.filename(url))
    raise MistakeError("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")
