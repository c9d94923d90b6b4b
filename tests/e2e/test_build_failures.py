"""How builds fail: exit status, message, and that nothing half-done is left."""

from __future__ import annotations

import json
import subprocess

import pytest


def test_failing_step(pybuild, busybox):
    """A failing RUN exits with 1, shows its last output, its line, and tags nothing."""
    context = pybuild.context(
        "failing",
        f"FROM {busybox}\nRUN echo before\nRUN echo the reason >&2; exit 7\nRUN echo after\n",
    )
    done = pybuild.run("-t", "failing", context)
    assert done.code == 1
    assert "exit code: 7" in done.err or "exit code 7" in done.err
    assert "the reason" in done.err
    assert "Dockerfile:3" in done.err
    assert "Traceback" not in done.err
    assert "failing" not in pybuild.good("images").out
    again = pybuild.run("-t", "failing", context)
    assert again.ending("CACHED") == ["RUN echo before"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FRM scratch\n", "FRM"),
        ("FROM scratch\nRUN --mount=type=nothing true\n", "nothing"),
        ("RUN true\n", "FROM"),
        ("FROM scratch\nCOPY --from=3 x /\n", "3"),
    ],
)
def test_bad_dockerfile(pybuild, text, said):
    """A mistake in the Dockerfile exits with 2 and names its place before anything runs."""
    done = pybuild.run(pybuild.context("bad", text))
    assert done.code == 2
    assert said in done.err
    assert "Dockerfile:" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "words",
    [["nowhere"], ["--nonsense", "."], [], ["-t", "UPPER CASE", "."], ["-o", "type=odd", "."]],
)
def test_bad_usage(pybuild, words):
    """A mistake in the command line exits with 2 and one line that says what."""
    done = pybuild.run("build", *words)
    assert done.code == 2
    assert done.err.startswith("pybuild: error: ")
    assert "Traceback" not in done.err


def test_missing_source(pybuild, busybox):
    """COPY of a file that is not there exits with 1 and names it."""
    done = pybuild.run(pybuild.context("missing", f"FROM {busybox}\nCOPY absent.txt /\n"))
    assert done.code == 1
    assert "absent.txt" in done.err


def test_host_that_cannot(pybuild, busybox):
    """Without user namespaces a build that insists on them exits with 3 and says what is missing."""
    context = pybuild.context("cannot", f"FROM {busybox}\nRUN true\n")
    insists = ("--sandbox", "userns")
    blocked = ["unshare", "-U", "-r", "sh", "-c"]
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    command = [*blocked, script, "sh", *pybuild.command(*insists, context)]
    if pybuild.other:
        command = pybuild.as_account(
            [*blocked, script, "sh", pybuild.python, "-P", "-m", "builder", *insists, str(context)]
        )

    done = subprocess.run(
        command,
        env=pybuild.environ(),
        cwd=pybuild.home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "namespace" in done.stderr
    assert "hint:" in done.stderr


def test_metadata_file_and_iidfile(pybuild, busybox):
    """The result files name what was built; a failing build leaves no stale image ID."""
    context = pybuild.context("files", f"FROM {busybox}\nARG CODE=0\nRUN exit $CODE\n")
    iid, metadata = pybuild.home / "iid", pybuild.home / "metadata.json"
    pybuild.good("-t", "files", "--iidfile", iid, "--metadata-file", metadata, context)
    document = json.loads(metadata.read_text())
    assert document["containerimage.config.digest"] == iid.read_text()
    assert document["image.name"] == "docker.io/library/files:latest"
    assert pybuild.run("--iidfile", iid, "--build-arg", "CODE=1", context).code == 1
    assert not iid.exists()
