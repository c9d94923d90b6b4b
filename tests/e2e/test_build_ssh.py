"""A step signs with an agent of the user's, and has nothing of it but a socket."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
from support import peers

pytestmark = pytest.mark.skipif(not shutil.which("ssh-add"), reason="needs openssh")


def _with_libraries(program):
    """A program and the shared libraries it needs, by their paths in an image."""
    said = peers.run("ldd", program).stdout
    return [program, *re.findall(r"(/\S+) \(0x", said)]


def _context(pybuild, busybox, run):
    program = shutil.which("ssh-add")
    names = {path: os.path.basename(path) for path in _with_libraries(program)}
    places = {path: "/bin/ssh-add" if path == program else path for path in names}
    copies = "".join(f"COPY {name} {places[path]}\n" for path, name in names.items())
    context = pybuild.context(
        "ssh",
        f"FROM {busybox}\n{copies}RUN --mount=type=ssh {run}\nRUN ls /run/buildkit /run 2>&1 | cat > /after\n",
    )
    for path, name in names.items():
        shutil.copy(path, context / name)
    pybuild.own(context)
    return context


def _key(pybuild):
    key = pybuild.home / "key"
    key.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    pybuild.own(pybuild.home)
    return key


def test_step_lists_keys_of_a_file(pybuild, busybox):
    """Keys given as files can be used by a step, and are in no layer (M14)."""
    key = _key(pybuild)
    run = "ssh-add -L > /keys && (ssh-add -D; echo $?) > /removed 2>&1 && ls -ln $SSH_AUTH_SOCK | cut -c1-10 > /mode"
    context = _context(pybuild, busybox, run)
    pybuild.good("--ssh", f"default={key}", "-o", "out", context)
    out = pybuild.home / "out"
    public = key.with_suffix(".pub").read_text().split()[1]
    assert (out / "keys").read_text().split()[1] == public
    assert (out / "mode").read_text() == "srw-------\n"
    assert (out / "removed").read_text().endswith("1\n")
    assert "buildkit" not in (out / "after").read_text().replace("ls: /run/buildkit", "")
    line = key.read_text().splitlines()[2]
    assert peers.run("grep", "-rl", line, pybuild.state, check=False).stdout == ""


@pytest.mark.parametrize("sandbox", ["single", "chroot", "emulate"])
def test_an_agent_is_reached_in_every_sandbox(pybuild, busybox, sandbox):
    """M14: the socket is connected to where nothing can be mounted, too, by root and by others."""
    if sandbox == "chroot" and pybuild.uid:
        return  # only root may change its root
    key = _key(pybuild)
    run = "ssh-add -L > /keys && test -S $SSH_AUTH_SOCK"
    context = _context(pybuild, busybox, run)
    out = pybuild.home / f"out-{sandbox}"
    pybuild.good("--no-cache", "--sandbox", sandbox, "--ssh", f"default={key}", "-o", out, context)
    assert (out / "keys").read_text().split()[1] == key.with_suffix(".pub").read_text().split()[1]


def test_ids_are_keys_of_the_cache_and_keys_are_not(pybuild, busybox):
    """Another key does not run a step again; no agent at all fails one that requires it (K11)."""
    context = _context(pybuild, busybox, "ssh-add -L | cut -d' ' -f1 > /kind")
    pybuild.good("--ssh", f"default={_key(pybuild)}", context)
    done = pybuild.good("--ssh", f"default={_key(pybuild)}", context)
    assert any("ssh-add" in name for name in done.ending("CACHED"))
    required = pybuild.context("required", f"FROM {busybox}\nRUN --mount=type=ssh,required true\n")
    done = pybuild.run(required)
    assert (done.code, "give it with --ssh default" in done.err) == (1, True)
