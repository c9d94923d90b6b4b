"""The parts of the linter on their own: rules, options, guesses, limits."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.lowering import lowered

from frontend.dockerfile.ignored import IgnoreFile
from frontend.dockerfile.lintconfig import LintConfig, parse_check
from frontend.dockerfile.problems import MAX_WARNINGS, LintError, MistakeError, closest
from frontend.dockerfile.rules import NAMES, rule
from frontend.ignore import parse_ignore


def test_every_rule_is_described():
    """There are the 22 rules of section 8, each with a sentence, all but one with a page."""
    assert len(NAMES) == 22
    pages = {rule(name).url.rsplit("/", 2)[-2] for name in NAMES if rule(name).url}
    assert len(pages) == 21
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)+", page) for page in pages)
    assert {"json-args-recommended", "from-as-casing", "undefined-arg-in-from"} <= pages


@pytest.mark.parametrize(
    ("text", "heard", "silent"),
    [
        ("", "UndefinedVar", "InvalidDefinitionDescription"),
        ("skip=UndefinedVar", "FromAsCasing", "UndefinedVar"),
        ("skip=all", "", "UndefinedVar"),
        ("skip= A , FromAsCasing ;error=true", "UndefinedVar", "FromAsCasing"),
        ("experimental=all", "InvalidDefinitionDescription", ""),
        ("experimental=InvalidDefinitionDescription;skip=all", "InvalidDefinitionDescription", ""),
        ("skip=undefinedvar", "UndefinedVar", ""),
    ],
)
def test_options_choose_rules(text, heard, silent):
    """Rules are on unless skipped, experimental ones when asked for; case counts (P15)."""
    options = parse_check(text)
    assert not heard or options.hears(heard)
    assert not silent or not options.hears(silent)


@pytest.mark.parametrize("text", ["x", "skip", "a=b", "error=perhaps", "skip=a;;", "error="])
def test_wrong_options_are_refused(text):
    """An unknown key, none, or a boolean that is none (P15)."""
    with pytest.raises(MistakeError, match="check option"):
        parse_check(text)


@given(st.text(max_size=30))
def test_any_options_are_read_or_refused(text):
    """No text breaks the reader of options or of comments (P15, P27)."""
    with contextlib.suppress(MistakeError):
        parse_check(text)
    LintConfig("", {3: (f"check={text}", text)}).hears("UndefinedVar", 3)


def _edits(one, other):
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


@given(st.text("abc", max_size=8), st.lists(st.text("abc", max_size=8), max_size=6))
def test_a_guess_is_the_first_of_the_nearest(name, known):
    """At most two letters away, nothing if the name itself is known (P05)."""
    near = [word for word in known if _edits(name, word) <= 2]
    expected = min(near, key=lambda word: _edits(name, word)) if near else ""
    if name in known:
        assert closest(name, known) == ""
    else:
        assert closest(name, known) == expected


def test_warnings_and_guesses_are_limited():
    """A file of mistakes gives so many warnings and takes little time (G01, V12)."""
    names = "".join(f"ENV {'A' * 60}{number}=1\n" for number in range(200))
    uses = "".join(f"LABEL x=${'A' * 58}zz{number}\n" for number in range(MAX_WARNINGS + 50))
    assert len(lowered(f"FROM scratch\n{names}{uses}").warnings) == MAX_WARNINGS


@pytest.mark.parametrize(
    ("patterns", "ignored", "kept"),
    [
        ("*.log\ndir\n", ["a.log", "*.log", "dir/x"], [".", "/", "/a.log", "b"]),
        ("*\n", [".", "/", "x", "/x"], []),
        ("**/a\n", ["a", "x/a", "/a", "/x/a/y"], [".", "b"]),
        ("*\n!x\n", [], [".", "x", "y"]),
        ("", [], [".", "x"]),
    ],
)
def test_ignored_paths(patterns, ignored, kept):
    """Paths and what is above them; nothing is sure with exceptions (CopyIgnoredFile)."""
    file = IgnoreFile(lambda: parse_ignore(patterns, ".dockerignore"))
    assert [path for path in ignored if not file.ignores(path)] == []
    assert [path for path in kept if file.ignores(path)] == []


def test_strict_files_fail_with_their_rules():
    """error=true names each rule once (P15)."""
    with pytest.raises(LintError) as caught:
        lowered("# check=error=true\nFROM scratch AS A\nCMD a\nCMD b\n")
    assert caught.value.message == (
        "lint violation found for rules: JSONArgsRecommended, MultipleInstructionsDisallowed,"
        " StageNameCasing"
    )
