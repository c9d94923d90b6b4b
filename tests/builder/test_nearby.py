"""What is said of a Dockerfile that is not there."""

from __future__ import annotations

import pytest

from builder.dockerfile_input import read_dockerfile
from builder.errors import UsageError


def _hint(context: str, name: str) -> str:
    with pytest.raises(UsageError) as raised:
        read_dockerfile(context, name, lambda _url, _limit: b"")
    return raised.value.hint or ""


@pytest.mark.parametrize(
    ("there", "context", "name", "hint"),
    [
        ("ctx/svc/Dockerfile", "ctx", "svc/Dockerfile", "current directory: -f ctx/svc/Dockerfile"),
        ("ctx/Dockerfile.dev", "ctx", "", "did you mean -f ctx/Dockerfile.dev?"),
        ("ctx/Containerfile", "ctx", "", "did you mean -f ctx/Containerfile?"),
        ("svc/Dockerfile", "ctx", "svc", "did you mean svc/Dockerfile?"),
        ("svc/api.Dockerfile", "ctx", "svc/ap.Dockerfile", "did you mean -f svc/api.Dockerfile?"),
        ("ctx/Dockerfile.dockerignore", "ctx", "", "name it with -f"),
        ("other", "nowhere", "", "name it with -f"),
    ],
)
def test_the_hint_names_a_file_that_is_there(tmp_path, monkeypatch, there, context, name, hint):
    """A path from the context instead of from here, another name, or the directory of one (B10)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ctx").mkdir()
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("FROM scratch\n")
    assert hint in _hint(context, name)
