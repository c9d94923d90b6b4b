"""ADD of git repositories and URLs as whole builds, as root and as an ordinary user."""

from __future__ import annotations

import os
import tarfile

import pytest
from support.git_server import Repo, git_server


@pytest.fixture
def server(tmp_path):
    """An empty git server."""
    with git_server(tmp_path / "served") as running:
        yield running


def _built(pybuild, dockerfile, name, *arguments, **options):
    context = pybuild.context(name, dockerfile)
    place = pybuild.home / f"{name}.tar"
    done = pybuild.good("-o", f"type=tar,dest={place}", *arguments, context, **options)
    with tarfile.open(place) as tar:
        found = {member.name.removeprefix("./"): member for member in tar}
        files = {
            name: tar.extractfile(member).read()
            for name, member in found.items()
            if member.isfile()
        }
    return done, found, files


def test_a_repository_becomes_a_directory(pybuild, server):
    """A09, T72: contents of a branch below the destination, with --chown, --chmod, --exclude."""
    repo = Repo(server, "r")
    repo.commit({"a": "1", "d/b": "2", "skipped": "3"})
    text = f"FROM scratch\nADD --chown=7:8 --chmod=0640 --exclude=skipped {repo.url}#main /src\n"
    _, found, files = _built(pybuild, text, "one")
    assert files == {"src/a": b"1", "src/d/b": b"2"}
    assert {(m.uid, m.gid, m.mode) for n, m in found.items() if n in files} == {(7, 8, 0o640)}


def test_the_cache_follows_the_branch(pybuild, server):
    """K22: unchanged is cached without a fetch; a moved branch is built again."""
    repo = Repo(server, "r")
    repo.commit({"a": "1"})
    context = pybuild.context("c", f"FROM scratch\nADD {repo.url} /src/\n")
    pybuild.good(context)
    server.wants.clear()
    again = pybuild.good(context)
    assert set(again.steps.values()) == {"CACHED"}
    assert server.wants == []
    repo.commit({"a": "2"})
    moved = pybuild.good(context)
    assert "DONE" in moved.steps.values()


def test_mistakes_show_the_line(pybuild, server):
    """CP07, A05, T73: the place, what is wrong, and what to do."""
    repo = Repo(server, "r")
    commit = repo.commit({"a": "1"})
    for text, words in (
        (f"COPY {repo.url} /", "source can't be a git ref for COPY"),
        (f"ADD {repo.url}?what=1 /", 'unexpected query "what"'),
        (f"ADD --keep-git-dir {repo.url}?keep-git-dir=0 /", "inconsistent keep-git-dir"),
        (f"ADD --checksum={commit[::-1]} {repo.url} /", "expected checksum to match"),
        (f"ADD --checksum={commit} {repo.url}?checksum=ab /", "checksum mismatch"),
        (f"ADD {repo.url}#none /", "does not contain ref none"),
    ):
        context = pybuild.context(f"c{abs(hash(text))}", f"FROM scratch\n{text}\n")
        done = pybuild.run(context)
        assert done.code != 0
        assert words in done.err
        assert "Dockerfile:2" in done.err


def test_secrets_of_git_stay_secret(pybuild, server):
    """A09: a token reaches the server, and no output of the build."""
    repo = Repo(server, "r")
    repo.commit({"a": "1"})
    server.needed = "Bearer canary-token"
    secret = ("--secret", f"id=GIT_AUTH_HEADER.{server.host},env=HEADER")
    text = f"FROM scratch\nADD {repo.url} /\n"
    refused = pybuild.run(pybuild.context("no", text))
    assert refused.code != 0
    assert "GIT_AUTH_TOKEN" in refused.err
    done, _, files = _built(pybuild, text, "yes", *secret, env={"HEADER": "Bearer canary-token"})
    assert files == {"a": b"1"}
    assert "canary" not in done.out + done.err
    for parent, _, names in os.walk(pybuild.state):
        for name in names:
            with open(os.path.join(parent, name), "rb") as file:
                assert b"canary" not in file.read()


def test_a_repository_is_a_stage_of_others(pybuild, server, busybox):
    """A09: a step works on what was cloned, .git included."""
    repo = Repo(server, "r")
    commit = repo.commit({"a": "1"})
    text = (
        f"FROM {busybox} AS source\nADD --keep-git-dir=true {repo.url} /src\n"
        "RUN cat /src/.git/HEAD > /head\nFROM scratch\nCOPY --from=source /head /\n"
    )
    _, _, files = _built(pybuild, text, "c")
    assert files == {"head": f"{commit}\n".encode()}
