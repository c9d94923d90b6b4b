"""`pybuild bundle`: what real runc and crun start, as root and as an ordinary user (issue 4)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}"))
    for name in ("runc", "crun")
]
SCRIPT = "id -u; pwd; echo $K; cat /owned; ls -ln /owned; touch /new && exit 5"


@pytest.fixture
def image(pybuild, busybox):
    """An image with a file of another owner, a user and a directory to start in."""
    text = (
        f"FROM {busybox}\nCOPY --chown=33:44 owned /owned\nENV K=v\nWORKDIR /w\n"
        'LABEL a=b\nEXPOSE 80\nENTRYPOINT ["sh", "-c"]\nCMD ["exit 3"]\n'
    )
    pybuild.good("-t", "bundled", pybuild.context("context", text, {"owned": "text\n"}))
    return "bundled"


def start(pybuild, runtime, bundle):
    """Start a bundle; the groups of this host may be of a kind that crun does not take."""
    words = [runtime, "--root", str(pybuild.home / "states")]
    if runtime == "crun":
        words += ["--cgroup-manager", "disabled"]
    words += ["run", "--bundle", str(bundle), f"test-{os.getpid()}"]
    if os.geteuid() == 0:
        hide = (
            'mount -t tmpfs none /sys/fs/cgroup && exec "$@"' if runtime == "crun" else 'exec "$@"'
        )
        words = ["unshare", "--mount", "sh", "-c", hide, "sh", *pybuild.as_account(words)]
    return subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_bundle_starts(pybuild, image, runtime):
    """Issue 4: owners, variables, directory and status, by root and by anybody."""
    bundle = pybuild.home / "bundle"
    pybuild.good("bundle", image, bundle, SCRIPT)
    done = start(pybuild, runtime, bundle)
    if os.geteuid() and "cgroups in hybrid mode" in done.stderr:
        pytest.skip("only root can hide this host's control groups, which crun does not take")
    assert done.returncode == 5, done.stderr
    uid, cwd, text, owned, listed = done.stdout.splitlines()
    assert (uid, cwd, text, owned) == ("0", "/w", "v", "text")
    assert listed.split()[2:4] == ["33", "44"]
    subprocess.run(["rm", "-rf", bundle], check=os.geteuid() == 0)


def test_the_config_is_the_images(pybuild, image):
    """Issue 4: config.json by the conversion of the image specification."""
    bundle = pybuild.home / "bundle"
    pybuild.good("bundle", "-e", "K=other", "-u", "7:8", "--tty", image, bundle)
    document = json.loads((bundle / "config.json").read_text())
    process = document["process"]
    assert process["args"] == ["sh", "-c", "exit 3"]
    assert (process["user"]["uid"], process["user"]["gid"]) == (7, 8)
    assert (process["cwd"], process["terminal"]) == ("/w", True)
    assert "K=other" in process["env"]
    annotations = document["annotations"]
    assert annotations["a"] == "b"
    assert annotations["org.opencontainers.image.exposedPorts"] == "80/tcp"
    again = pybuild.run("bundle", image, bundle)
    assert again.code == 2
    assert "is not empty" in again.err
    subprocess.run(["rm", "-rf", bundle], check=os.geteuid() == 0)
