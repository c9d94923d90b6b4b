"""The bundle of bytecode: used when it is right, left alone when it is not, never in the way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path):
    """A copy of our packages, compiled, with sources that are not of just now."""
    for name in ("builder", "frontend", "cache"):
        shutil.copytree(
            REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for path in tmp_path.rglob("*.py"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return tmp_path


def run(tree, *options, **environ):
    """`pybuild version` with the copy's code; standard output, and what was imported."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, *options, "-v", "-m", "builder", "version"],
        cwd=tree,
        env={**clean, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr


def bundles(tree):
    """The bundles that were written."""
    return list((tree / "builder" / "__pycache__").glob("bundle.*"))


def test_the_second_run_takes_modules_from_the_bundle(tree):
    """What the first run has compiled the next one finds in one file."""
    run(tree)  # compiles
    run(tree)
    assert len(bundles(tree)) == 1
    output, log = run(tree)
    assert output.startswith("pybuild ")
    assert "/__pycache__/errors." not in log


def test_a_changed_module_is_not_taken(tree):
    """An edited source is compiled again, and what it says now counts."""
    run(tree)
    run(tree)
    cli = tree / "builder" / "cli.py"
    cli.write_text(
        re.sub(r'^VERSION = ".*"', 'VERSION = "changed"', cli.read_text(), flags=re.MULTILINE)
    )
    os.utime(cli, (1_700_000_000, 1_700_000_000))  # another size is enough
    assert run(tree)[0] == "pybuild changed\n"
    assert run(tree)[0] == "pybuild changed\n"


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 100, b"junk" * 1000])
def test_a_damaged_bundle_is_replaced(tree, data):
    """A bundle that makes no sense is none."""
    run(tree)
    run(tree)
    (bundle,) = bundles(tree)
    whole = bundle.read_bytes()
    bundle.write_bytes(data)
    assert run(tree)[0].startswith("pybuild ")
    assert bundle.read_bytes() == whole


def test_a_tree_that_was_moved_is_read_where_it_is(tree):
    """Paths of the place a bundle was written in mean nothing elsewhere."""
    run(tree)
    run(tree)
    moved = tree.parent / "moved"
    shutil.copytree(tree, moved)
    cli = moved / "builder" / "cli.py"
    cli.write_text(cli.read_text().replace('VERSION = "', 'VERSION = "moved'))
    assert run(moved)[0].startswith("pybuild moved")


def test_nothing_is_written_where_python_writes_nothing(tree):
    """PYTHONDONTWRITEBYTECODE and -O are respected."""
    run(tree)
    run(tree, PYTHONDONTWRITEBYTECODE="1")
    before = bundles(tree)
    for path in before:
        path.unlink()
    run(tree, PYTHONDONTWRITEBYTECODE="1")
    run(tree, "-O")
    assert bundles(tree) == []


def test_modules_of_python_come_from_the_bundle_too(tree):
    """Opening them one by one took longer than loading them."""
    code = "from builder import start; start.sys.argv[1:] = ['images']; start.main()"
    command = [sys.executable, "-S", "-v", "-c", code]
    environ = {"PYBUILD_ROOT": str(tree / "state")}
    logs = [
        subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert "import 'contextlib' # <builder.start.Bundle" in logs[-1].stderr
    assert "/__pycache__/contextlib." not in logs[-1].stderr


def test_a_bundle_is_for_one_interpreter(tree):
    """Another one of the same version has another library."""
    run(tree)
    run(tree)
    (bundle,) = bundles(tree)
    assert bundle.name.endswith(os.path.dirname(os.__file__).replace("/", "-")[-100:])


def late(tree, *lines):
    """Standard output of Python code where the directories of packages are not looked at yet."""
    first = "import sys; from builder.start import LateSite; sys.meta_path.append(LateSite())"
    return subprocess.run(
        [sys.executable, "-S", "-c", "\n".join((first, *lines))],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split()


def test_packages_are_found_when_one_is_wanted(tree):
    """An interpreter started with -S does without `site` until then."""
    before = "print(any('-packages' in entry for entry in sys.path))"
    assert late(tree, before, "import pathspec, zstandard", before) == ["False", "True"]


def test_what_is_nowhere_is_still_nowhere(tree):
    """Looking again changes nothing for a module that does not exist, in a package or outside."""
    tries = ["builder.no_such_module", "no_such_module", "no_such_module"]
    code = [f"try: import {name}\nexcept ModuleNotFoundError as e: print(e.name)" for name in tries]
    assert late(tree, *code) == tries


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("builder/cli.py", "No module named 'builder.cli'"),
        ("builder/commands/images.py", "No module named 'builder.commands.images'"),
        ("cache/errors.py", "'(' was never closed"),
        ("builder/commands/images.py", "'(' was never closed"),
    ],
)
def test_a_part_that_is_missing_or_cut_short_is_named(tree, module, said):
    """An installation that is not whole is an error with a next step, not a traceback."""
    if "closed" in said:
        with (tree / module).open("a") as file:
            file.write("x = (\n")
    else:
        (tree / module).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "builder", "images"],
        cwd=tree,
        env={**os.environ, "PYBUILD_ROOT": str(tree / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    first, hint = done.stderr.splitlines()
    assert first.startswith("pybuild: error: the installation is not whole: ")
    assert said in first
    assert hint == "hint: install pybuild again, readable for whoever runs it"
