"""A short run of the fuzzer of Dockerfiles, and that reading them takes linear time."""

from __future__ import annotations

import time

import pytest
from support.fuzz_dockerfiles import attempt, fuzz
from support.lowering import lowered


def test_a_short_fuzz_finds_nothing() -> None:
    """G02, P05: mutated Dockerfiles, words and ignore files end in a result or a diagnostic."""
    done, failures = fuzz(seed=20, count=3000, seconds=20)
    assert done > 50
    assert failures == []


def _cost(text: str) -> float:
    begin = time.process_time()
    attempt("lower", text)
    return time.process_time() - begin


@pytest.mark.parametrize(
    "piece",
    [
        "RUN a \\\n",
        "ENV a=$a b c\n",
        'LABEL a="${a:-',
        "COPY <<E /x\nE\n",
        "RUN <<E\n",
        "ONBUILD COPY <<E /f\nx\nE\n",
        "FROM busybox AS x\nCOPY --from=x a b\n",
        "EXPOSE 1 2 $a\n",
        "# c\n",
        "\\\n\n",
        'CMD ["',
        "RUN --mount=type=tmpfs,target=/x y\n",
    ],
)
def test_reading_takes_linear_time(piece: str) -> None:
    """G02: four times the text takes about four times as long, however it is made."""
    few, many = ("FROM busybox\n" + piece * n for n in (300, 1200))
    _cost(few)
    assert any(_cost(many) < 10 * _cost(few) + 0.05 for _ in range(6))


def test_a_large_dockerfile_compiles_quickly() -> None:
    """G03: four thousand lines are parsed and lowered in a moment (300 ms on a quiet machine)."""
    part = "RUN echo hello $name \\\n  && foo\n# c\nCOPY a b /c/\nENV a=b c='d'\n"
    text = "FROM busybox\nARG name=x\n" + part * 800
    lowered(text)
    took = []
    for _ in range(5):
        begin = time.process_time()
        lowered(text)
        took.append(time.process_time() - begin)
    assert min(took) < 2
