"""SOURCE_DATE_EPOCH as a Dockerfile's global ARG declares it (O20); reads no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from frontend.dockerfile import shell
from frontend.dockerfile.stages import global_scope, group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cache.errors import PybuildError
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

    def expand(text: str, scope: Mapping[str, str], span: Span) -> str:
        del span
        return shell.expand(text, scope, escape=parsed.directives.escape)

    def failed(span: Span, error: PybuildError) -> None:
        del span, error

    return global_scope(stages.global_args, {}, build_args, expand, failed).get(NAME, "")
