"""One Dockerfile and one command line on hosts that allow less and less (F1, F2, F9, F10).

The layers are those of namespaces with a full range of ids, entry by entry.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import bases, peers
from support.layout_files import Layout
from support.step_layers import CHANGES, members

from builder.sandbox.process import CAPABILITIES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")

SOMEBODY = 1_000_660_000 % 2**31  # a uid as clusters give out: no account, no subordinate ids
HOSTS = {
    "a user without subordinate ids": {"uid": SOMEBODY},
    "no new privileges": {"uid": SOMEBODY, "no_new_privileges": True},
    "user namespaces refused": {"uid": SOMEBODY, "filter": "namespaces"},
    "user namespaces refused by AppArmor": {"uid": SOMEBODY, "filter": "apparmor"},
    "a container's root": {"filter": "default", "capabilities": CAPABILITIES},
    "a restricted pod": {"uid": SOMEBODY, "filter": "default", "no_new_privileges": True},
}
CONFINED = Path(__file__).resolve().parents[1] / "support" / "confined.py"


class Host:
    """Pybuild where a host's settings hold, with nothing in its environment but a state directory."""

    def __init__(self, settings, home, pybuild):
        self.settings = settings
        self.home = home
        self.pybuild = pybuild
        home.mkdir()
        home.chmod(0o777)

    def good(self, *arguments):
        """Run to the end and require success; gives the output."""
        command = [sys.executable, "-P", CONFINED, json.dumps(self.settings)]
        command += [self.pybuild.python, "-P", "-m", "builder", *arguments]
        done = subprocess.run(
            command,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": self.pybuild.path,
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYBUILD_ROOT": str(self.home / "state"),
            },
            cwd="/",
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def host(user_pybuild):
    """Makes hosts on a file system of the machine's own, and removes what they left."""
    for directory in (user_pybuild.home, user_pybuild.home.parent):
        directory.chmod(0o755)
    made = []

    def make(name):
        place = Path("/var/tmp", f"pybuild-host-{os.getpid()}-{len(made)}")
        made.append(place)
        return Host(HOSTS[name], place, user_pybuild)

    yield make
    for place in made:
        peers.run("rm", "-rf", "--one-file-system", place)


@pytest.fixture(scope="module")
def expected(root_pybuild, workspace):
    """The layers with namespaces, and the context they were built from."""
    context = workspace / "hosts"
    bases.busybox_context(context)
    text = CHANGES.replace("FROM {base}\n", (context / "Dockerfile").read_text(), 1)
    (context / "Dockerfile").write_text(text)
    (context / "file").write_text("from context\n")
    output = workspace / "hosts-expected"
    flags = ("--sandbox", "userns", "--no-cache", "-o", f"type=oci,tar=false,dest={output}")
    root_pybuild.good(*flags, context)
    return context, members(output)


@pytest.mark.parametrize("name", HOSTS)
def test_builds_the_same_layers_everywhere(name, host, expected):
    """No flag; what the host refuses is made up for, and doctor says how."""
    context, layers = expected
    here = host(name)
    output = here.home / "out"
    copied = shutil.copytree(context, here.home / "context")  # pytest's directories are closed
    here.good("-o", f"type=oci,tar=false,dest={output}", copied)
    assert Layout(output).config["config"]["User"] == "1234:567"
    assert members(output) == layers
    diagnosis = json.loads(here.good("doctor", "--json"))
    assert diagnosis["tier"] == "emulate"
    refused = next(f for f in diagnosis["findings"] if f["name"] == "sandbox userns")
    assert not refused["works"]
    assert refused["hint"]
    here.good("prune")
    assert os.listdir(here.home / "state" / "plain") != []
    here.good("prune", "--all")
    assert os.listdir(here.home / "state" / "plain") == []
