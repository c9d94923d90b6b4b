"""The compiled twins of Python modules: there for every test that compares the two."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]


@cache
def compile_twins() -> None:
    """Compile what is older than its source, as `make` does; fails where there is no compiler."""
    packages = ("builder", "frontend", "cache")
    sources = [source for name in packages for source in (_ROOT / name).rglob("*.c")]
    if not all(map(_is_fresh, sources)):
        subprocess.run((sys.executable, _ROOT / "hatch_build.py"), check=True)
    assert all(map(_is_fresh, sources)), "these tests need a C compiler"


def _is_fresh(source: Path) -> bool:
    library = source.with_suffix(".so")
    parts = (source, *source.parent.glob("*.h"))
    return library.exists() and all(
        library.stat().st_mtime >= part.stat().st_mtime for part in parts
    )
