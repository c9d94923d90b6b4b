"""OCI runtimes and their bundles where they can work, and what is said where not (issue 4)."""

from __future__ import annotations

import json
import os

import pytest
from support import bases
from support.environments import ENVIRONMENTS
from support.step_layers import CHANGES, members

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")

ABLE = [name for name, place in ENVIRONMENTS.items() if place.starts_runtimes]


@pytest.fixture(scope="module")
def context(workspace):
    """Steps that change everything a layer can hold."""
    context = bases.busybox_context(workspace / "runtimes")
    text = CHANGES.replace("FROM {base}\n", (context / "Dockerfile").read_text(), 1)
    (context / "Dockerfile").write_text(text)
    (context / "file").write_text("from context\n")
    return context


@pytest.fixture(scope="module")
def expected(root_pybuild, workspace, context):
    """The layers of our own sandbox."""
    output = workspace / "runtimes-expected"
    root_pybuild.good("--sandbox", "userns", "-o", f"type=oci,tar=false,dest={output}", context)
    return members(output)


@pytest.mark.parametrize("runtime", ["runc", "crun"])
@pytest.mark.parametrize("name", ABLE)
def test_steps_run_in_a_runtime(name, runtime, host, context, expected):
    """The same layers, from within containers, too."""
    here = host(ENVIRONMENTS[name])
    output = f"type=oci,tar=false,dest={here.seen / 'out'}"
    here.good("--runtime", runtime, "-o", output, here.add(context))
    assert members(here.home / "out") == expected


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("2a", "--add-subuids"),
        ("3", "seccomp"),
        ("3k", "procMount: Unmasked"),
        ("3k+aa", "appArmorProfile: {type: Unconfined}"),
        ("4", "seccomp"),
        ("5", "procMount: Unmasked"),
        ("6", "setcap cap_setuid+ep"),
    ],
)
def test_where_none_can_start_the_way_out_is_named(name, says, host, context):
    """Exit 3 with what stands in the way, not a runtime's own complaint."""
    here = host(ENVIRONMENTS[name])
    done = here.run("--runtime", "runc", here.add(context))
    assert done.returncode == 3
    message, hint = done.stderr.splitlines()[-2:]
    assert message.startswith(("pybuild: error: --runtime", "pybuild: error: an OCI runtime"))
    assert says in hint
    assert "pybuild doctor" in hint


@pytest.mark.parametrize(
    ("name", "owner", "extents"),
    [
        ("3k", (33, 44), []),
        ("4", (1000, 1000), [(0, 1000, 1)]),
        ("4u", (0, 0), [(0, 0, 1)]),  # volumes are mapped: what the pod's root owns is root's
        ("5", (33, 44), []),
        ("6+fc", (100_032, 100_043), [(0, 1000, 1), (1, 100_000, 65536)]),
    ],
)
def test_bundles_are_written_with_the_owners_that_can_be_had(name, owner, extents, host, context):
    """All owners by root or by a map; where there is one id, everything is that one's."""
    here = host(ENVIRONMENTS[name])
    here.good("-t", "x", "--sandbox", "auto", here.add(context))
    said = here.good("bundle", "x", here.seen / "bundle", "/bin/sh").stderr
    status = (here.home / "bundle/rootfs/copy/a").stat()
    assert (status.st_uid, status.st_gid) == owner
    linux = json.loads((here.home / "bundle/config.json").read_text())["linux"]
    found = [tuple(row.values()) for row in linux.get("uidMappings", [])]
    assert found == extents
    assert ("every file is made yours" in said) == (len(extents) == 1)
