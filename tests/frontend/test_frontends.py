"""The frontends that a Dockerfile may ask for."""

from __future__ import annotations

import pytest

from builder.cli import main
from frontend.dockerfile.frontends import is_builtin


@pytest.mark.parametrize(
    ("syntax", "builtin"),
    [
        ("docker/dockerfile:1", True),
        ("docker/dockerfile:1.7-labs some words", True),
        ("docker.io/docker/dockerfile:1@sha256:00", True),
        ("docker/dockerfile-upstream:master", True),
        ("mirror.example:5000/hub/docker/dockerfile:1.4", True),
        ("dockerfile.v0", True),
        (" ", True),
        ("evil/frontend", False),
        ("docker/other:dockerfile", False),
        ("dockerfile/other", False),
    ],
)
def test_images_of_the_built_in_language(syntax, builtin):
    """The image's repository decides, wherever it is mirrored (P14)."""
    assert is_builtin(syntax) is builtin


def test_another_language_is_refused_at_its_line(tmp_path, monkeypatch, capsys):
    """Nothing is fetched to read it, and it is not read as a Dockerfile (P14, D21)."""
    monkeypatch.setenv("PYBUILD_ROOT", str(tmp_path / "root"))
    (tmp_path / "Dockerfile").write_text("# escape=`\n# syntax=evil/frontend:1\nbuild: this\n")
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert 'Dockerfile:2: frontend "evil/frontend:1" is not built in, and none is fetched' in said
    assert "unknown instruction" not in said


def test_the_build_argument_goes_before_the_directive(tmp_path, monkeypatch, capsys):
    """BUILDKIT_SYNTAX with another frontend is refused, with the built-in one it is taken (P14)."""
    monkeypatch.setenv("PYBUILD_ROOT", str(tmp_path / "root"))
    (tmp_path / "Dockerfile").write_text("# syntax=docker/dockerfile:1\nFROM scratch\nENV a=b\n")
    assert main(["--build-arg", "BUILDKIT_SYNTAX=evil/frontend", str(tmp_path)]) == 2
    assert "BUILDKIT_SYNTAX=evil/frontend" in capsys.readouterr().err
    (tmp_path / "Dockerfile").write_text("# syntax=evil/frontend\nFROM scratch\nENV a=b\n")
    assert main(["--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1", str(tmp_path)]) == 0
