"""Warnings about a file as a whole: names, casing, FROM lines. Every stage counts, needed or not.

Rule names, messages and lines are those docker users know. Rules for single instructions of
stages that are built stand in `steplint`.
"""

from __future__ import annotations

import sys

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.spec.oci import Platform
from cache.spec.reference import Reference
from frontend.dockerfile import shell
from frontend.dockerfile.stages import global_scope
from frontend.dockerfile.syntax import Arg, From
from frontend.source import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from frontend.dockerfile.problems import Problems
    from frontend.dockerfile.stages import Stages
    from frontend.dockerfile.syntax import Instruction, Parsed

_RESERVED = ("scratch", "context")
_TARGET = "TARGETPLATFORM"


def check(parsed: Parsed, stages: Stages, problems: Problems) -> None:
    """Apply the rules that need no values: to every instruction, then to names and casing."""
    check_written(parsed, problems)
    _stage_names(stages, problems)
    _casing(stages, problems)


def check_written(parsed: Parsed, problems: Problems, end: int = sys.maxsize) -> None:
    """Apply the rules for what is written: to blank lines, and to instructions before `end`."""
    for instruction in parsed.instructions:
        if instruction.node.empty_continuation:
            last = _last_line(instruction)
            problems.warn("NoEmptyContinuation", "Empty continuation line", Span(last, last))
    for instruction in parsed.instructions:
        if instruction.node.span.start < end:
            _written(instruction, problems)


def _last_line(instruction: Instruction) -> int:
    """The last line of an instruction before its heredocs."""
    node = instruction.node
    return node.span.end - sum(doc.body.count("\n") + 1 for doc in node.heredocs)


def _written(instruction: Instruction, problems: Problems) -> None:
    node = instruction.node
    if node.keyword == "MAINTAINER":
        problems.warn(
            "MaintainerDeprecated",
            "Maintainer instruction is deprecated in favor of using label",
            node.span,
        )
    elif isinstance(instruction, From):
        if instruction.stage:
            _from_casing(instruction, problems)
            _description(instruction, [instruction.stage], problems)
    elif isinstance(instruction, Arg):
        _description(instruction, [name for name, _ in instruction.args], problems)


def _from_casing(origin: From, problems: Problems) -> None:
    words = origin.node.rest.split()  # a named FROM has three
    if words[2] != words[2].lower():
        problems.warn(
            "StageNameCasing", f"Stage name '{words[2]}' should be lowercase", origin.node.span
        )
    keyword, as_word = origin.node.written_keyword, words[1]
    if (keyword.islower() and not as_word.islower()) or (
        keyword.isupper() and not as_word.isupper()
    ):
        problems.warn(
            "FromAsCasing",
            f"'{as_word}' and '{keyword}' keywords' casing do not match",
            origin.node.span,
        )


def _description(instruction: Instruction, names: list[str], problems: Problems) -> None:
    node = instruction.node
    if node.comments and node.comments[-1].split(" ", 1)[0] not in names:
        shown = names[0] if len(names) == 1 else "<arg_key>"
        problems.warn(
            "InvalidDefinitionDescription",
            f"Comment for {node.keyword} should follow the format: `# {shown} <description>`",
            node.span,
        )


def _stage_names(stages: Stages, problems: Problems) -> None:
    seen: set[str] = set()
    for stage in stages.stages:
        name, span = stage.origin.stage, stage.origin.node.span
        if not name:
            continue
        if name in _RESERVED:
            problems.warn(
                "ReservedStageName",
                f'Stage name should not use the same name as reserved stage "{name}"',
                span,
            )
        if name in seen:
            problems.warn(
                "DuplicateStageName",
                f'Duplicate stage name "{name}", stage names should be unique',
                span,
            )
        seen.add(name)


def _casing(stages: Stages, problems: Problems) -> None:
    """Find keywords written otherwise than most; those of global ARGs do not count."""
    nodes = [
        instruction.node
        for stage in stages.stages
        for instruction in (stage.origin, *stage.instructions)
    ]
    lower = sum(node.written_keyword.islower() for node in nodes)
    upper = sum(node.written_keyword.isupper() for node in nodes)
    usual = "lowercase" if lower > upper else "uppercase"
    for node in nodes:
        word = node.written_keyword
        if not (word.islower() if lower > upper else word.isupper()):
            problems.warn(
                "ConsistentInstructionCasing",
                f"Command '{word}' should match the case of the command majority ({usual})",
                node.span,
            )


class _Noted(dict[str, str]):
    """Variables that note which of them were asked for."""

    def __init__(self, scope: Mapping[str, str]) -> None:
        super().__init__(scope)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.matched: set[str] = set()
        self.unmatched: dict[str, None] = {}

    def get(self, name: str, default: str | None = None, /) -> str | None:  # type: ignore[override]
        value = super().get(name, default)
        if value is None:
            self.unmatched[name] = None
        else:
            self.matched.add(name)
        return value


def check_defaults(
    stages: Stages, automatic: Mapping[str, str], problems: Problems, escape: str
) -> None:
    """Find FROMs that name no image when no build argument is given (InvalidDefaultArgInFrom)."""
    failed: list[PybuildError] = []

    def expand(text: str, scope: Mapping[str, str], _: Span) -> str:
        return shell.expand(text, scope, escape=escape)

    scope = global_scope(
        stages.global_args, dict(automatic), {}, expand, lambda _, error: failed.append(error)
    )
    if failed:
        return  # which will be reported itself
    for stage in stages.stages:
        written, span = stage.origin.image, stage.origin.node.span
        try:
            name = shell.expand(written, scope, escape=escape)
        except PybuildError:
            return
        if not _is_reference(name):
            problems.warn(
                "InvalidDefaultArgInFrom",
                f"Default value for ARG {written} results in empty or invalid base image name",
                span,
            )


def _is_reference(name: str) -> bool:
    try:
        Reference.parse(name)
    except PybuildError:
        return False
    return True


def check_origins(
    stages: Stages, scope: Mapping[str, str], problems: Problems, escape: str
) -> None:
    """Check the variables of every FROM."""
    declared = {name: None for arg in stages.global_args for name, _ in arg.args}
    known = {**declared, **dict.fromkeys(scope)}
    noted = _Noted(scope)
    for stage in stages.stages:
        origin = stage.origin
        if "$" not in origin.image and not origin.platform:
            continue
        noted.forget()
        _undeclared(origin, _expanded(origin.image, noted, escape)[1], known, problems)
        if origin.platform:
            noted.forget()
            platform, unmatched = _expanded(origin.platform, noted, escape)
            _undeclared(origin, unmatched, known, problems)
            _platform(origin, platform, noted, problems)


def _expanded(text: str, noted: _Noted, escape: str) -> tuple[str, Iterable[str]]:
    try:
        return shell.expand(text, noted, escape=escape), noted.unmatched
    except PybuildError:
        return "", ()


def _undeclared(
    origin: From, unmatched: Iterable[str], known: Mapping[str, None], problems: Problems
) -> None:
    for name in unmatched:
        if name not in known:
            guess = problems.closest(name, known)
            suffix = f" (did you mean {guess}?)" if guess else ""
            problems.warn(
                "UndefinedArgInFrom",
                f"FROM argument '{name}' is not declared{suffix}",
                origin.node.span,
            )


def _platform(origin: From, platform: str, noted: _Noted, problems: Problems) -> None:
    span = origin.node.span
    if noted.matched or noted.unmatched:
        if noted.matched == {_TARGET} and not noted.unmatched and platform == noted[_TARGET]:
            problems.warn(
                "RedundantTargetPlatform",
                f"Setting platform to predefined {origin.platform} in FROM is redundant as this"
                " is the default behavior",
                span,
            )
        return
    try:
        parsed = Platform.parse(platform)
    except PybuildError:
        return
    if parsed.os not in origin.stage and parsed.architecture not in origin.stage:
        problems.warn(
            "FromPlatformFlagConstDisallowed",
            f'FROM --platform flag should not use constant value "{platform}"',
            span,
        )
