"""The shape of the tree: sizes, names, and what may not stand in tracked files.

Who may import whom is import-linter's part (pyproject.toml); this is what it cannot say.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("builder", "frontend", "cache")
MAX_FUNCTION = 40  # lines: a function is seen at once
MAX_MODULE = 400  # lines: a module is one noun
MAX_METHODS = 5  # of a Protocol: every fake has to have them all
SHORT = 2  # parts of a checkout's path, such as /src, that may well be an image's, too
VAGUE = frozenset({"utils", "util", "helpers", "common", "base", "misc"})

# Protocols that are wider, and why.
WIDE = {
    "SourceTree": "one question each about a tree that may be a directory, an index or an image; "
    "COPY asks all of them and both trees answer all of them",
    "Snapshotter": "prepare, diff and commit are one life cycle, base and lowers name its result",
}

# A Python module that only one module may import, as import-linter cannot name what nothing imports.
LONE_IMPORTERS = {"pyroute2": "builder.sandbox.network_link", "pathspec": "builder.ignoreadvice"}

# Homes of people and hosts of package indexes; names of examples are fine.
FOREIGN = re.compile(
    rb"(?<![\w.=/-])/home/(?!(?:ann|alice|bob|user|me)\b)[a-z]+/"
    rb"|pypi\.org|pythonhosted|proxy\.golang\.org|crates\.io|npmjs\.(?:org|com)"
)


def sources(*packages: str) -> list[Path]:
    """Every Python file of some packages."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def tree(path: Path) -> ast.Module:
    """A file's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(path: Path) -> list[ast.FunctionDef]:
    """Every function of a file, however deep."""
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]


def tracked() -> list[Path]:
    """Files that git keeps; skips where this is no checkout."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    names = listing.stdout.decode().split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def test_functions_fit_on_a_screen():
    """No function of the packages is longer than forty lines."""
    long = [
        f"{module_name(path)}.{node.name}: {lines} lines"
        for path in sources(*PACKAGES)
        for node in functions(path)
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION
    ]
    assert long == []


def test_modules_stay_one_noun():
    """No module of the packages is longer than four hundred lines."""
    long = [
        f"{module_name(path)}: {lines} lines"
        for path in sources(*PACKAGES)
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_MODULE
    ]
    assert long == []


def test_protocols_are_narrow():
    """A Protocol has at most five methods; the wider ones are listed with their reason."""
    wide = {
        node.name
        for path in sources(*PACKAGES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(parent, ast.Name) and parent.id == "Protocol" for parent in node.bases)
        and sum(isinstance(item, ast.FunctionDef) for item in node.body) > MAX_METHODS
    }
    assert wide == set(WIDE)


def test_modules_are_named_for_what_they_hold():
    """No module has a name that fits anything."""
    assert [str(path) for path in sources(*PACKAGES, "tests") if path.stem in VAGUE] == []


def test_modules_say_what_they_own():
    """Every module of the packages begins with a docstring."""
    bare = [module_name(path) for path in sources(*PACKAGES) if not ast.get_docstring(tree(path))]
    assert bare == []


def test_tests_say_what_they_show():
    """Every test has a docstring: the behaviour in a sentence."""
    bare = [
        f"{module_name(path)}.{node.name}"
        for path in sources("tests")
        for node in functions(path)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert bare == []


def test_lone_libraries_have_one_importer():
    """A library named for one module is imported there or nowhere."""
    for path in sources(*PACKAGES):
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                allowed = LONE_IMPORTERS.get(name.partition(".")[0], module_name(path))
                assert allowed == module_name(path), f"{module_name(path)} imports {name}"


def test_files_name_no_machine():
    """No tracked file holds a path of the machine it was written on, or a package host."""
    here = str(ROOT).encode() if len(ROOT.parts) > SHORT else b"\0"
    found = [
        f"{path.relative_to(ROOT)}: {match[0].decode()}"
        for path in tracked()
        if path != Path(__file__)
        for match in re.finditer(FOREIGN.pattern + b"|" + re.escape(here), path.read_bytes())
        if match[0] != b"\0"
    ]
    assert found == []
