"""Libraries compiled beside their Python twins: found when they fit, done without otherwise."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cache import native

_SOURCE = """
#define EXPORT __attribute__((visibility("default")))
EXPORT int revision(void) { return 7; }
EXPORT int twice(int number) { return 2 * number; }
"""


def _compile(package, **environment):
    """Run the hook in a tree as `make` does; what it printed on both outputs."""
    shutil.copy(Path(__file__).parents[2] / "hatch_build.py", package)
    command = [sys.executable, package / "hatch_build.py"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    )
    return done.stdout.split(), done.stderr


@pytest.fixture
def package(tmp_path):
    """A tree with one source in a package."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "twin.c").write_text(_SOURCE)
    return tmp_path


def test_compiled_and_found(package, monkeypatch):
    """What was compiled is used beside its module when its revision fits, and can be turned off."""
    monkeypatch.delenv("PYBUILD_NATIVE", raising=False)
    beside = str(package / "cache" / "twin.py")
    assert native.library(beside, "twin", 7) is None
    assert _compile(package)[0] == [str(package / "cache" / "twin.so")]
    found = native.library(beside, "twin", 7)
    assert found is not None
    assert found.twice(21) == 42
    assert native.library(beside, "twin", 8) is None
    monkeypatch.setenv("PYBUILD_NATIVE", "0")
    assert native.library(beside, "twin", 7) is None


def test_without_compiler(package):
    """Without a compiler nothing is made, and nothing fails."""
    assert _compile(package, CC="", PATH="/nonexistent") == ([], "")


def test_broken_source(package):
    """A source that does not compile leaves no library behind, an older one included."""
    _compile(package)
    (package / "cache" / "twin.c").write_text("int revision(void) { return }")
    made, said = _compile(package)
    assert made == []
    assert "twin.c is not compiled" in said
    assert not (package / "cache" / "twin.so").exists()


def test_no_library(tmp_path, monkeypatch):
    """A file that is no library is as good as none."""
    monkeypatch.delenv("PYBUILD_NATIVE", raising=False)
    (tmp_path / "twin.so").write_bytes(b"not an object")
    assert native.library(str(tmp_path / "twin.py"), "twin", 1) is None
