"""Every Dockerfile under testdata/dockerfiles lowers to the graph, or the errors, kept beside it.

UPDATE_GOLDEN=1 writes the files anew; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.lowering import lowered, request_from, shown

from frontend.dockerfile.lower import LoweringError
from frontend.dockerfile.problems import LintError
from frontend.source import DockerfileError

CASES = Path(__file__).parents[2] / "testdata" / "dockerfiles"


def outcome(case: Path) -> tuple[str, str]:
    request = case / "request.json"
    fields = request_from(json.loads(request.read_text())) if request.exists() else {}
    try:
        return "graph.txt", shown(lowered((case / "Dockerfile").read_text(), **fields))
    except (DockerfileError, LoweringError) as error:
        return "error.txt", error.render() + "\n"
    except LintError as error:
        return "error.txt", f"{error.message}\n"


@pytest.mark.parametrize("case", sorted(CASES.iterdir()), ids=lambda case: case.name)
def test_golden_dockerfile_lowers_as_recorded(case: Path) -> None:
    """A Dockerfile gives exactly the recorded graph, config, history and warnings, or errors."""
    name, text = outcome(case)
    other = case / ("error.txt" if name == "graph.txt" else "graph.txt")
    if os.environ.get("UPDATE_GOLDEN") == "1":
        (case / name).write_text(text)
        other.unlink(missing_ok=True)
    assert not other.exists(), f"expected {other.name}, got:\n{text}"
    assert text == (case / name).read_text()


def test_goldens_are_many() -> None:
    """The folder is found and holds the cases, so that no empty walk passes."""
    assert len(list(CASES.iterdir())) >= 300
