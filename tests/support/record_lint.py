"""Record what a running buildctl says of the files of testdata/lint: warnings, outline, targets.

    python record_lint.py --address unix:///run/buildkit.sock --cases testdata/lint [CASE...]

Nothing is built; the files name no image that would have to be fetched, or expect its absence.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

from support import peers

_WARNING = re.compile(
    r"^WARNING: (?P<rule>\w+)(?: - \S+)?\n(?P<detail>.*)\n(?:\S+:(?P<line>\d+)\n-+\n"
    r"(?P<excerpt>(?: *\d+ \|.*\n)*)-+\n)?",
    re.MULTILINE,
)
_MARKED = re.compile(r"^ *(\d+) \| >>>", re.MULTILINE)
_CHECK = re.compile(r"^#.*check *=", re.MULTILINE | re.IGNORECASE)
_ERROR = re.compile(r"^error: (?:failed to solve: )?(.*)", re.MULTILINE)
_PLACE = re.compile(r"^Dockerfile:(\d+)$", re.MULTILINE)


def warnings(text):
    """Read the text of a lint result: rule, detail, first and last line of each."""
    found = []
    for match in _WARNING.finditer(text):
        marked = [int(number) for number in _MARKED.findall(match["excerpt"] or "")]
        found.append([match["rule"], match["detail"], *(marked[:1] + marked[-1:] or [0, 0])])
    return found


def request(address, context, options, kind):
    """Make one request; gives what came on standard output and standard error."""
    words = ["buildctl", "--addr", address, "build", "--progress=plain", "--frontend"]
    words += ["dockerfile.v0", "--local", f"context={context}", "--local", f"dockerfile={context}"]
    given = {f"build-arg:{k}": v for k, v in options.get("build_args", {}).items()}
    given |= {"target": options["target"]} if "target" in options else {}
    for key, value in {**given, "requestid": f"frontend.{kind}"}.items():
        words += ["--opt", f"{key}={value}"]
    done = peers.run(*words, check=False)
    if "failed to list workers" in done.stderr:
        raise ConnectionError(done.stderr)
    return done


def record(address, case, context):
    """Ask about one case; gives what belongs into its expected.json."""
    options = {}
    if (case / "options.json").exists():
        options = json.loads((case / "options.json").read_text())
    shutil.copy(case / "Dockerfile", context)
    (context / ".dockerignore").write_text(options.get("ignore", ""))
    result = {"warnings": warnings(request(address, context, options, "lint").stdout)}
    # Asked for targets, the daemon ends at a comment that chooses checks.
    has_check = _CHECK.search((case / "Dockerfile").read_text().partition("FROM")[2])
    for kind in ("outline",) if has_check else ("outline", "targets"):
        done = request(address, context, options, kind)
        result[kind] = done.stdout
        if done.returncode:
            message, place = _ERROR.search(done.stderr), _PLACE.findall(done.stderr)
            result[kind] = None
            result["error"] = [message[1], int(place[-1]) if place else 0]
    return result


def main():
    """Record all cases, or those named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for case in sorted(arguments.cases.iterdir()):
            if arguments.names and case.name not in arguments.names:
                continue
            result = record(arguments.address, case, Path(directory))
            shown = json.dumps(result, indent=1, ensure_ascii=False, sort_keys=True)
            (case / "expected.json").write_text(shown + "\n")


if __name__ == "__main__":
    main()
