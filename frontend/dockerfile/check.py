"""Everything that is wrong or questionable in a file, without building it (--check).

Every stage counts unless a target is named. What a build would stop at is one finding of many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.value import value
from frontend.dockerfile.instructions import try_parse
from frontend.dockerfile.lint import check_written
from frontend.dockerfile.lower import walk
from frontend.dockerfile.prelude import begin, evaluate_globals, lint_config
from frontend.dockerfile.problems import LintError, MistakeError, Problems
from frontend.source import Diagnostic, DockerfileError, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache.errors import PybuildError
    from frontend.dockerfile.instructions import Attempt
    from frontend.dockerfile.session import ImageResolver, LowerRequest, Session
    from frontend.ignore import IgnorePattern
    from frontend.source import SourceFile


@value
class Checked:
    """Warnings by line, and errors; `parse_error` if the file could not even be read."""

    warnings: tuple[Diagnostic, ...]
    errors: tuple[Diagnostic, ...]
    parse_error: bool = False


def check(
    source: SourceFile,
    request: LowerRequest,
    resolver: ImageResolver,
    ignore: Callable[[], tuple[IgnorePattern, ...]] | None = None,
) -> Checked:
    """Check a file; an image that cannot be resolved is an error of its FROM, not the end."""
    attempt = try_parse(source)
    if attempt.problems:
        warnings = written_warnings(source, attempt, request)
        return Checked(warnings, attempt.problems, parse_error=True)
    try:
        session = begin(source, attempt.parsed, request, resolver, ignore)
    except MistakeError as error:
        return Checked((), (_placeless(error),))
    errors: tuple[Diagnostic, ...] = ()
    try:
        _walk(session)
        session.problems.finish()
    except DockerfileError as error:
        errors = error.diagnostics
    except (LintError, MistakeError) as error:
        errors = (_placeless(error),)
    return Checked(session.problems.warnings, errors)


def written_warnings(
    source: SourceFile, attempt: Attempt, request: LowerRequest
) -> tuple[Diagnostic, ...]:
    """Warn of what stands before the first mistake in a file that cannot be read (T14)."""
    if attempt.misshapen:
        return ()
    try:
        problems = Problems(source, lint_config(attempt.parsed, request))
    except MistakeError:
        return ()
    check_written(attempt.parsed, problems, attempt.problems[0].span.start)
    return problems.warnings


def _walk(session: Session) -> None:
    session.lenient = True
    name = session.request.target
    wanted = [session.stages.target(name)] if name else session.stages.stages
    evaluate_globals(session)
    for stage in wanted:
        walk(session, stage.index)


def _placeless(error: PybuildError) -> Diagnostic:
    return Diagnostic(error.message, Span(0, 0), error.hint)
