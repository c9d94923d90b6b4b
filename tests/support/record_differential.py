"""Record what a running buildctl makes of the cases of testdata/differential.

    python record_differential.py --address unix:///run/buildkit.sock --registry 127.0.0.1:5000 [CASE...]

The daemon must reach the registry over plain http. Cases with several builds prune its cache first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from support import differential, peers
from support.differential_bases import push_bases

CASES = Path(__file__).resolve().parents[2] / "testdata" / "differential"


def _command(address, context, options, output, secrets):
    file = options.get("file", "Dockerfile")
    frontend = {"filename": file}
    if "target" in options:
        frontend["target"] = options["target"]
    frontend |= {f"build-arg:{k}": v for k, v in options.get("build_args", {}).items()}
    frontend |= {f"label:{k}": v for k, v in options.get("labels", {}).items()}
    if "add_hosts" in options:
        frontend["add-hosts"] = ",".join(f"{k}={v}" for k, v in options["add_hosts"].items())
    if "shm_size" in options:
        frontend["shm-size"] = str(options["shm_size"])
    if "ulimits" in options:
        frontend["ulimit"] = ",".join(f"{k}={v}" for k, v in options["ulimits"].items())
    if "network" in options:
        frontend["force-network-mode"] = options["network"]
    words = ["buildctl", "--addr", address, "build", "--progress=plain"]
    words += ["--frontend", "dockerfile.v0", "--local", f"context={context}"]
    words += ["--local", f"dockerfile={context}", "--output", f"type=oci,dest={output}"]
    words += ["--no-cache"] if options.get("no_cache") else []
    for key, value in frontend.items():
        words += ["--opt", f"{key}={value}"]
    for key, value in options.get("secrets", {}).items():
        path = secrets / key
        path.write_text(value)
        words += ["--secret", f"id={key},src={path}"]
    for entitlement in options.get("allow", []):
        words += ["--allow", entitlement]
    for key in options.get("ssh", []):
        words += ["--ssh", f"{key}={differential.agent_socket(secrets)}"]
    return words


def record(address, names, case, work):
    """Build a case; gives what belongs into its expected.json."""
    text = (case / "Dockerfile").read_bytes().decode()
    description = json.loads((case / "case.json").read_text())
    many = "then" in description
    if many:
        peers.run("buildctl", "--addr", address, "prune", "--all")
    results = []
    output = work / "image.tar"
    for options in differential.builds(work / "context", names, text, description):
        output.unlink(missing_ok=True)
        command = _command(address, work / "context", options, output, work)
        done = peers.run(*command, check=False)
        results.append(differential.result(done.returncode, done.stderr, output, names, steps=many))
    return results


def main():
    """Record all cases, or those named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        names = push_bases(Path(directory) / "bases", arguments.registry)
        for case in sorted(arguments.cases.iterdir()):
            if arguments.names and case.name not in arguments.names:
                continue
            work = Path(directory) / case.name
            work.mkdir()
            results = record(arguments.address, names, case, work)
            shown = json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True)
            (case / "expected.json").write_text(shown + "\n")
            sys.stdout.write(f"{case.name}\n")


if __name__ == "__main__":
    main()
