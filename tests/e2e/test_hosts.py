"""One Dockerfile and one command line, without a flag, wherever pybuild runs (F1-F5, F8-F10).

The layers are those of namespaces with a full range of ids, entry by entry.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from support import bases, peers
from support.environments import CANARY, ENVIRONMENTS, Host
from support.layout_files import Layout
from support.step_layers import CHANGES, members

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")

TOKEN = "var/run/secrets/kubernetes.io/serviceaccount/token"
# Sets security.capability to cap_net_bind_service=ep.
SETCAP = r"""
#include <sys/xattr.h>
int main(int count, char **words) {
    unsigned char right[20] = {1, 0, 0, 2, 0, 4};
    return count != 2 || setxattr(words[1], "security.capability", right, sizeof right, 0);
}
"""
EVERYTHING = (
    CHANGES
    + f"""\
USER root
ADD more.tar /
RUN --mount=type=secret,id=s test "$(cat /run/secrets/s)" = hidden && test ! -e /{TOKEN} \\
 && ! cat /proc/*/root/{TOKEN} /proc/*/root/vol/secret && ! grep -q {CANARY} /proc/*/environ
COPY setcap /bin/
RUN touch /able && setcap /able && mv /more/tall /more/taller
RUN sleep 1000 & kill -9 -1; echo alive > /alive; echo lost > /dev/null; test -c /dev/null
RUN i=0; while [ $i -lt 20 ]; do sleep 1000 & kill -9 $!; echo $i > /n || exit 9; i=$((i+1)); done
USER 65534
RUN id -u > /tmp/x
"""
)


@pytest.fixture
def host(user_pybuild):
    """Makes hosts on a file system of the machine's own, and removes what they left."""
    for directory in (user_pybuild.home, user_pybuild.home.parent):
        directory.chmod(0o755)
    made = []

    def make(environment):
        place = Path("/var/tmp", f"pybuild-host-{os.getpid()}-{len(made)}")
        made.append(place)
        return Host(environment, place, user_pybuild)

    yield make
    for place in made:
        peers.run("rm", "-rf", "--one-file-system", place)


def more_files(path):
    """A tar of what only root can make: devices, large ids, file capabilities."""
    with tarfile.open(path, "w") as tar:
        for name, kind, ids in (
            ("more", tarfile.DIRTYPE, (7, 8)),
            ("more/null", tarfile.CHRTYPE, (0, 0)),
            ("more/disk", tarfile.BLKTYPE, (0, 6)),
            ("more/tall", tarfile.REGTYPE, (60_000, 65_000)),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, (entry.uid, entry.gid), entry.mode = kind, ids, 0o754
            entry.devmajor, entry.devminor = (1, 3) if kind == tarfile.CHRTYPE else (7, 8)
            tar.addfile(entry, io.BytesIO(b""))


@pytest.fixture(scope="module")
def context(workspace):
    """A context with all of it."""
    context = bases.busybox_context(workspace / "hosts")
    text = EVERYTHING.replace("FROM {base}\n", (context / "Dockerfile").read_text(), 1)
    (context / "Dockerfile").write_text(text)
    (context / "file").write_text("from context\n")
    (context / "secret").write_text("hidden")
    (context / "setcap.c").write_text(SETCAP)
    peers.run("gcc", "-static", "-Os", "-s", "-o", context / "setcap", context / "setcap.c")
    more_files(context / "more.tar")
    return context


@pytest.fixture(scope="module")
def expected(root_pybuild, workspace, context):
    """The layers with namespaces."""
    output = workspace / "hosts-expected"
    flags = ("--sandbox", "userns", "--no-cache", "-o", f"type=oci,tar=false,dest={output}")
    root_pybuild.good(*flags, "--secret", f"id=s,src={context / 'secret'}", context)
    return members(output)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_builds_the_same_layers_everywhere(name, host, context, expected):
    """What a host refuses is made up for; doctor says how (F1, F2, F4, F5, F8, F9, F10)."""
    environment = ENVIRONMENTS[name]
    here = host(environment)
    seen = here.add(context)
    secret = f"id=s,src={seen / 'secret'}"
    here.good("--secret", secret, "-o", f"type=oci,tar=false,dest={here.seen / 'out'}", seen)
    output = here.home / "out"
    assert Layout(output).config["config"]["User"] == "65534"
    layers = members(output)
    assert len(layers) == len(expected)
    for number, layer in enumerate(layers):
        assert layer == expected[number], f"layer {number}"
    check_diagnosis(here)
    here.good("prune", "--all")
    assert left(here) == []


def check_diagnosis(here):
    """Doctor names the tier, and what would give a better one."""
    diagnosis = json.loads(here.good("doctor", "--json").stdout)
    assert diagnosis["tier"] == here.environment.tier
    if diagnosis["tier"] != "userns":
        refused = next(f for f in diagnosis["findings"] if f["name"] == "sandbox userns")
        assert not refused["works"]
        assert refused["hint"]


def left(here):
    """Trees of steps in a state directory."""
    found = []
    for kind in ("plain", "snapshots"):
        directory = here.home / "state" / kind
        found += os.listdir(directory) if directory.exists() else []
    return found
