"""The directories a build reads: its context and named ones, each with its own ignore file (S07, D02)."""

from __future__ import annotations

import os

from builder.context.local import LocalContext
from builder.dockerfile_input import read_ignore
from builder.errors import UsageError
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.context.memo import StatCache
    from frontend.ignore import IgnoreMatcher


def open_directory(
    name: str, path: str, dockerfile: str, *, hidden: Sequence[str], memo: StatCache
) -> LocalContext:
    """Open a context; an ignore file beside `dockerfile` goes before its own.

    Raises:
        UsageError: there is no directory at the path, or its ignore file cannot be read.
    """
    if not os.path.isdir(path):
        is_there = os.path.lexists(path)
        why = "is not a directory" if is_there else "not found"
        msg = f'failed to get build context {name}: path "{path}" {why}'
        raise UsageError(msg, hint="look at --build-context")
    shown, text = read_ignore(path, dockerfile)
    rules = _rules(text, shown) if text else None
    return LocalContext(path, ignore=rules, hidden=hidden, memo=memo)


def _rules(text: str, name: str) -> IgnoreMatcher | None:
    from frontend.ignore import IgnoreMatcher, parse_ignore  # noqa: PLC0415 - start-up time

    patterns = parse_ignore(text, name)
    return IgnoreMatcher(patterns) if patterns else None
