"""Measures pybuild beside the builders this machine has: `make bench`, or run.py --help."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import contexts
import registry
import workloads
from measure import FailedError, run
from peers import Peer, Pybuild, Request, available
from report import Row, table
from turns import Bench

# Podman does its builds with buildah's code, so it is measured only when asked for.
PEERS = ("buildah", "buildkit", "kaniko", "docker", "ch-image")


def main() -> int:
    """Measure, print the table, write the JSON; 1 if a target is missed, 3 if nothing can run."""
    chosen = _options()
    load = os.getloadavg()
    # Ending this program ends the daemons it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    where = tempfile.mkdtemp(prefix="pybuild-bench-", dir=chosen.dir)
    work = Path(where)
    try:
        return _report(chosen, load, *_measure(chosen, work))
    except FailedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 3
    finally:
        if not chosen.keep:
            _remove(work)


def _report(
    chosen: argparse.Namespace,
    load: tuple[float, float, float],
    peers: list[Peer],
    rows: list[Row],
    failures: dict[str, str],
) -> int:
    facts = _facts(peers, load, failures)
    print(_heading(facts) + "\n" + table(rows), flush=True)
    if chosen.json:
        text = json.dumps({**facts, "rows": [row.as_json() for row in rows]}, indent=1)
        Path(chosen.json).write_text(text + "\n")
    for name, message in failures.items():
        print(f"\nFailed: {name}: {message.strip().splitlines()[-1]}", flush=True)
    ours_failed = any(name.endswith(" pybuild") for name in failures)
    return 1 if ours_failed or any(row.met() is False for row in rows) else 0


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5, help="turns of every tool (5)")
    options.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}, podman")
    options.add_argument("--only", default=",".join(workloads.ALL), help="workloads")
    options.add_argument("--debian", help="a directory with root.tar and, for W12, debs/*.deb")
    options.add_argument("--json", help="write every value there")
    options.add_argument("--dir", default="/var/tmp", help="disk to work on (/var/tmp)")
    options.add_argument("--keep", action="store_true", help="leave the working directory")
    chosen = options.parse_args()
    unknown = set(chosen.only.split(",")) - set(workloads.ALL)
    if unknown:
        options.error(f"no such workload: {', '.join(sorted(unknown))}")
    return chosen


def _measure(
    chosen: argparse.Namespace, work: Path
) -> tuple[list[Peer], list[Row], dict[str, str]]:
    rows: list[Row] = []
    names = tuple(chosen.peers.split(","))
    with registry.serving(work) as host, available(names, work, host) as peers:
        wanted = chosen.only.split(",")
        debian = Path(chosen.debian) if chosen.debian else None
        images = _publish(peers[0], host, work, wanted, debian)
        debs = debian / "debs" if debian and (debian / "debs").is_dir() else None
        bench = Bench(work, peers, images, chosen.rounds, debs)
        print(f"  measuring {', '.join(p.name for p in peers)}", file=sys.stderr)
        for name in wanted:
            rows += workloads.ALL[name](bench)
            print(table(rows), file=sys.stderr, flush=True)
    return peers, rows, bench.failures


def _publish(
    ours: Peer, host: str, work: Path, wanted: list[str], debian: Path | None
) -> dict[str, str]:
    """Push the base images that the workloads need to the registry; their names."""
    assert isinstance(ours, Pybuild)
    log = work / "base.log"
    images: dict[str, str] = {}

    def made(name: str, context: Path) -> None:
        images[name] = f"{host}/bench/{name}:1"
        run(ours.job(Request(context, images[name])), log)
        run(ours.publish(images[name]), log)

    made("base", contexts.base(work / "base"))
    if debian and {"W6", "W12"} & set(wanted):
        place = contexts.over(work / "debian", "scratch", "ADD root.tar /")
        shutil.copy(debian / "root.tar", place / "root.tar")
        made("debian", place)
        images["large"] = images["debian"]
    elif "W6" in wanted:
        place = contexts.copying(work / "large", images["base"], "large")
        line = "RUN dd if=/dev/urandom of=/random bs=1M count=140 2>/dev/null"
        with (place / "Dockerfile").open("a") as file:
            file.write(line + "\n")
        made("large", place)
    if {"W8", "W10"} & set(wanted):
        made("tree", contexts.copying(work / "tree", images["base"], "tree"))
    return images


def _facts(
    peers: list[Peer], load: tuple[float, float, float], failures: dict[str, str]
) -> dict[str, Any]:
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "user": "root" if os.geteuid() == 0 else "ordinary user",
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "load_before": [round(x, 2) for x in load],
        "load_after": [round(x, 2) for x in os.getloadavg()],
        "tools": {peer.name: peer.version for peer in peers},
        "failures": failures,
    }


def _heading(facts: dict[str, Any]) -> str:
    tools = "; ".join(f"{name} ({version})" for name, version in facts["tools"].items())
    return (
        f"{facts['date']}, {facts['user']}, {facts['processors']} processors, "
        f"Linux {facts['kernel']}, load {facts['load_before'][0]} before and "
        f"{facts['load_after'][0]} after.\n{tools}.\n"
        "Medians; in brackets the median over rounds of the ratio to pybuild.\n"
    )


def _remove(work: Path) -> None:
    # What an ordinary user's builds left belongs to subordinate ids: only they may remove it.
    command = ["rm", "-rf", "--one-file-system", str(work)]
    if os.geteuid() != 0:
        command[0:0] = ["unshare", "--user", "--map-root-user", "--map-auto"]
    subprocess.run(command, check=False)


if __name__ == "__main__":
    sys.exit(main())
