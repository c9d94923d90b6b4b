"""Start-up: what a build that finds everything in its cache does not load."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = {
    "asyncio",
    "datetime",
    "email",
    "http",
    "isal",
    "pyroute2",
    "rich",
    "ssl",
    "typing",  # cache.hints stands in for it
    "zstandard",
}
BUSYBOX = "/bin/busybox"

pytestmark = pytest.mark.skipif(not Path(BUSYBOX).exists(), reason="needs a static busybox")


def build(tmp_path, *options):
    """Build the context below `tmp_path` in a process that reports its imports."""
    environ = {**os.environ, "PYBUILD_ROOT": str(tmp_path / "state"), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *options, "-m", "builder", "-t", "start", str(tmp_path / "context")]
    return subprocess.run(
        command,
        env=environ,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stderr


def imported(report):
    """The top-level names of the modules in an import report."""
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\w+)", report, re.MULTILINE))


@pytest.fixture
def context(tmp_path):
    """A context with files, a RUN and the usual metadata."""
    where = tmp_path / "context"
    (where / "src").mkdir(parents=True)
    for n in range(20):
        (where / "src" / f"f{n}").write_text(f"{n}\n")
    shutil.copy(BUSYBOX, where / "busybox")
    (where / ".dockerignore").write_text("*.log\n")
    (where / "Dockerfile").write_text(
        "FROM scratch\nENV A=1\nLABEL b=2\nCOPY busybox /bin/sh\nCOPY src /src\nWORKDIR /src\n"
        'RUN ["/bin/sh", "-c", "echo done > /done"]\nUSER 1000\nCMD ["/bin/sh"]\n'
    )
    return where


def test_a_cached_build_loads_nothing_heavy(tmp_path, context):
    """A rebuild from the cache loads no network, no progress display and no compressor."""
    del context
    build(tmp_path)
    report = build(tmp_path, "-X", "importtime")
    assert "0 steps run" in report
    loaded = imported(report)
    assert {"builder", "frontend", "cache"} <= loaded
    assert loaded & HEAVY == set()
