"""Warnings about what works but should be written otherwise; rules that need no lowering.

Rule names are those docker users know from `# check=skip=`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frontend.dockerfile.syntax import Arg, Pairs, Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontend.dockerfile.problems import Problems
    from frontend.dockerfile.stages import Stages
    from frontend.dockerfile.syntax import Instruction, Parsed

_SECRET_WORDS = frozenset(
    {
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    }
)
_PUBLIC_WORDS = frozenset({"public"})


def check(parsed: Parsed, stages: Stages, problems: Problems) -> None:
    """Apply every rule to every instruction, and those about names to every stage."""

    def warn(rule: str, message: str, instruction: Instruction) -> None:
        problems.warn(rule, message, instruction.node.span)

    for instruction in parsed.instructions:
        _instruction(instruction, warn)
    _stage_names(stages, warn)


def _instruction(instruction: Instruction, warn: Callable[[str, str, Instruction], None]) -> None:
    node = instruction.node
    if node.empty_continuation:
        warn("NoEmptyContinuation", "empty continuation line", instruction)
    if node.keyword == "MAINTAINER":
        warn(
            "MaintainerDeprecated",
            "MAINTAINER is deprecated; use a label such as org.opencontainers.image.authors",
            instruction,
        )
    if isinstance(instruction, Process) and instruction.command.shell_form:
        warn(
            "JSONArgsRecommended",
            f"JSON arguments recommended for {node.keyword}: a shell does not pass signals on",
            instruction,
        )
    if isinstance(instruction, Pairs):
        _pairs(instruction, warn)
    if isinstance(instruction, Arg):
        _secrets(instruction, [name for name, _ in instruction.args], warn)


def _pairs(instruction: Pairs, warn: Callable[[str, str, Instruction], None]) -> None:
    keyword = instruction.node.keyword
    if instruction.legacy:
        warn(
            "LegacyKeyValueFormat",
            f'"{keyword} key=value" should be used instead of "{keyword} key value"',
            instruction,
        )
    if keyword == "ENV":
        _secrets(instruction, [name for name, _ in instruction.pairs], warn)


def _secrets(
    instruction: Instruction, names: list[str], warn: Callable[[str, str, Instruction], None]
) -> None:
    for name in names:
        words = frozenset(name.lower().replace("-", "_").replace(".", "_").split("_"))
        if words & _SECRET_WORDS and not words & _PUBLIC_WORDS:
            warn(
                "SecretsUsedInArgOrEnv",
                f'do not use {instruction.node.keyword} for secrets ("{name[:60]}");'
                " use RUN --mount=type=secret",
                instruction,
            )


def _stage_names(stages: Stages, warn: Callable[[str, str, Instruction], None]) -> None:
    seen: set[str] = set()
    for stage in stages.stages:
        name = stage.origin.stage
        if not name:
            continue
        if name in seen:
            warn("DuplicateStageName", f"duplicate stage name '{name}'", stage.origin)
        seen.add(name)
        node = stage.origin.node
        words = node.rest.split()
        written = words[-1]
        if written != written.lower():
            warn("StageNameCasing", f"stage name '{written}' should be lowercase", stage.origin)
        keyword = node.written_keyword or node.keyword
        as_word = words[-2]  # a named FROM has three words
        if keyword.isupper() != as_word.isupper():
            warn(
                "FromAsCasing",
                f"'{as_word}' and '{keyword}' keywords' casing do not match",
                stage.origin,
            )
