"""The files of testdata/lint against what the reference says of them (support/record_lint.py).

A file with a mistake is looked at as a whole here, while the reference stops at the first one: of
such a file its warnings are among ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import linting

from builder.callresult import outline_text, targets_text
from frontend.dockerfile.outline import Outline

if TYPE_CHECKING:
    from frontend.dockerfile.check import Checked

CASES = sorted((Path(__file__).parents[2] / "testdata" / "lint").iterdir())

# Blank lines that end a file belong to the instruction there only for the reference.
ELSEWHERE = {"empty-continuation-last-line"}


def expected(case):
    return json.loads((case / "expected.json").read_text())


def found(checked: Checked):
    """Warnings as they are recorded."""
    return [[w.rule, w.message, w.span.start, w.span.end] for w in checked.warnings]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_warnings_are_those_of_the_reference(case):
    """Rule, detail and lines of every warning, in order of lines (section 8, T14, P06, V12)."""
    ours, theirs = linting.checked(case), expected(case)["warnings"]
    if case.name in ELSEWHERE:
        assert [w[:2] for w in found(ours)] == [w[:2] for w in theirs]
    elif ours.errors:
        assert [warning for warning in theirs if warning not in found(ours)] == []
    else:
        assert sorted(found(ours)) == sorted(theirs)
        assert [w[2] for w in found(ours)] == sorted(w[2] for w in theirs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_errors_are_found_where_the_reference_finds_one(case):
    """A file that the reference refuses is refused, and says so with a line (P05)."""
    error = expected(case).get("error")
    if error is None:
        assert isinstance(linting.outlined(case), Outline)
        return
    checked = linting.checked(case)
    assert checked.errors
    if "on line" in error[0]:
        assert checked.parse_error
        line = int(error[0].partition("on line ")[2].partition(":")[0])
        assert checked.errors[0].span.start == line


def test_cases_are_many():
    """The folder is found and holds the cases, so that no empty walk passes."""
    assert len(CASES) >= 90


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_tables_are_those_of_the_reference(case):
    """The texts of outline and targets, cell for cell; what is of one line has no order (O77)."""
    recorded = expected(case)
    outlined, targets = linting.outlined(case), linting.targets(case)
    if recorded["outline"] is not None:
        assert sorted(outline_text(outlined).split("\n")) == sorted(recorded["outline"].split("\n"))
    if recorded.get("targets") is not None:
        assert targets_text(targets) == recorded["targets"]
