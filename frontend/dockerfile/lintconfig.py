"""Which lint rules are heard: the check directive, its build argument, comments (P15, P27)."""

from __future__ import annotations

import re

from cache.value import value
from frontend.dockerfile.problems import MistakeError

_COMMENT = r"\s*check\s*=\s*(\S+)"
_OPTIONS = 3  # parts that `;` divides
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
# Found on the file as a whole: comments above an instruction do not reach them.
_WHOLE_FILE = frozenset(
    {
        "ConsistentInstructionCasing",
        "DuplicateStageName",
        "InvalidBaseImagePlatform",
        "InvalidDefaultArgInFrom",
        "NoEmptyContinuation",
        "ReservedStageName",
    }
)
_ALL = "all"


@value
class CheckOptions:
    """`skip=…;error=…;experimental=…`; `all` stands for every rule."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def hears(self, rule: str) -> bool:
        """Whether a rule is on: experimental ones when asked for, others unless skipped."""
        if rule in _EXPERIMENTAL:
            return rule in self.experimental or _ALL in self.experimental
        return rule not in self.skip and _ALL not in self.skip


def parse_check(text: str) -> CheckOptions:
    """Read options; names of rules that do not exist mean nothing.

    Raises:
        MistakeError: an unknown key, or `error` without a boolean.
    """
    options = {"skip": "", "experimental": "", "error": "false"}
    for part in text.strip().split(";", _OPTIONS - 1) if text.strip() else ():
        key, equals, given = part.partition("=")
        key = key.strip() if equals else part
        if not equals or key not in options:
            raise MistakeError(
                f'failed to parse check options: invalid check option "{key[:64]}"',
                hint="write check=skip=RULE,RULE;error=true;experimental=RULE",
            )
        options[key] = given.strip()
    if options["error"] not in _TRUE | _FALSE:
        raise MistakeError(
            f'failed to parse check option "error={options["error"][:64]}"',
            hint="write error=true or error=false",
        )
    return CheckOptions(
        _rules(options["skip"]), _rules(options["experimental"]), options["error"] in _TRUE
    )


class LintConfig:
    """The options of a file and those its comments add for single instructions."""

    def __init__(self, check: str, comments: dict[int, tuple[str, ...]]) -> None:
        """Take the options and the comments by the first line of the instruction below them."""
        self.options = parse_check(check)
        self._comments = comments

    @property
    def strict(self) -> bool:
        """Whether warnings are errors."""
        return self.options.error

    def hears(self, rule: str, line: int) -> bool:
        """Whether a rule is on for the instruction at a line."""
        if not self.options.hears(rule) and rule not in _EXPERIMENTAL:
            return False
        comments = self._comments.get(line)
        if not comments or rule in _WHOLE_FILE:
            return self.options.hears(rule)
        return _with_comments(self.options, comments).hears(rule)


def _with_comments(options: CheckOptions, comments: tuple[str, ...]) -> CheckOptions:
    """Add what the first `check=` comment says; a wrong one says nothing."""
    for comment in comments:
        match = re.match(_COMMENT, comment, re.IGNORECASE)
        if match:
            try:
                added = parse_check(match[1])
            except MistakeError:
                return options
            return CheckOptions(
                options.skip | added.skip, options.experimental | added.experimental
            )
    return options


def _rules(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(","))
