"""Who does what doctor says gets the sandbox it promises, in pods (issue "Everywhere")."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace

import pytest
from support.environments import ENVIRONMENTS
from support.pods import Volume

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")


def advised(pod, setting):
    """A pod with the security context that a piece of YAML asks for; what it has besides stays."""
    added = re.search(r"capabilities: \{add: \[(.*?)\]\}", setting, re.DOTALL)
    names = re.findall("[A-Z_]+", added[1]) if added else []
    changes = {"capabilities": (*pod.capabilities, *(f"CAP_{name}" for name in names))}
    if "runAsUser: 0" in setting:
        changes |= {"uid": 0, "gid": 0}
    if "hostUsers: false" in setting:
        changes["user_namespace"] = True
    if "seccompProfile: {type: Unconfined}" in setting:
        changes["filtered"] = False
    if "appArmorProfile: {type: Unconfined}" in setting:
        changes["apparmor"] = False
    return replace(pod, **changes)


@pytest.fixture
def diagnosis(user_pybuild):
    """What doctor says in a pod with a volume for the state."""
    for directory in (user_pybuild.home, user_pybuild.home.parent):
        directory.chmod(0o755)
    volumes = (Volume(user_pybuild.path, "/opt/pybuild", ("ro",)), Volume("", "/data"))

    def ask(pod, state="/data/state"):
        env = {"PYTHONPATH": "/opt/pybuild", "PYBUILD_ROOT": state}
        pod = replace(pod, volumes=volumes, env=env)
        return json.loads(pod.good(user_pybuild.python, "-P", "-m", "builder", "doctor", "--json"))

    return ask


@pytest.mark.parametrize("name", ["3", "3k+aa", "4", "4u", "5n", "5r", "6", "6n"])
def test_the_first_remedy_unlocks_the_best_sandbox(name, diagnosis):
    """The YAML is complete: capabilities that were dropped are asked for again."""
    pod = ENVIRONMENTS[name].pod
    before = diagnosis(pod)
    assert before["tier"] != "userns"
    assert before["remedies"][0]["tier"] == "userns"
    after = diagnosis(advised(pod, before["remedies"][0]["setting"]))
    assert after["tier"] == "userns"
    assert after["remedies"] == []


def test_a_pod_with_one_id_is_told_to_mount_a_volume(diagnosis):
    """Owners are recorded on a disk only: without a volume such steps are emulated."""
    pod = ENVIRONMENTS["6n"].pod
    found = diagnosis(pod, state="/var/tmp/state")
    assert found["tier"] == "emulate"
    (remedy,) = [row for row in found["remedies"] if row["tier"] == "single"]
    assert "emptyDir" in remedy["setting"]
    assert diagnosis(pod)["tier"] == "single"


@pytest.mark.parametrize("name", ["4", "4u", "6n"])
def test_a_pod_that_must_keep_its_filter_can_have_root(name, diagnosis):
    """Where namespaces stay forbidden, root with a container's usual rights is the next best."""
    pod = replace(ENVIRONMENTS[name].pod, filtered=True)
    (remedy,) = [row for row in diagnosis(pod)["remedies"] if row["tier"] == "chroot"]
    assert diagnosis(advised(pod, remedy["setting"]))["tier"] == "chroot"
