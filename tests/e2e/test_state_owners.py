"""State on a file system that knows one owner, as some network file systems are mounted (D)."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from builder.sandbox import syscalls
from builder.sandbox.host import Tier
from builder.sandbox.trial import try_tier

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")

_IDMAP = 0x100000  # MOUNT_ATTR_IDMAP
REPOSITORY = Path(__file__).resolve().parents[2]


def one_owner():
    """A user namespace in which root is the only one; no process stays in it."""
    ready, made = os.pipe()
    child = os.fork()
    if child == 0:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(made, b".")
        signal.pause()
    os.read(ready, 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{child}/{name}").write_text("0 0 1")
    namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(made)
    return namespace


@pytest.fixture
def place(tmp_path):
    """A directory where files are root's or cannot be."""
    syscalls.mount("tmpfs", str(tmp_path), "tmpfs", 0, "")
    namespace = one_owner()
    tree = syscalls.clone_tree(-100, str(tmp_path))
    value = struct.pack("=QQQQ", _IDMAP, 0, 0, namespace)
    flags = syscalls.AT_EMPTY_PATH
    syscalls._call("map", syscalls._MOUNT_SETATTR, tree, b"", flags, value, len(value))
    target = os.open(tmp_path, os.O_PATH)
    syscalls.attach(tree, target)
    for fd in (target, tree, namespace):
        os.close(fd)
    yield tmp_path
    syscalls.umount(str(tmp_path))
    syscalls.umount(str(tmp_path))


def test_namespaces_would_find_no_owners_there(place):
    """Said with what to do; emulation records owners and needs none."""
    with pytest.raises(OSError, match=r"too large|Invalid"):
        os.chown(place, 1234, 1234)
    refused = try_tier(Tier.USERNS, str(place))
    assert not refused.works
    assert "owners cannot be changed in the state directory" in refused.reason
    assert "PYBUILD_ROOT" in refused.hint
    assert try_tier(Tier.EMULATE, str(place)).works


def test_a_build_goes_on_emulated(place, tmp_path_factory):
    """Nothing is asked of the file system that it cannot do."""
    context = tmp_path_factory.mktemp("context")
    busybox = subprocess.run(["which", "busybox"], capture_output=True, text=True, check=True)
    (context / "busybox").write_bytes(Path(busybox.stdout.strip()).read_bytes())
    (context / "busybox").chmod(0o755)
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY --chown=7:8 busybox /busybox\n"
        'RUN ["/busybox", "sh", "-c", "/busybox chown 5:6 /busybox && /busybox touch /file"]\n'
    )
    command = [sys.executable, "-P", "-m", "builder", "--root", str(place / "state")]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*command, "-o", f"type=tar,dest={context}/out.tar", context],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    listing = subprocess.run(
        ["tar", "--numeric-owner", "-tvf", context / "out.tar"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {line.split()[-1]: line.split()[1] for line in listing.stdout.splitlines()}
    assert rows["busybox"] == "5/6"
    assert rows["file"] == "0/0"
