"""The text of a step in reports."""

from __future__ import annotations

import pytest

from frontend.dockerfile.stepnames import step_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run echo $a ${a} $no", "RUN echo 1 1 $no"),
        (r"RUN echo a\ b \$a '\$a' \\", r"RUN echo a b $a '\$a' \ ".rstrip()),
        (r'RUN echo "\$a \x $a"', r'RUN echo "$a \x 1"'),
        ('RUN echo "it\'s $a"', 'RUN echo "it\'s 1"'),
        ("RUN echo it's $a", "RUN echo it's $a"),
        ("RUN echo \"$a '$s'", "RUN echo \"$a '$s'"),
        ("RUN echo $s", "RUN echo ****"),
        ("copy 'x y' $a", "COPY x y 1"),
        ("COPY ${a", "COPY ${a"),
        ("ONBUILD run echo $a", "ONBUILD RUN echo 1"),
    ],
)
def test_a_step_is_shown_expanded(text, shown):
    """Variables and escapes are resolved, quotes of RUN stay, secrets are masked (O15, T13)."""
    assert step_text(text, {"a": "1", "s": "secret"}, "\\", {"s"}) == shown


def test_the_escape_of_the_file_counts():
    """A backslash is text where the escape is another one (P13, O15)."""
    assert step_text("RUN echo \\a `$b", {}, "`") == "RUN echo \\a $b"


def test_long_names_are_cut():
    """A name has a length whatever the instruction is (O15)."""
    assert len(step_text("RUN " + "x" * 10**6, {}, "\\")) == 4096
