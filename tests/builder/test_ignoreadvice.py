"""Advice on ignore files that are written as if they were git's (D05)."""

from __future__ import annotations

import subprocess
import sys

from builder.ignoreadvice import MAX_NAMES, advise
from frontend.ignore import parse_ignore


def make(root, *paths):
    """Make empty files."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def given(root, text):
    """Ask for advice on an ignore file's text."""
    return [(a.line, a.pattern, a.path) for a in advise(str(root), parse_ignore(text, "x"))]


def test_patterns_of_gits_kind_are_pointed_out(tmp_path):
    """A name without a slash is anchored here and is not in git: one nested path is shown for each."""
    make(tmp_path, "node_modules/a", "web/node_modules/b", "x.log", "deep/er/y.log", "deep/z.log")
    assert given(tmp_path, "# c\nnode_modules\n*.log\n") == [
        (2, "node_modules", "web/node_modules"),
        (3, "*.log", "deep/z.log"),
    ]


def test_what_docker_excludes_too_is_no_news(tmp_path):
    """Nothing nested of that name, a pattern for all, or a later one that catches it: silence."""
    make(tmp_path, "a.log", "d/b.log", "node_modules/x/node_modules/y")
    assert given(tmp_path, "**/*.log\nnode_modules\n") == []
    assert given(tmp_path, "*.log\nd\n") == []
    assert given(tmp_path, "*.log\n**/*.log\n") == []


def test_anchored_and_reincluding_patterns_are_left_alone(tmp_path):
    """A slash anchors in both; `!` is no exclusion."""
    make(tmp_path, "d/build", "e/build")
    assert given(tmp_path, "d/build\n!build\n") == []


def test_links_are_not_followed_and_the_walk_ends(tmp_path):
    """A loop of links is a name like any other; huge contexts are looked at in part."""
    make(tmp_path, "d/a")
    (tmp_path / "d" / "loop").symlink_to("..")
    assert given(tmp_path, "loop\n") == [(1, "loop", "d/loop")]
    assert MAX_NAMES < 100_000


def test_check_tells_without_failing(tmp_path):
    """`pybuild --check` says it on stderr; it is no warning, and the status stays 0."""
    make(tmp_path, "web/dist/x")
    (tmp_path / ".dockerignore").write_text("dist\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY web /web\n")
    done = subprocess.run(
        [sys.executable, "-m", "builder", "--check", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYBUILD_ROOT": str(tmp_path / "state"), "PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    assert done.returncode == 0
    assert "note: .dockerignore:1: `dist` excludes only what lies at the top" in done.stderr
    assert "write `**/dist` for all" in done.stderr
