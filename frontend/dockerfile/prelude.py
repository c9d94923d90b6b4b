"""What comes before the stages of a file: check options, global ARGs, names that FROMs give.

Nothing is resolved here, so a file can be looked at this far without any image.
"""

from __future__ import annotations

from cache.hints import TYPE_CHECKING
from frontend.dockerfile import lint
from frontend.dockerfile.bases import check_names
from frontend.dockerfile.lintconfig import LintConfig
from frontend.dockerfile.problems import Problems
from frontend.dockerfile.session import EPOCH, Session
from frontend.dockerfile.stages import global_scope, group, platform_args

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontend.dockerfile.session import ImageResolver, LowerRequest
    from frontend.dockerfile.syntax import Parsed
    from frontend.ignore import IgnorePattern
    from frontend.source import SourceFile

_CHECK = "BUILDKIT_DOCKERFILE_CHECK"


def begin(
    source: SourceFile,
    parsed: Parsed,
    request: LowerRequest,
    resolver: ImageResolver,
    ignore: Callable[[], tuple[IgnorePattern, ...]] | None = None,
) -> Session:
    """Begin a lowering: what needs no values is checked, nothing is resolved.

    Raises:
        MistakeError: the request is wrong, or the options of checks are.
    """
    problems = Problems(source, lint_config(parsed, request))
    stages = group(parsed)
    lint.check(parsed, stages, problems)
    return Session(source, parsed.directives, stages, request, resolver, problems, ignore)


def lint_config(parsed: Parsed, request: LowerRequest) -> LintConfig:
    """Say which rules are heard: as the build asks, else the file, and comments in it (P15)."""
    check = dict(request.build_args).get(_CHECK, parsed.directives.check.partition(" ")[0])
    nodes = (instruction.node for instruction in parsed.instructions)
    return LintConfig(check, {node.span.start: node.comments for node in nodes if node.comments})


def evaluate_globals(session: Session) -> None:
    """Evaluate the global ARGs, and check what all FROMs make of them."""
    request, stages = session.request, session.stages
    shown = request.target or stages.stages[-1].origin.stage or "default"
    automatic = platform_args(request.platform, request.build_platform, shown)
    escape = session.directives.escape
    given = {**automatic, **{n: v for n, v in session.build_args.items() if n in automatic}}
    lint.check_defaults(stages, given, session.problems, escape)
    session.globals = global_scope(
        stages.global_args, automatic, session.build_args, session.expand, session.problems.add
    )
    if EPOCH in session.build_args and not session.given(EPOCH):
        session.globals.pop(EPOCH, None)  # given as empty, which is none at all (O20)
    lint.check_origins(stages, session.globals, session.problems, escape)
    check_names(session)
