"""Questions to the kernel, each asked in a process of its own that ends with the answer."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from builder.diagnosis.finding import Finding
from builder.sandbox.trial import in_child
from cache.errors import PybuildError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MAX_DETAIL = 300  # characters of an error nobody foresaw


@value
class Question:
    """What to try under a name; it returns what there is to say, or raises."""

    name: str
    ask: Callable[[], str]


@value
class Answered:
    """How a question was answered: as in Finding."""

    works: bool
    detail: str
    error: str
    hint: str


def findings(
    group: str, questions: Sequence[Question], enter: Callable[[], object] | None = None
) -> list[Finding]:
    """Ask every question; with `enter`, in a child that did this first.

    What `enter` raises is the answer to all of them.
    """
    if enter is None:
        return [_finding(group, q.name, _apart(q.ask)) for q in questions]
    answers = in_child(lambda: _all(questions, enter))
    if answers is None:
        answers = [_NOTHING] * len(questions)
    return [_finding(group, q.name, a) for q, a in zip(questions, answers, strict=True)]


_NOTHING = (False, "ended without an answer", "", "")


def _finding(group: str, name: str, answer: Sequence[object] | None) -> Finding:
    works, detail, error, hint = answer or _NOTHING
    return Finding(group, name, bool(works), str(detail), str(error), str(hint))


def _all(questions: Sequence[Question], enter: Callable[[], object]) -> list[Sequence[object]]:
    refused = _answer(lambda: str(enter() or ""))
    if not refused[0]:
        return [refused] * len(questions)
    return [_apart(question.ask) for question in questions]


def _apart(ask: Callable[[], str]) -> Sequence[object]:
    answer: Sequence[object] = in_child(lambda: _answer(ask)) or _NOTHING
    return answer


def _answer(ask: Callable[[], str]) -> tuple[bool, str, str, str]:
    try:
        return True, ask(), "", ""
    except PybuildError as error:
        cause = error.__cause__
        code = _code(cause) if isinstance(cause, OSError) else ""
        return False, error.message, code, error.hint or ""
    except OSError as error:
        return False, (error.strerror or str(error)).lower(), _code(error), ""
    except Exception as error:  # noqa: BLE001 - a question must not end the diagnosis
        return False, repr(error)[:_MAX_DETAIL], "", ""


def _code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "")
