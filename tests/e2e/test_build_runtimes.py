"""RUN and `pybuild run` through real OCI runtimes: the same layers, the same confinement (issue 4)."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}"))
    for name in ("runc", "crun")
]
DOCKERFILE = """\
FROM {base}
RUN <<EOS
#!/bin/sh
set -e
grep -E '^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status
umask; hostname; id; pwd
test "$(cat /dev/pipes/EOS | head -n 1)" = "#!/bin/sh"
mkdir -p /d/e && echo text >/d/f && ln -s f /d/l && ln /d/f /d/h && rm -r /tmp/x
chown 33:44 /d/f && chmod 6755 /d/f
! echo 1 >/proc/sys/kernel/ctrl-alt-del && ! mkdir /sys/fs/cgroup/x && ! unshare -m true
touch /dev/leftover
EOS
WORKDIR /made/here
USER 1000:1001
RUN --mount=type=cache,target=/cache,uid=1000 --mount=type=tmpfs,target=/t --network=none \\
    touch /cache/x /t/y && test ! -w /made && ip addr | grep -q LOOPBACK,UP && id
USER root
RUN --mount=type=bind,target=/src --mount=type=secret,id=s --mount=type=cache,target=/dev/keep \\
    cat /run/secrets/s && cp /src/Dockerfile /copied && touch /dev/keep/x
"""


@pytest.fixture
def context(pybuild, busybox):
    """A context whose steps leave all kinds of things."""
    text = DOCKERFILE.format(base=busybox)
    text = text.replace("RUN <<EOS", "RUN mkdir -p /tmp/x/y\nRUN <<EOS", 1)
    return pybuild.context("context", text, {"s": "very secret\n"})


def layers_of(archive):
    """Every entry of every layer, without times."""
    with tarfile.open(archive) as outer:
        read = lambda digest: outer.extractfile(f"blobs/sha256/{digest[7:]}")  # noqa: E731 - local
        manifest = json.load(
            read(json.load(outer.extractfile("index.json"))["manifests"][0]["digest"])
        )
        found = []
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=read(layer["digest"])) as inner:
                rows = [(e.name, e.type, e.mode, e.uid, e.gid, e.size, e.linkname) for e in inner]
                found.append(sorted(rows))
        return found


def build(pybuild, context, *flags):
    archive = pybuild.home / f"out-{len(list(pybuild.home.iterdir()))}.tar"
    flags = (*flags, "--no-cache", "--secret", f"id=s,src={context / 's'}")
    result = pybuild.good(
        *flags, "-o", f"type=oci,dest={archive}", "--insecure-registry=x", context
    )
    lines = (line.split(" ", 2) for line in result.err.splitlines() if line[:3] in {"#3 ", "#4 "})
    said = [line[2] for line in lines if len(line) > 2 and line[1] != "DONE"]
    return layers_of(archive), said


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_layers_and_confinement_equal_our_own(pybuild, context, runtime):
    """Issue 4: entry by entry, and what the process could see and do."""
    layers, said = build(pybuild, context)
    assert build(pybuild, context, "--runtime", runtime) == (layers, said)
    assert any(row[0] == "d/f" and row[3:5] == (33, 44) for layer in layers for row in layer)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_status_streams_and_missing_programs(pybuild, busybox, runtime):
    """R02: `pybuild run` gives the process's own status, 127 where there is no program."""
    script = "echo out; echo err >&2; exit 7"
    result = pybuild.run("run", "--runtime", runtime, busybox, "sh", "-c", script)
    assert (result.code, result.out) == (7, "out\n")
    assert "err" in result.err
    lost = pybuild.run("run", "--runtime", runtime, busybox, "lost")
    assert lost.code == 127
    assert 'exec: "lost": executable file not found in $PATH' in lost.err
    echo = pybuild.run("run", "-i", "--runtime", runtime, busybox, "cat", stdin=b"given\n")
    assert (echo.code, echo.out) == (0, "given\n")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_cancellation_ends_what_the_runtime_started(pybuild, busybox, runtime):
    """D23: nothing is left of a step whose builder was told to stop."""
    argument = f"31{time.time_ns() % 1_000_000}"
    child = pybuild.start("run", "--runtime", runtime, busybox, "sleep", argument)
    deadline = time.monotonic() + 20
    while not running(argument) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running(argument)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=20)
    assert not running(argument)


def running(argument):
    """Whether a process has sleep's argument."""
    done = subprocess.run(
        ["pgrep", "-x", "-f", f"sleep {argument}"], capture_output=True, check=False
    )
    return done.returncode == 0


def test_an_unknown_runtime_is_the_hosts_fault(pybuild, busybox):
    """Exit 3 and what to install."""
    result = pybuild.run("run", "--runtime", "nosuch", busybox, "true")
    assert result.code == 3
    assert 'the OCI runtime "nosuch" is not installed' in result.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--runtime", "nosuch"), 'the OCI runtime "nosuch" is not installed'),
        (("--runtime", "/"), 'the OCI runtime "/" is not installed'),
        (
            ("--runtime", "/bin/true", "--sandbox", "single"),
            "--sandbox=single starts no OCI runtime",
        ),
        (("--network", "sandbox", "--sandbox", "emulate"), "--network=sandbox needs namespaces"),
    ],
)
def test_what_cannot_be_had_is_refused_though_no_step_would_need_it(pybuild, flags, said):
    """Not only by the first build that finds nothing in the cache: exit 3."""
    context = pybuild.context("nothing-runs", "FROM scratch\nCOPY Dockerfile /\n")
    result = pybuild.run(*flags, context)
    assert result.code == 3
    assert said in result.err


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_hosts_null_device_stays_whose_it_is(pybuild, busybox, name):
    """A runtime makes its standard streams its user's: never a device that all use (D13)."""
    before = Path("/dev/null").stat()
    text = f"FROM {busybox}\nUSER 1234:567\nRUN test ! -s /dev/stdin; read x || id\n"
    pybuild.good("--runtime", name, pybuild.context("null", text))
    after = Path("/dev/null").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (
        before.st_uid,
        before.st_gid,
        before.st_mode,
    )
