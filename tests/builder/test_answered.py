"""The library that answers calls: compiled without a warning, bound as it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from support.twins import compile_twins

from builder.sandbox.engine import answered

ENGINE = Path(answered.__file__).parent
STRICT = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wshadow")


def test_compiles_without_a_warning(tmp_path):
    """Whatever a compiler finds is an error here."""
    compiler = shutil.which("gcc")
    assert compiler, "gcc is missing"
    source = ENGINE / "answers.c"
    done = subprocess.run(
        [compiler, *STRICT, "-o", tmp_path / "answers.so", source],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_numbers_of_kinds_are_those_of_the_source():
    """Kinds and facts are the same, in the same order, on both sides."""
    source = (ENGINE / "answers_step.h").read_text()
    (kinds,) = re.findall(r"enum kind \{(.*?)\}", source, re.DOTALL)
    names = re.findall(r"^\s*([A-Z_]+)", kinds, re.MULTILINE)
    assert names == ["TO_PYTHON", *(kind.name for kind in answered.Kind)]
    (facts,) = re.findall(r"struct facts \{(.*?)\n\}", source, re.DOTALL)
    assert re.findall(r"uint32_t (\w+);", facts) == list(answered.Facts._fields)


def test_the_library_is_of_this_source():
    """A revision that both sides have."""
    compile_twins()
    assert answered.load() is not None
