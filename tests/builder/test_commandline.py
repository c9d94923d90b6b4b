"""Options, requests and the command's exit status."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from builder.errors import UsageError
from builder.flagvalues import parse_secret, parse_ssh
from builder.options import parse_build, parse_platform, parse_platforms
from builder.request import MAX_SECRET, SecretSource, SshSource, parse_epoch, parse_pairs
from builder.secrets import check_agents, read_secrets, unset_variables
from cache.value import replace
from frontend.graph import Ulimit


def pybuild(*words, cwd=None, **environ):
    """Run the command as a process."""
    return subprocess.run(
        [sys.executable, "-m", "builder", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environ},
        timeout=120,
    )


def test_build_options_become_a_request():
    """Every flag reaches the request."""
    request = parse_build(
        ["-t", "a", "-t", "b:1", "--build-arg", "A=1", "--build-arg", "FROM_ENV", "--target", "x",
         "--platform", "arm64", "--label", "l=v", "--no-cache", "--push", "-o", "type=tar,dest=x",
         "--secret", "id=s,src=f", "--add-host", "h:1.2.3.4", "ctx"],
        {"FROM_ENV": "e"},
    )  # fmt: skip
    assert [str(tag) for tag in request.tags] == [
        "docker.io/library/a:latest",
        "docker.io/library/b:1",
    ]
    assert dict(request.build_args) == {"A": "1", "FROM_ENV": "e"}
    assert (request.target, str(request.platform), request.context) == ("x", "linux/arm64", "ctx")
    assert request.no_cache
    assert request.push
    assert request.secrets == (SecretSource("s", "f"),)
    assert request.extra_hosts == (("h", "1.2.3.4"),)


@pytest.mark.parametrize(
    "words",
    [[], ["a", "b"], ["--bogus", "."], ["-t", "UPPER", "."], ["-t", "a@sha256:" + "0" * 64, "."],
     ["--platform", "bogus", "."], ["--network", "bogus", "."],
     ["--build-arg", "=x", "."], ["--secret", "src=x", "."], ["--secret", "id=", "."],
     ["--secret", "id=a,bogus=b", "."], ["--add-host", "x", "."], ["--cache-to", "X", "."],
     ["--progress", "bogus", "."], ["-q", "--progress", "plain", "."], ["--label", "\0=x", "."],
     ["--targ", "x", "."]],
)  # fmt: skip
def test_bad_options_are_usage_errors(words):
    """Junk and what is not built yet is refused with one line (G14)."""
    with pytest.raises(UsageError):
        parse_build(words, {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cache-from", "type=gha"], "cache step"),
        (["--cache-to=type=inline"], "type=registry"),
        (["--cache-to=type=s3,bucket=b"], "copy the directory"),
        (["--cache-from=type=local"], "src="),
        (["--cache-to=type=registry,ref=a,mode=most"], "mode=max"),
        (["--attest", "type=sbom"], "leave --attest out"),
        (["--provenance=mode=max"], "leave --provenance out"),
        (["--sbom", "true"], "leave --sbom out"),
        (["-m", "1k"], "6m is the least"),
        (["--resource", "disk=1g"], "memory-swap"),
        (["--cgroup-parent", "x"], "systemd-run"),
        (["--policy", "x"], "leave it out"),
        (["--builder", "mine"], "leave it out"),
        (["--no-cache", "--no-cache-filter", "a"], "every stage"),
        (["--push", "false"], "--push=false"),
        (["--allow", "everything"], "security.insecure"),
        (["--network", "bridge"], "default, none, host"),
        (["--progress", "fancy"], "rawjson"),
        (["--call", "nothing"], "outline"),
        (["--chekc"], "--check"),
    ],
)
def test_what_cannot_be_had_says_what_to_do(words, said):
    """No flag is taken and ignored: an error names the way out."""
    with pytest.raises(UsageError) as caught:
        parse_build([*words, "."], {})
    assert said in str(caught.value.hint)


def test_asking_for_what_happens_anyway_is_fine():
    """--load, no attestations, the default builder, and no limit at all change nothing."""
    words = (
        "--load --provenance=false --sbom false --attest type=sbom,disabled=true --builder default"
    )
    request = parse_build([*words.split(), "--cache-from=", "--rm", "--force-rm", "."], {})
    assert request == replace(parse_build(["."], {}), load=True)


def test_flags_docker_no_longer_heeds_are_warned_of():
    """Legacy flags are accepted with a word about each."""
    words = ["--squash", "--compress", "--isolation", "x", "--security-opt=y", "--squash", "."]
    assert [text.split()[0] for text in parse_build(words, {}).warnings] == [
        "--squash",
        "--compress",
        "--isolation",
        "--security-opt",
    ]


def test_flags_with_a_grammar_reach_the_request():
    """Those that few builds give reach it too."""
    request = parse_build(
        ["--ssh", "default", "--allow", "security.insecure", "--network=host", "--shm-size=1m",
         "--ulimit", "nofile=1", "--build-context", "a=b", "--annotation", "index:k=v",
         "--no-cache-filter=a,B", "--no-cache-filter", "c", "--call", "outline,format=json", "-D",
         "--iidfile=i", "."],
        {},
    )  # fmt: skip
    assert request.ssh == (SshSource(),)
    assert request.allow == ("security.insecure", "network.host")
    assert (request.shm_size, request.ulimits) == (1 << 20, (Ulimit("nofile", 1, 1),))
    assert request.contexts == (("a", "b"),)
    assert request.annotations == ("index:k=v",)
    assert request.no_cache_filter == ("a", "B", "c")
    assert (request.call, request.call_format, request.debug) == ("outline", "json", True)


def test_platforms_are_each_built_once():
    """Lists, repetition and `local`; the first is what a single image has."""
    request = parse_build(["--platform", "arm64, amd64", "--platform=linux/arm64/v8", "."], {})
    assert [str(platform) for platform in request.platforms] == ["linux/arm64", "linux/amd64"]
    assert request.platform == request.platforms[0]
    assert parse_platforms(["local"], {}) == parse_platforms([], {})
    assert len(parse_platforms([""], {"DOCKER_DEFAULT_PLATFORM": "amd64,arm64"})) == 2


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ([], "tty"),
        (["-q"], "quiet"),
        (["-q", "--progress=auto"], "quiet"),
        (["-q=false", "--progress=none"], "none"),
        (["--progress", "quiet"], "quiet"),
    ],
)
def test_progress_of_the_flags_wins_over_the_environment(words, mode):
    """O72: -q excludes others only if they are flags, too."""
    assert parse_build([*words, "."], {"BUILDKIT_PROGRESS": "tty"}).progress == mode


def test_unset_build_arg_is_not_passed():
    """--build-arg NAME without a variable of that name passes nothing (V37)."""
    assert parse_pairs("--build-arg", ["NOPE"], {}) == ()


def test_default_platform_comes_from_the_environment():
    """DOCKER_DEFAULT_PLATFORM is honoured."""
    assert str(parse_platform("", {"DOCKER_DEFAULT_PLATFORM": "linux/arm64"})) == "linux/arm64"


@pytest.mark.parametrize(("text", "seconds"), [(None, None), ("", None), ("0", 0), ("12", 12)])
def test_epoch(text, seconds):
    """SOURCE_DATE_EPOCH is whole seconds; empty unsets it (O20)."""
    assert parse_epoch(text) == seconds


@pytest.mark.parametrize("text", ["-1", "1.5", "x", "1" * 30, "٣"])
def test_bad_epoch_is_refused(text):
    """Anything else is an error."""
    with pytest.raises(UsageError):
        parse_epoch(text)


def test_secret_sources(tmp_path):
    """src, env, type=env and the automatic choice (M13)."""
    path = tmp_path / "file"
    path.write_bytes(b"from file")
    sources = [
        parse_secret(f"id=a,src={path}"),
        parse_secret("id=b,env=VAR"),
        parse_secret("type=env,id=VAR"),
        parse_secret("id=VAR"),
    ]
    assert [source.id for source in sources] == ["a", "b", "VAR", "VAR"]
    values = read_secrets(sources[:3], {"VAR": "from env"})
    assert values == {"a": b"from file", "b": b"from env", "VAR": b"from env"}


def test_missing_secret_is_an_error_before_the_build(tmp_path):
    """A file that is not there is named at once, even if a variable is used instead."""
    for text in (f"id=a,src={tmp_path}/nope", f"id=a,env=HOME,src={tmp_path}/nope"):
        with pytest.raises(UsageError, match="not found"):
            read_secrets([parse_secret(text)], {"HOME": "x"})


def test_unset_variable_is_an_empty_secret():
    """As with docker the build goes on; who wants to can say which are empty."""
    sources = [parse_secret("id=a,env=NOPE"), parse_secret("id=b,env=B"), parse_secret("id=B")]
    assert read_secrets(sources, {"B": "x"}) == {"a": b"", "b": b"x", "B": b"x"}
    assert unset_variables(sources, {"B": "x"}) == (("a", "NOPE"),)


def test_secret_from_what_the_caller_opened():
    """The pipe of a shell's <(command) is read to its end, once."""
    reading, writing = os.pipe()
    os.write(writing, b"from a command")
    os.close(writing)
    try:
        assert read_secrets([parse_secret(f"id=a,src=/dev/fd/{reading}")], {}) == {
            "a": b"from a command"
        }
    finally:
        os.close(reading)
    for nothing in ("12345", "9" * 30, "9" * 5000):
        with pytest.raises(UsageError, match="cannot read"):
            read_secrets([parse_secret(f"id=a,src=/dev/fd/{nothing}")], {})


@pytest.mark.parametrize("size", [MAX_SECRET, MAX_SECRET + 1])
def test_secret_has_at_most_500_kib(tmp_path, size):
    """A larger file or variable is an error (M13)."""
    (tmp_path / "f").write_bytes(b"x" * size)
    for text in (f"id=a,src={tmp_path}/f", "id=a,env=V"):
        fits = contextlib.nullcontext() if size <= MAX_SECRET else pytest.raises(UsageError)
        with fits:
            assert read_secrets([parse_secret(text)], {"V": "x" * size})


def test_agents_are_checked_before_the_build(tmp_path):
    """One socket, or keys, or SSH_AUTH_SOCK; never a mixture, nor what is not there."""
    agent, key = tmp_path / "agent", tmp_path / "key"
    key.write_text("a key")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(agent))
        for good in (["default"], [f"a={key},{key}"], [f"a={agent}", "b"]):
            check_agents(parse_ssh(good), {"SSH_AUTH_SOCK": str(agent)})
        for bad, said in (
            (f"a={agent},{key}", "mixed"),
            (f"a={agent},{agent}", "only one socket"),
            (f"a={tmp_path}/nope", "No such file"),
            (f"a={tmp_path}", "neither a socket nor a private key"),
            ("a=\0", "null byte"),
        ):
            with pytest.raises(UsageError, match=said):
                check_agents(parse_ssh([bad]), {"SSH_AUTH_SOCK": str(agent)})
        with pytest.raises(UsageError, match="SSH_AUTH_SOCK is not set"):
            check_agents(parse_ssh(["default"]), {})


def test_fifo_secret_does_not_hang(tmp_path):
    """A secret that is no regular file is refused, never waited for (I05)."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="not a regular file"):
        read_secrets([parse_secret(f"id=a,src={tmp_path}/fifo")], {})


@pytest.mark.parametrize(
    ("dockerfile", "status", "said"),
    [
        ("FRM x\n", 2, "did you mean"),
        ("FROM scratch\nCOPY nope /\n", 1, '"/nope": not found'),
        ("", 2, "cannot be empty"),
        ("FROM scratch\nCOPY <<A /x\nbody\nA\n", 0, "built"),
    ],
)
def test_exit_status(tmp_path, dockerfile, status, said):
    """0 done, 1 the build failed, 2 Dockerfile or usage; the message says what."""
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx" / "Dockerfile").write_text(dockerfile)
    done = pybuild(str(tmp_path / "ctx"), PYBUILD_ROOT=str(tmp_path / "root"))
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version():
    """Both answer on standard output with status 0; no command is a usage error."""
    assert "pybuild [build]" in pybuild("--help").stdout
    assert pybuild("build", "-t", "x", "--help").stdout == pybuild("--help").stdout
    assert "no ARG takes" not in pybuild("--build-arg", "--help", "/nowhere").stdout
    assert pybuild("version").stdout.startswith("pybuild ")
    assert pybuild().returncode == 2


def test_data_only_build_round_trip(tmp_path):
    """Build, list, inspect, rebuild cached, remove and prune without any sandbox."""
    context, root = tmp_path / "ctx", str(tmp_path / "root")
    context.mkdir()
    (context / "Dockerfile").write_text('FROM scratch\nCOPY a /a\nCMD ["/a"]\n')
    (context / "a").write_text("one")
    assert pybuild("-t", "x", str(context), PYBUILD_ROOT=root).returncode == 0
    again = pybuild("-t", "x", str(context), PYBUILD_ROOT=root)
    assert "(0 steps run, 1 cached)" in again.stderr
    os.utime(context / "a", (1, 1))
    touched = pybuild("-t", "x", str(context), PYBUILD_ROOT=root)
    assert "(0 steps run, 1 cached)" in touched.stderr
    (context / "a").write_text("two")
    changed = pybuild("-t", "x", "--explain", str(context), PYBUILD_ROOT=root)
    assert "(1 step run, 0 cached)" in changed.stderr
    assert "content of source 1 changed" in changed.stderr
    assert "x" in pybuild("images", PYBUILD_ROOT=root).stdout
    assert '"Cmd"' in pybuild("inspect", "x", PYBUILD_ROOT=root).stdout
    assert "removed sha256:" in pybuild("rmi", "x", PYBUILD_ROOT=root).stdout
    assert pybuild("prune", "--all", PYBUILD_ROOT=root).stdout.startswith("freed ")
    assert os.listdir(f"{root}/blobs/sha256") == []
    assert oct(os.stat(root).st_mode)[-3:] == "700"


def test_stale_result_files_go_before_a_failing_build(tmp_path):
    """A failed build leaves no old iidfile (K08)."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY nope /\n")
    stale = tmp_path / "iid"
    stale.write_text("old")
    done = pybuild("--iidfile", str(stale), str(tmp_path), PYBUILD_ROOT=str(tmp_path / "root"))
    assert done.returncode == 1
    assert not stale.exists()
