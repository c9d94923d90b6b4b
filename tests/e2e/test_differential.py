"""What pybuild makes of many Dockerfiles, compared with what was recorded from the reference.

Where the results differ on purpose a case says where and why.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from support import differential
from support.differential_bases import push_bases

CASES = Path(__file__).resolve().parents[2] / "testdata" / "differential"
NAMES = sorted(path.name for path in CASES.iterdir())

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="contexts have owners and sockets")


@pytest.fixture(scope="module")
def bases(workspace, registry):
    """What stands for each base image in a Dockerfile."""
    return push_bases(workspace / "differential", registry.host)


def _arguments(context, options, output, secrets):
    words = ["--progress=plain", "-o", f"type=oci,dest={output}"]
    if options.get("file", "dockerfile") != "dockerfile":
        words += ["-f", context / options["file"]]
    if "target" in options:
        words += ["--target", options["target"]]
    for name, value in options.get("build_args", {}).items():
        words += ["--build-arg", f"{name}={value}"]
    for name, value in options.get("labels", {}).items():
        words += ["--label", f"{name}={value}"]
    for name, value in options.get("add_hosts", {}).items():
        words += ["--add-host", f"{name}:{value}"]
    for name, value in options.get("secrets", {}).items():
        (secrets / name).write_text(value)
        words += ["--secret", f"id={name},src={secrets / name}"]
    words += ["--no-cache"] if options.get("no_cache") else []
    return [*words, *_of_steps(options, secrets), context]


def _of_steps(options, secrets):
    words = []
    if "shm_size" in options:
        words += ["--shm-size", str(options["shm_size"])]
    for name, value in options.get("ulimits", {}).items():
        words += ["--ulimit", f"{name}={value}"]
    if "network" in options:
        words += ["--network", options["network"]]
    for entitlement in options.get("allow", []):
        words += ["--allow", entitlement]
    for name in options.get("ssh", []):
        words += ["--ssh", f"{name}={differential.agent_socket(secrets)}"]
    return words


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_reference(name, bases, root_pybuild, tmp_path):
    """The tree, the config, the failing line and what was cached are the reference's."""
    case = CASES / name
    description = json.loads((case / "case.json").read_text())
    dockerfile = (case / "Dockerfile").read_bytes().decode()
    repeated = "then" in description
    builder = root_pybuild.with_state(f"differential-{name}" if repeated else "differential")
    results = []
    output = tmp_path / "image.tar"
    for options in differential.builds(tmp_path / "context", bases, dockerfile, description):
        output.unlink(missing_ok=True)
        done = builder.run(*_arguments(tmp_path / "context", options, output, tmp_path))
        results.append(differential.result(done.code, done.err, output, bases, steps=repeated))
    expected = json.loads((case / "expected.json").read_text())
    differing = list(differential.differences(expected, results))
    assert differing == description.get("differs", {}).get("at", []), done.err


def test_cases_are_well_formed():
    """Every case has its three files, and a reason for each difference."""
    for name in NAMES:
        files = sorted(path.name for path in (CASES / name).iterdir())
        assert files == ["Dockerfile", "case.json", "expected.json"]
        differs = json.loads((CASES / name / "case.json").read_text()).get("differs")
        assert differs is None or (differs["why"] and differs["at"])
        assert re.fullmatch(r"[a-z0-9-]+", name)
