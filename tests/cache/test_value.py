"""Frozen values: constructors that are compiled late say and do what compiled ones do."""

from __future__ import annotations

import pytest

from cache.value import _MANY, field, value


def made():
    """A fresh class, whose constructor is not compiled yet."""

    @value
    class Point:
        x: int
        y: int = 2
        names: list = field(default_factory=list)

        def __post_init__(self):
            if self.x == 13:
                raise ValueError("unlucky")

    return Point


@pytest.mark.parametrize("times", [1, _MANY + 2])
def test_both_constructors_give_the_same(times):
    """Positions, names, defaults and factories mean the same before and after compiling."""
    point = made()
    for _ in range(times):
        first, second, third = point(1), point(y=5, x=4), point(7, 8, ["a"])
    assert (first.x, first.y, first.names) == (1, 2, [])
    assert (second.x, second.y) == (4, 5)
    assert (third.x, third.y, third.names) == (7, 8, ["a"])
    assert first == point(1, 2)
    assert point(1).names is not first.names


@pytest.mark.parametrize("times", [0, _MANY + 2])
@pytest.mark.parametrize(
    ("arguments", "named", "words"),
    [
        ((), {}, "missing 1 required positional argument: 'x'"),
        ((1, 2, [], 4), {}, "positional arguments but 5 were given"),
        ((1,), {"x": 2}, "multiple values for argument 'x'"),
        ((1,), {"z": 2}, "unexpected keyword argument 'z'"),
    ],
)
def test_wrong_arguments_are_refused_in_python_s_words(times, arguments, named, words):
    """What does not fit the fields is a TypeError that names the class and the field."""
    point = made()
    for _ in range(times):
        point(1)
    with pytest.raises(TypeError, match=words):
        point(*arguments, **named)


@pytest.mark.parametrize("times", [0, _MANY + 2])
def test_checks_run_in_both(times):
    """A value that its class refuses is refused by either constructor."""
    point = made()
    for _ in range(times):
        point(1)
    with pytest.raises(ValueError, match="unlucky"):
        point(13)
