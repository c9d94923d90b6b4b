"""Git repositories from a real server on loopback to entries (A07-A10, K22, T72)."""

from __future__ import annotations

import base64
import os
import threading
import time
from types import SimpleNamespace

import pytest
from support.git_server import Repo, git_server, redirecting
from support.memory_layers import MemoryLayers

from builder.errors import HostUnsupportedError
from builder.git.program import Agent, GitError, GitFailedError, GitProgram
from builder.git.source import GitSource
from builder.git.sweep import sweep
from builder.solver.git_op import GitHandler
from cache.archive.entry import Kind
from frontend.dockerfile.giturl import parse_git
from frontend.graph import GitOp

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
MTIME = 5_000_000_000
COMMIT_TIME = 1_600_000_000_000_000_000


@pytest.fixture
def server(tmp_path):
    """An empty server."""
    with git_server(tmp_path / "served") as running:
        yield running


@pytest.fixture
def work(tmp_path):
    """What a build has: a state directory, secrets to fill, sources over them."""
    secrets = {}

    def source():
        return GitSource(str(tmp_path / "state"), ENVIRON, secrets)

    def read(op, using=None):
        layers = MemoryLayers()
        with layers.writer() as writer:
            (using or source()).write(op, writer, MTIME)
            layer = writer.commit()
        with layers.open_tar(layer) as stream:
            data = stream.read()
        return {
            entry.path: (
                entry,
                data[entry.offset : entry.offset + entry.size] if entry.size else b"",
            )
            for entry in layers.index(layer)
        }

    (tmp_path / "state").mkdir()
    return SimpleNamespace(source=source, read=read, secrets=secrets, state=tmp_path / "state")


def _names(tree):
    return sorted(tree)


def test_files_modes_links_and_times(server, work):
    """A09: root's files of 0644 and 0755, links as they are, times of the checkout; no .git."""
    repo = Repo(server, "r")
    repo.commit({"a": "text", "d/x.sh": "#!"})
    (repo.path / "d/x.sh").chmod(0o755)
    (repo.path / "link").symlink_to("/etc/passwd")
    (repo.path / "up").symlink_to("../../..")
    repo.commit({"big": b"\0" * 3_000_000})
    tree = work.read(GitOp(repo.url))
    assert _names(tree) == ["", "a", "big", "d", "d/x.sh", "link", "up"]
    assert tree["a"][1] == b"text"
    assert tree["big"][1] == b"\0" * 3_000_000
    assert [tree[name][0].mode for name in ("a", "d", "d/x.sh")] == [0o644, 0o755, 0o755]
    assert tree["link"][0].linkname == "/etc/passwd"
    assert tree["up"][0].linkname == "../../.."
    assert {(e.uid, e.gid, e.mtime) for e, _ in tree.values()} == {(0, 0, MTIME)}


def test_references(server, work):
    """A08, T72: branches before tags, both peeled, pull references, whole commits; nothing else."""
    repo = Repo(server, "r")
    first = repo.commit({"f": "1"})
    repo.git("tag", "light")
    repo.git("tag", "-a", "heavy", "-m", "x")
    repo.git("tag", "both")
    repo.git("update-ref", "refs/pull/7/head", first)
    repo.commit({"f": "2"})
    repo.git("branch", "feature/x")
    repo.git("branch", "both")
    expected = {
        "": b"2", "main": b"2", "refs/heads/main": b"2", "feature/x": b"2", "both": b"2",
        "light": b"1", "heavy": b"1", "refs/tags/heavy": b"1", "refs/tags/both": b"1",
        "pull/7/head": b"1", "refs/pull/7/head": b"1", first: b"1",
        repo.git("rev-parse", "heavy"): b"1",
    }  # fmt: skip
    source = work.source()
    assert {ref: work.read(GitOp(repo.url, ref), source)["f"][1] for ref in expected} == expected
    for ref in ("nope", "HEAD", first[:7], "refs/heads", "ma*", "heavy^{}"):
        with pytest.raises(GitError, match="does not contain ref"):
            source.resolve(GitOp(repo.url, ref))


def test_a_remote_without_branch_has_no_default(server, work):
    """A08: a detached or empty remote needs a reference."""
    repo = Repo(server, "r")
    with pytest.raises(GitError, match="could not find default branch"):
        work.read(GitOp(repo.url))


def test_tag_and_commit_have_one_key(server, work):
    """K22: what is identified is the commit, however it is named; options count."""
    repo = Repo(server, "r")
    commit = repo.commit({"f": "1"})
    repo.git("tag", "-a", "heavy", "-m", "x")
    handler = GitHandler(work.source, MemoryLayers(), lambda: MTIME)

    def key(**fields):
        return handler.key(GitOp(repo.url, **fields), ()).digest

    assert key() == key(ref="main") == key(ref="heavy") == key(ref=commit)
    others = [
        key(subdir="d"), key(submodules=False), key(mtime="commit"), key(keep_git_dir=True),
        key(keep_git_dir=True, ref="heavy"), key(),
    ]  # fmt: skip
    assert len(set(others)) == len(others)


def test_resolved_every_build_fetched_once(server, work):
    """K22, A10: a branch that did not move is asked for and not fetched; one that moved is."""
    repo = Repo(server, "r")
    commit = repo.commit({"f": "1"})
    work.read(GitOp(repo.url))
    assert server.wants
    server.requests.clear()
    server.wants.clear()
    assert work.read(GitOp(repo.url))["f"][1] == b"1"
    assert server.requests
    assert server.wants == []
    server.requests.clear()
    work.read(GitOp(repo.url, commit))
    assert server.requests == []
    repo.commit({"f": "2"})
    assert work.read(GitOp(repo.url))["f"][1] == b"2"
    assert server.wants


def test_a_reference_is_asked_for_once_a_build(server, work):
    """A10: within a build a reference keeps its commit, even if the branch moves."""
    repo = Repo(server, "r")
    first = repo.commit({"f": "1"})
    source = work.source()
    assert source.resolve(GitOp(repo.url)).commit == first
    repo.commit({"f": "2"})
    assert work.read(GitOp(repo.url), source)["f"][1] == b"1"


def test_checksums(server, work):
    """A05: the beginning of the commit or of the tag's object; anything else is an error."""
    repo = Repo(server, "r")
    commit = repo.commit({"f": "1"})
    repo.git("tag", "-a", "heavy", "-m", "x")
    tag = repo.git("rev-parse", "heavy")
    repo.commit({"f": "2"})
    for checksum in (commit, commit[:7], tag, tag[:9]):
        assert work.read(GitOp(repo.url, "heavy", checksum=checksum))["f"][1] == b"1"
    with pytest.raises(GitError, match=f"expected checksum to match {commit}, got"):
        work.read(GitOp(repo.url, checksum=commit))
    with pytest.raises(GitError, match="expected checksum to match"):
        work.read(GitOp(repo.url, tag, checksum="0" * 40))
    with pytest.raises(GitError, match="invalid checksum xyz"):
        work.read(GitOp(repo.url, checksum="xyz"))


def test_fetch_by_commit(server, work):
    """A08, T73: the checksum is the commit, the reference only a name."""
    repo = Repo(server, "r")
    commit = repo.commit({"f": "1"})
    repo.commit({"f": "2"})
    by_commit = GitOp(repo.url, "gone", checksum=commit, fetch_by_commit=True)
    assert work.read(by_commit)["f"][1] == b"1"
    with pytest.raises(GitError, match="requires a checksum"):
        work.read(GitOp(repo.url, fetch_by_commit=True))
    with pytest.raises(GitError, match="requires a full commit SHA"):
        work.read(GitOp(repo.url, checksum=commit[:8], fetch_by_commit=True))


def test_a_server_that_gives_no_commits_by_name(server, work):
    """A09: where only references can be asked for, all of them are."""
    repo = Repo(server, "r")
    commit = repo.commit({"f": "1"})
    repo.commit({"f": "2"})
    repo.git("config", "uploadpack.allowAnySHA1InWant", "false")
    server.protocol = ""
    assert work.read(GitOp(repo.url, commit))["f"][1] == b"1"


def test_subdirectories(server, work):
    """A08: only what lies below, as its root; a link or a file is no directory."""
    repo = Repo(server, "r")
    repo.commit({"a/b/c": "1", "a/bb/d": "2", "file": "3"})
    (repo.path / "link").symlink_to("a")
    repo.commit({})
    assert _names(work.read(GitOp(repo.url, subdir="a/b"))) == ["", "c"]
    assert _names(work.read(GitOp(repo.url, subdir="a"))) == ["", "b", "b/c", "bb", "bb/d"]
    for subdir in ("link", "link/b", "file", "nope", "a/b/c"):
        with pytest.raises(GitError, match="invalid subdir"):
            work.read(GitOp(repo.url, subdir=subdir))


def test_time_of_the_commit(server, work):
    """A08: mtime=commit gives everything the committer's time."""
    repo = Repo(server, "r")
    repo.commit({"d/f": "1"})
    tree = work.read(GitOp(repo.url, mtime="commit"))
    assert {entry.mtime for entry, _ in tree.values()} == {COMMIT_TIME}


def test_submodules(server, work):
    """A09: all of them, nested and with relative URLs, unless they are not wanted."""
    deep, sub, repo = Repo(server, "deep"), Repo(server, "sub"), Repo(server, "r")
    deep.commit({"x": "deep"})
    sub.commit({"s/f": "sub"})
    sub.git("submodule", "add", "-q", "../deep.git", "nested")
    sub.commit({})
    repo.git("submodule", "add", "-q", "../sub.git", "mods/one")
    repo.git("submodule", "add", "-q", "--name", "other", sub.url, "two")
    repo.commit({"f": "1"})
    tree = work.read(GitOp(repo.url))
    assert tree["mods/one/s/f"][1] == tree["two/s/f"][1] == b"sub"
    assert tree["mods/one/nested/x"][1] == tree["two/nested/x"][1] == b"deep"
    without = work.read(GitOp(repo.url, submodules=False))
    assert without["two"][0].kind is Kind.DIRECTORY
    assert not any(name.startswith(("mods/one/", "two/")) for name in without)
    assert _names(work.read(GitOp(repo.url, subdir="two/s"))) == ["", "f"]
    server.requests.clear()
    work.read(GitOp(repo.url, repo.git("rev-parse", "HEAD")))
    assert server.requests == []


def test_submodules_that_git_would_not_update(server, work):
    """A09: update=none stays empty; a link that .gitmodules does not name is an error."""
    sub, repo = Repo(server, "sub"), Repo(server, "r")
    sub.commit({"f": "1"})
    repo.git("submodule", "add", "-q", "../sub.git", "one")
    repo.git("config", "-f", ".gitmodules", "submodule.one.update", "none")
    repo.commit({})
    assert "one/f" not in work.read(GitOp(repo.url))
    repo.git("config", "-f", ".gitmodules", "--remove-section", "submodule.one")
    repo.commit({"f": "2"})
    with pytest.raises(GitError, match="no url found for submodule path 'one'"):
        work.read(GitOp(repo.url))


def test_kept_git_directory(server, work, tmp_path):
    """A09, T72: .git is a clone that git works with, at the commit, without credentials."""
    sub, repo = Repo(server, "sub"), Repo(server, "r")
    sub.commit({"f": "1"})
    repo.commit({"old": "1"})
    repo.git("submodule", "add", "-q", "../sub.git", "one")
    commit = repo.commit({"f": "1", "x.bat": "a\n", ".gitattributes": "*.bat text eol=crlf\n"})
    url = repo.url.replace("http://", "http://user:s3cr3t@")
    tree = work.read(GitOp(url, keep_git_dir=True))
    assert tree[".git/HEAD"][1].decode().strip() == commit
    assert tree[".git/refs/heads/main"][1].decode().strip() == commit
    assert not any(b"s3cr3t" in data for _, data in tree.values())
    assert tree["one/.git"][1] == b"gitdir: ../.git/modules/one\n"
    place = tmp_path / "out"
    for name, (entry, data) in tree.items():
        if entry.kind is Kind.DIRECTORY:
            (place / name).mkdir(parents=True, exist_ok=True)
        else:
            (place / name).write_bytes(data)
    out = SimpleNamespace(path=place)
    assert Repo.git(out, "status", "--porcelain") == ""
    assert Repo.git(out, "log", "--format=%H") == commit
    assert Repo.git(out, "submodule", "status").startswith(f"{sub.git('rev-parse', 'HEAD')} one")
    assert Repo.git(out, "fsck", "--full") == ""
    assert ".git" not in work.read(GitOp(repo.url, keep_git_dir=True, subdir="one"))
    assert list((work.state / "git").glob("kept-*")) == []


def test_attributes_are_applied(server, work):
    """A09: line ends, encodings and $Id$ as a checkout has them; filters and exports do nothing."""
    repo = Repo(server, "r")
    attributes = (
        "*.bat text eol=crlf\n*.id ident\n*.u16 text working-tree-encoding=UTF-16LE\n"
        "*.lfs filter=lfs -text\nhidden export-ignore\n*.sub export-subst\n*.lf text eol=lf\n"
    )
    repo.commit({
        ".gitattributes": attributes, "a.bat": "x\ny\n", "b.id": "$Id$\n", "l.lfs": "pointer\n",
        "c.u16": "hi\n".encode("utf-16-le"), "hidden": "1", "d.sub": "$Format:%H$", "e.lf": "\n",
        "d/.gitattributes": "*.txt eol=crlf\n", "d/f.txt": "1\n", "f.txt": "1\n",
    })  # fmt: skip
    tree = {name: data for name, (_, data) in work.read(GitOp(repo.url)).items()}
    assert tree["a.bat"] == b"x\r\ny\r\n"
    assert tree["b.id"].startswith(b"$Id: ")
    assert tree["c.u16"] == "hi\n".encode("utf-16-le")
    assert (tree["d/f.txt"], tree["f.txt"]) == (b"1\r\n", b"1\n")
    assert (tree["l.lfs"], tree["hidden"]) == (b"pointer\n", b"1")
    assert (tree["d.sub"], tree["e.lf"]) == (b"$Format:%H$", b"\n")
    assert list((work.state / "git").glob("*/files-*")) == []


def test_conversions_are_bounded(server, work):
    """A09: one object under many names fills no disk before it is counted."""
    repo = Repo(server, "r")
    blob = repo.blob(b"\n" * 50_000_000)
    attributes = repo.blob(b"* text eol=crlf\n")
    names = [b"f%03d" % number for number in range(100)]
    entries = [(0o100644, name, blob) for name in names]
    repo.commit_tree(repo.tree([(0o100644, b".gitattributes", attributes), *entries]))
    with pytest.raises(GitError, match="to be converted"):
        work.read(GitOp(repo.url))


def test_sha256_repositories(server, work):
    """T72: the other object format works the same."""
    repo = Repo(server, "r", "--object-format=sha256")
    commit = repo.commit({"f": "1"})
    assert len(commit) == 64
    assert work.read(GitOp(repo.url))["f"][1] == b"1"
    assert work.read(GitOp(repo.url, commit, keep_git_dir=True))["f"][1] == b"1"


def test_names_of_any_bytes(server, work):
    """A09: names that are no UTF-8, have line ends or look like options are only names."""
    repo = Repo(server, "r")
    blob = repo.blob(b"x")
    names = [b"\xff\xfe", b"-rf", b"a\nb", b" ", b'"q"', b"*", b".gitmodules\n"]
    repo.commit_tree(repo.tree(sorted((0o100644, name, blob) for name in names)))
    tree = work.read(GitOp(repo.url))
    assert {os.fsencode(name) for name in tree} == {b"", *names}


@pytest.mark.parametrize(
    "names",
    [[b".git"], [b".GIT"], [b".."], [b"."], [b"a", b"a"], [b"x" * 256]],
)
def test_trees_that_git_would_not_check_out(server, work, names):
    """A09: .git, dots and names that occur twice are refused before a byte is written."""
    repo = Repo(server, "r")
    blob = repo.blob(b"x")
    repo.commit_tree(repo.tree([(0o100644, name, blob) for name in names]))
    with pytest.raises(GitError, match="invalid path"):
        work.read(GitOp(repo.url))


def test_a_link_and_a_directory_of_one_name(server, work):
    """A09: the trick of writing through a link finds neither link nor directory."""
    repo = Repo(server, "r")
    inner = repo.tree([(0o100644, b"authorized_keys", repo.blob(b"x"))])
    link = repo.blob(b"/root/.ssh")
    repo.commit_tree(repo.tree([(0o120000, b"a", link), (0o40000, b"a", inner)]))
    with pytest.raises(GitError, match="invalid path 'a'"):
        work.read(GitOp(repo.url))


@pytest.mark.parametrize("target", [b"", b"a\0b", b"x" * 5000])
def test_links_to_nowhere(server, work, target):
    """A09: a link whose target no file system takes is an error."""
    repo = Repo(server, "r")
    repo.commit_tree(repo.tree([(0o120000, b"a", repo.blob(target))]))
    with pytest.raises(GitError, match="no usable target"):
        work.read(GitOp(repo.url))


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c 'touch {canary}'",
        "--upload-pack=touch {canary}",
        "-u./payload",
        "file://{secret}",
        "{secret}",
        "ssh://-oProxyCommand=touch%20{canary}/x",
        "git@-oProxyCommand=touch {canary}:x",
        "../../../../../../etc",
    ],
)
def test_hostile_submodule_urls(server, work, tmp_path, url):
    """A09: no URL of a .gitmodules runs a program or reads a directory of this machine."""
    secret = Repo(server, "secret")
    secret.commit({"key": "s"})
    canary = tmp_path / "canary"
    repo = Repo(server, "r")
    commit = repo.commit({"f": "1"})
    text = url.format(canary=canary, secret=secret.path)
    repo.git("config", "-f", ".gitmodules", "submodule.x.path", "x")
    repo.git("config", "-f", ".gitmodules", "submodule.x.url", text)
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{commit},x")
    repo.git("add", ".gitmodules")
    repo.git("commit", "-q", "-m", "x")
    with pytest.raises(GitError, match="submodule"):
        work.read(GitOp(repo.url))
    assert not canary.exists()


@pytest.mark.parametrize("name", ["../../x", "a/../../b", "."])
def test_hostile_submodule_names(server, work, name):
    """A09: a name is never a path; with --keep-git-dir one that climbs is refused."""
    sub, repo = Repo(server, "sub"), Repo(server, "r")
    commit = sub.commit({"f": "1"})
    repo.git("config", "-f", ".gitmodules", f"submodule.{name}.path", "x")
    repo.git("config", "-f", ".gitmodules", f"submodule.{name}.url", "../sub.git")
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{commit},x")
    repo.git("add", ".gitmodules")
    repo.git("commit", "-q", "-m", "x")
    assert work.read(GitOp(repo.url))["x/f"][1] == b"1"
    with pytest.raises(GitError, match="invalid name"):
        work.read(GitOp(repo.url, keep_git_dir=True))


def test_configuration_of_the_host_and_of_the_repository_is_not_read(server, work, tmp_path):
    """A09: hooks, filters, fsmonitor and URL rewriting of anybody's configuration do nothing."""
    canary = tmp_path / "canary"
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        f'[core]\nfsmonitor = "touch {canary}"\n[filter "x"]\nsmudge = "touch {canary}"\n'
        f'[credential]\nhelper = "!touch {canary}"\n[url "ext::touch {canary}"]\ninsteadOf = http\n'
    )
    repo = Repo(server, "r")
    repo.commit({".gitattributes": "* filter=x text eol=crlf\n", "f": "1\n", ".lfsconfig": "[x]\n"})
    environ = {**ENVIRON, "HOME": str(home), "GIT_DIR": "/x", "GIT_CONFIG_PARAMETERS": "'a.b=c'"}
    source = GitSource(str(tmp_path / "state"), environ, {})
    for keep in (False, True):
        assert work.read(GitOp(repo.url, keep_git_dir=keep), source)["f"][1] == b"1\r\n"
    assert not canary.exists()


def test_tokens_are_sent_and_never_shown(server, work):
    """A09: a secret reaches the server as a header, and neither arguments nor messages."""
    repo = Repo(server, "r")
    repo.commit({"f": "1"})
    server.needed = "Bearer s3cr3t-token"
    with pytest.raises(GitError) as caught:
        work.read(GitOp(repo.url))
    assert "GIT_AUTH_TOKEN" in caught.value.hint
    work.secrets[f"GIT_AUTH_HEADER.{server.host}"] = b"Bearer s3cr3t-token"
    assert work.read(GitOp(repo.url))["f"][1] == b"1"
    assert not any("s3cr3t" in text for text in server.requests)
    work.secrets[f"GIT_AUTH_HEADER.{server.host}"] = b"Bearer wr0ng"
    with pytest.raises(GitError) as caught:
        work.read(GitOp(repo.url))
    assert "wr0ng" not in caught.value.message
    for place in (work.state / "git").rglob("*"):
        assert not place.is_file() or b"s3cr3t" not in place.read_bytes()


def test_failures_say_what_git_said(server, work):
    """A09: a repository that is not there, a host that is not there, ssh without keys."""
    with pytest.raises(GitError, match=r"failed to fetch remote .*/none\.git: .*not found"):
        work.read(GitOp(f"{server.url}/none.git"))
    with pytest.raises(GitError, match="failed to fetch remote"):
        work.read(GitOp("http://127.0.0.1:1/x.git"))
    with pytest.raises(GitError, match='no SSH key "default"') as caught:
        work.read(GitOp("git@127.0.0.1:x.git"))
    assert "--ssh default" in caught.value.hint


def test_over_ssh(server, tmp_path):
    """A09: ssh gets the agent or the keys that were lent, the user's hosts, and asks nothing."""
    repo = Repo(server, "r")
    repo.commit({"f": "1"})
    programs = tmp_path / "bin"
    programs.mkdir()
    fake = programs / "ssh"
    fake.write_text(
        f'#!/bin/sh\necho "$SSH_AUTH_SOCK $@" >> {tmp_path}/log\n'
        'for last; do :; done\nexec sh -c "$last"\n'
    )
    fake.chmod(0o755)
    environ = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    for number, agent in enumerate(
        (
            Agent("/agent", (), "/home/me/known hosts%"),
            Agent("", ("/key one",), ""),
        )
    ):
        source = GitSource(str(tmp_path / f"state{number}"), environ, {}, agent)
        layers = MemoryLayers()
        (tmp_path / f"state{number}").mkdir()
        with layers.writer() as writer:
            source.write(GitOp(f"git@host:{repo.path}"), writer, MTIME)
            names = [entry.path for entry in layers.index(writer.commit())]
        assert names == ["", "f"]
    first, *_, last = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("/agent -F /dev/null -o BatchMode=yes")
    assert 'UserKnownHostsFile="/home/me/known hosts%%"' in first
    assert "StrictHostKeyChecking" not in first
    assert last.startswith(" -F /dev/null")
    assert "-o IdentitiesOnly=yes -i /key one" in last


def test_without_git(tmp_path):
    """A09: no git program is an error that says what to install."""
    with pytest.raises(HostUnsupportedError, match="need the git program") as caught:
        GitProgram({"PATH": str(tmp_path)}).run("version")
    assert "install git" in caught.value.hint


def test_cancelling_kills_git(tmp_path):
    """A09: cancelling ends a running command at once, and starts no other."""
    fake = tmp_path / "git"
    fake.write_text("#!/bin/sh\nsleep 60 & wait\n")
    fake.chmod(0o755)
    program = GitProgram({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    threading.Timer(0.3, program.cancel).start()
    start = time.monotonic()
    with pytest.raises(GitError, match="cancelled"):
        program.run("fetch")
    assert time.monotonic() - start < 10
    with pytest.raises(GitError, match="cancelled"):
        program.run("version")


def test_limits_of_a_command(tmp_path):
    """A09: a command that takes too long or fails with much to say ends."""
    fake = tmp_path / "git"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = slow ] && sleep 60\nyes err | head -c 3000000 >&2; exit 7\n'
    )
    fake.chmod(0o755)
    program = GitProgram({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    with pytest.raises(GitError, match="took too long"):
        program.run("slow", timeout=0.3)
    with pytest.raises(GitFailedError) as caught:
        program.run("loud")
    assert len(caught.value.stderr) <= 64 * 1024


def test_two_builds_fetch_one_repository(server, work):
    """A09: builds wait for each other's fetches of a remote."""
    repo = Repo(server, "r")
    repo.commit({"f": "1"})
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(work.read(GitOp(repo.url))["f"][1]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"1"] * 4


def test_parsed_references_work(server, work):
    """A08, T73: what a URL says is what is fetched."""
    repo = Repo(server, "r")
    repo.commit({"d/f": "1"})
    repo.git("tag", "v1")
    repo.commit({"d/f": "2"})
    assert work.read(parse_git(f"{repo.url}?tag=v1&subdir=/d"))["f"][1] == b"1"
    assert work.read(parse_git(f"{repo.url}#main:d"))["f"][1] == b"2"


def test_repositories_are_swept(server, work):
    """K22: prune forgets repositories that were not used lately, and what killed builds left."""
    for name in ("old", "new"):
        repo = Repo(server, name)
        repo.commit({"f": name})
        work.read(GitOp(repo.url))
        if name == "old":
            limit = time.time_ns()
            (work.state / "git/kept-x/.git").mkdir(parents=True)
    sweep(str(work.state), limit)
    assert len(list((work.state / "git").glob("*/ready"))) == 1
    assert len(list((work.state / "git").iterdir())) == 2
    assert work.read(GitOp(f"{server.url}/old.git"))["f"][1] == b"old"
    sweep(str(work.state), time.time_ns())
    assert list((work.state / "git").iterdir()) == []
    sweep(str(work.state / "nothing"), limit)


@pytest.fixture
def elsewhere():
    """A server that notes what it is told, and answers nothing."""
    with redirecting(lambda _path: None) as server:
        yield server


def test_credentials_follow_no_redirect_to_another_host(server, work, elsewhere):
    """S-H08, S-F04: neither with the first request nor with those after it."""
    repo = Repo(server, "r")
    commit = repo.commit({"f": "1"})
    with redirecting(lambda path: f"{elsewhere.url}/moved{path}") as moved:
        work.secrets["GIT_AUTH_TOKEN"] = b"s3cr3t-token"
        for ref in ("", commit):
            with pytest.raises(GitError, match="where its credentials do not belong") as caught:
                work.read(GitOp(f"{moved.url}/r.git", ref=ref))
            assert "GIT_AUTH_TOKEN.HOST" in caught.value.hint
    assert moved.tokens
    assert not any(elsewhere.tokens)


def test_credentials_follow_redirects_within_their_host(server, work):
    """The benign twin: a forge that adds .git, or knows a repository's new name."""
    repo = Repo(server, "r")
    commit = repo.commit({"f": "1"})
    server.redirects = {"/old": "/older", "/older": f"{server.url}/r.git"}
    server.needed = "basic " + base64.b64encode(b"x-access-token:s3cr3t").decode()
    work.secrets["GIT_AUTH_TOKEN"] = b"s3cr3t"
    for ref in ("", commit):
        assert work.read(GitOp(f"{server.url}/old", ref=ref))["f"][1] == b"1"
    server.redirects["/older"] = "/old"
    with pytest.raises(GitError, match="leads on"):
        work.read(GitOp(f"{server.url}/old"))
