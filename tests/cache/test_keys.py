"""Cache keys: framing, injectivity, explanations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.errors import CorruptRecordError
from cache.keys import CacheKey, Difference, difference

_TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
_PARTS = st.lists(st.tuples(_TEXT, _TEXT), max_size=5)


@given(_PARTS, _PARTS)
def test_key_digest_is_injective(left: list[tuple[str, str]], right: list[tuple[str, str]]) -> None:
    """Two keys have one digest only when their part lists are equal (J05, J09)."""
    assert (left == right) == (CacheKey.of(*left).digest == CacheKey.of(*right).digest)


@given(_PARTS)
def test_key_json_round_trips(parts: list[tuple[str, str]]) -> None:
    """A stored key reads back as itself."""
    key = CacheKey.of(*parts)
    assert CacheKey.from_json(key.to_json()) == key


def test_difference_names_first_changed_part() -> None:
    """An explanation names the first input that differs, with both values."""
    old = CacheKey.of(("op", "exec"), ("command", "a"), ("user", "x"))
    new = CacheKey.of(("op", "exec"), ("command", "b"), ("user", "y"))
    assert difference(old, new) == Difference("command", "a", "b")


def test_difference_sees_parts_that_went() -> None:
    """A part that only the old key has is a difference too."""
    old = CacheKey.of(("op", "exec"), ("env A", "1"))
    assert difference(old, CacheKey.of(("op", "exec"))) == Difference("env A", "1", "")
    assert difference(old, old) is None


@pytest.mark.parametrize("text", ["", "{}x", "[[1]]", "[1]", "null"])
def test_damaged_key_is_a_corrupt_record(text: str) -> None:
    """A malformed row is an error of its own kind, never a traceback."""
    with pytest.raises(CorruptRecordError):
        CacheKey.from_json(text)
