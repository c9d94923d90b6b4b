"""Where state lies in pods: a container's own file system, volumes, nothing at all (D, F7)."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support import bases, peers
from support.environments import SOMEBODY
from support.pods import Pod, Volume
from support.step_layers import CHANGES, members

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")

EMPTY = Volume("", "/data")
OWN = {"PYBUILD_ROOT": "/state"}  # on the container's own file system
OWN_TMP = {"PYBUILD_ROOT": "/var/tmp/state"}  # there, where everybody may write
# The context's volume is no place for state: it holds what is being built.
BUILD = "type=oci,tar=false,dest=/vol/out"


@pytest.fixture(scope="module")
def context(workspace):
    """Steps that change everything a layer can hold."""
    context = bases.busybox_context(workspace / "places")
    text = CHANGES.replace("FROM {base}\n", (context / "Dockerfile").read_text(), 1)
    (context / "Dockerfile").write_text(text)
    (context / "file").write_text("from context\n")
    return context


@pytest.fixture(scope="module")
def expected(root_pybuild, workspace, context):
    """The layers of a state directory on a disk."""
    output = workspace / "places-expected"
    root_pybuild.good("--sandbox", "userns", "-o", f"type=oci,tar=false,dest={output}", context)
    return members(output)


@pytest.fixture
def home(context):
    """A directory of this machine that is mounted at /vol, with the context."""
    place = Path("/var/tmp", f"pybuild-places-{os.getpid()}")
    place.mkdir()
    place.chmod(0o777)
    peers.run("cp", "-r", context, place / "context")
    yield place
    peers.run("rm", "-rf", "--one-file-system", place)


@pytest.fixture
def start(user_pybuild, home):
    """Run a shell script in a pod where $pybuild is pybuild."""
    for directory in (user_pybuild.home, user_pybuild.home.parent):
        directory.chmod(0o755)

    def run(pod, script):
        volumes = (Volume(user_pybuild.path, "/opt/pybuild", ("ro",)), Volume(home, "/vol"))
        env = {
            "PYTHONPATH": "/opt/pybuild",
            "PYTHONDONTWRITEBYTECODE": "1",
            "pybuild": f"{user_pybuild.python} -P -m builder",
        }
        pod = replace(pod, volumes=(*volumes, *pod.volumes), env=env | pod.env)
        return pod.run("sh", "-ec", script)

    return run


@pytest.mark.parametrize(
    ("pod", "tier", "says"),
    [
        (Pod(env=OWN), "userns", "emptyDir"),
        (Pod(env=OWN, user_namespace=True), "userns", "emptyDir"),
        (Pod(env=OWN, volumes=(EMPTY,)), "userns", ""),
        (Pod(env=OWN, apparmor=True), "chroot", ""),
        (Pod(env={"PYBUILD_ROOT": "/data/s"}, volumes=(EMPTY,)), "userns", ""),
        (Pod(volumes=(EMPTY,), read_only=True), "userns", ""),
        (Pod(volumes=(EMPTY,), env={"HOME": "/root"}, read_only=True), "userns", ""),
        (Pod(uid=SOMEBODY, volumes=(EMPTY,), read_only=True, no_new_privileges=True), "single", ""),
        (Pod(uid=SOMEBODY, no_new_privileges=True), "emulate", ""),
        (Pod(uid=SOMEBODY, env=OWN_TMP, volumes=(EMPTY,), no_new_privileges=True), "emulate", ""),
        (Pod(env=OWN, apparmor=True, no_new_privileges=True, capabilities=()), "emulate", ""),
    ],
    ids=[
        "own file system",
        "own file system, mapped ids",
        "own file system and a volume",
        "own file system, no mounts",
        "volume",
        "read-only, no home",
        "read-only home",
        "nobody's uid, read-only",
        "nobody's uid",
        "nobody's uid, own file system and a volume",
        "own file system, no rights",
    ],
)  # fmt: skip
def test_a_place_is_found_and_the_layers_are_the_same(pod, tier, says, start, home, expected):
    """With all ids no volume is needed: where memory stands in, one line says so (F7)."""
    done = start(
        pod,
        f"$pybuild -o {BUILD} /vol/context; $pybuild -q /vol/context >&2;"
        " $pybuild doctor --json; $pybuild prune --all >&2",
    )
    assert done.returncode == 0, done.stderr
    assert members(home / "out") == expected
    assert json.loads(done.stdout)["tier"] == tier
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert [says in line for line in warnings] == [True] * bool(says)


def test_a_volume_mounted_noexec_is_refused_where_programs_would_die(start):
    """Without namespaces programs of steps start from the state's own file system."""
    volume = Volume("", "/data", ("noexec",))
    pod = Pod(filtered=True, env={"PYBUILD_ROOT": "/data"}, volumes=(volume,))
    done = start(pod, "$pybuild /vol/context")
    assert done.returncode == 3
    assert "noexec" in done.stderr
    assert "pybuild doctor" in done.stderr.splitlines()[-1]


def test_what_a_killed_builder_left_on_a_volume_is_removed(start):
    """Its upper directories go with the next build; prune finds all else."""
    done = start(
        Pod(env=OWN, volumes=(EMPTY,)),
        "$pybuild -q -t base /vol/context >&2\n"
        "$pybuild run base sleep 60 & started=$!\n"
        'while [ -z "$(ls /data/pybuild-0 2>/dev/null)" ]; do sleep 0.1; done\n'
        "kill -9 $started; wait $started || true; ls /data/pybuild-0 | wc -l\n"
        "$pybuild run base true; ls /data/pybuild-0 | wc -l",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "0"]
