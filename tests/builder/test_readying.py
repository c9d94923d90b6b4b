"""What is loaded while steps run: modules that there are, and more for more to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

COPY = "CopyOp((), '/')"


@pytest.mark.parametrize(
    ("ops", "compressed", "loaded", "left"),
    [
        ("", False, "cache.archive.index", "cache.archive.tree"),
        (COPY, False, "builder.solver.copy_op", "cache.compress"),
        ("", True, "builder.export.layout", "builder.solver.copy_op"),
    ],
)
def test_what_is_left_to_do_is_loaded(ops, compressed, loaded, left):
    """Nothing is loaded for what no step will do (W5)."""
    code = (
        "import sys; from builder.solver.readying import ready; from frontend.graph import CopyOp;"
        f"ready([{ops}], compressed={compressed});"
        f"sys.exit(0 if {loaded!r} in sys.modules and {left!r} not in sys.modules else 1)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
