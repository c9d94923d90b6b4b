"""The table of docs/language.md and the tests it names."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROWS = re.findall(
    r"^\| ([A-Z]{1,2}\d+) \| ([a-z ]+) \| (.*) \|$",
    (TESTS.parent / "docs" / "language.md").read_text(),
    re.MULTILINE,
)


def _known():
    cases = {path.name for path in (TESTS.parent / "testdata" / "differential").iterdir()}
    sources = (path.read_text() for path in TESTS.glob("**/test_*.py"))
    return cases.union(*(re.findall(r"^def (test_\w+)", text, re.MULTILINE) for text in sources))


def test_every_item_that_works_is_shown_by_a_test():
    """Each row says yes and names tests there are, or says why not."""
    known = _known()
    missing = []
    for item, state, shown in ROWS:
        assert state in {"yes", "differs", "out of scope"}, item
        named = set(re.findall(r"`([a-z0-9_-]+)`", shown))
        assert named or state != "yes", item
        missing += [(item, name) for name in named if state == "yes" and name not in known]
    assert missing == []


def test_every_item_stands_once():
    """No item is listed twice; all of what BuildKit's own tests assert is there (T01-T115)."""
    items = [item for item, _, _ in ROWS]
    assert len(items) == len(set(items))
    assert {"T01", "T43", "T76", "T103", "T115"} <= set(items)
