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
    added = re.search(r"capabilities: \{add: \[(.*?)\]\}", setting)
    names = added[1].split(", ") if added else []
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


@pytest.mark.parametrize("name", ["3", "3k+aa", "4", "4u", "5n", "5r", "6", "6n"])
def test_the_first_remedy_unlocks_the_best_sandbox(name, user_pybuild):
    """The YAML is complete: capabilities that were dropped are asked for again."""
    for directory in (user_pybuild.home, user_pybuild.home.parent):
        directory.chmod(0o755)
    env = {"PYTHONPATH": "/opt/pybuild", "PYBUILD_ROOT": "/data/state"}
    volumes = (Volume(user_pybuild.path, "/opt/pybuild", ("ro",)), Volume("", "/data"))
    pod = replace(ENVIRONMENTS[name].pod, volumes=volumes, env=env)

    def diagnosis(pod):
        return json.loads(pod.good(user_pybuild.python, "-P", "-m", "builder", "doctor", "--json"))

    before = diagnosis(pod)
    assert before["tier"] != "userns"
    assert before["remedies"][0]["tier"] == "userns"
    after = diagnosis(advised(pod, before["remedies"][0]["setting"]))
    assert after["tier"] == "userns"
    assert after["remedies"] == []
