"""How pybuild's cost grows: context files, size of the base, records in the cache, layers.

    .venv/bin/python bench/growth.py --json bench/results/DATE-growth.json

Every point is the median of some rounds, in which the sizes take turns. plot.py draws the data.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import contexts
from measure import run
from peers import Pybuild, Request

from cache.database import Database
from cache.keys import CacheKey
from cache.records import Record, SqliteRecords
from cache.spec.digest import Digest
from cache.spec.oci import Descriptor, Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTEXT_FILES = (200, 2_000, 5_000, 10_000, 20_000)
BASE_FILES = (2_000, 20_000)
CHANGED = 200  # files of the base, one directory
RECORDS = (0, 100, 1_000, 10_000)
LAYERS = (10, 50, 100, 200)
BASE = "growth-base"


class Store:
    """One pybuild with a state directory of its own, cold at first."""

    def __init__(self, work: Path, name: str) -> None:
        """Make the base image there."""
        self.work = work / name
        self.work.mkdir()
        self._log = self.work / "log"
        self._pybuild = Pybuild(self.work, "127.0.0.1:1")
        self.build(contexts.base(self.work / "base"), BASE)

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.work / "pybuild"

    def build(self, context: Path, tag: str, *, cached: bool = True) -> float:
        """Seconds of one build."""
        return run(self._pybuild.job(Request(context, tag, cached=cached)), self._log).seconds


def context_files(work: Path) -> Iterator[tuple[int, Callable[[], float]]]:
    """A cached rebuild over more and more files."""
    store = Store(work, "files")
    for count in CONTEXT_FILES:
        context = store.work / str(count)
        contexts.small_files(context / "src", count, salt=str(count))
        lines = (f"FROM {BASE}", "COPY src /src", "RUN true")
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        yield count, _rebuild(store, context)


def base_files(work: Path) -> Iterator[tuple[int, Callable[[], float]]]:
    """What changing two hundred files costs over a small and a large base, a bare step taken off."""
    store = Store(work, "base")
    for count in BASE_FILES:
        tree = store.work / f"tree-{count}"
        contexts.small_files(tree / "tree", count, salt=str(count))
        (tree / "Dockerfile").write_text(f"FROM {BASE}\nCOPY tree /tree\n")
        store.build(tree, f"tree-{count}")
        changing, nothing = (
            contexts.over(store.work / f"{name}-{count}", f"tree-{count}", f"RUN {command}")
            for name, command in (("change", "touch /tree/d000/*"), ("nothing", "true"))
        )
        store.build(nothing, "warm")

        def measure(changing: Path = changing, nothing: Path = nothing) -> float:
            both = [store.build(c, "x", cached=False) for c in (changing, nothing)]
            return (both[0] - both[1]) / CHANGED

        yield count, measure


def records(work: Path) -> Iterator[tuple[int, Callable[[], float]]]:
    """A cached rebuild beside more and more records of other builds."""
    for count in RECORDS:
        store = Store(work, f"records-{count}")
        context = contexts.cached(store.work / "context", BASE)
        _fill(store.state, count)
        yield count, _rebuild(store, context)


def layers(work: Path) -> Iterator[tuple[int, Callable[[], float]]]:
    """A cached rebuild of more and more instructions, each with a layer."""
    store = Store(work, "layers")
    for count in LAYERS:
        context = store.work / str(count)
        context.mkdir()
        lines = [f"FROM {BASE}"]
        for n in range(count):
            (context / f"f{n}").write_text(f"{count} {n}\n")
            lines.append(f"COPY f{n} /f{n}")
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        yield count, _rebuild(store, context)


SERIES: dict[str, Callable[[Path], Iterator[tuple[int, Callable[[], float]]]]] = {
    "context files": context_files,
    "files of the base": base_files,
    "records": records,
    "layers": layers,
}


def _rebuild(store: Store, context: Path) -> Callable[[], float]:
    store.build(context, "warm")
    store.build(context, "warm")
    return lambda: store.build(context, "warm")


def _fill(state: Path, count: int) -> None:
    """Records as builds of other Dockerfiles leave them, of layers that are long gone."""
    database = Database(str(state / "state.db"))
    with database.transaction():
        known = SqliteRecords(database)
        for number in range(count):
            digest = Digest.of(f"layer {number}".encode())
            media_type = "application/vnd.oci.image.layer.v1.tar"
            layer = Layer(Descriptor(media_type, digest, 1024), digest)
            key = CacheKey.of(
                ("op", "exec"), ("command", f"true # {number}"), ("parent", str(digest))
            )
            known.put(Record(key, digest, layer, "2026-01-01T00:00:00Z", f"slot {number}"))
    database.close()


def main() -> int:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5, help="turns of every size (5)")
    options.add_argument("--json", required=True, help="write every value there")
    options.add_argument("--dir", default="/var/tmp", help="disk to work on (/var/tmp)")
    chosen = options.parse_args()
    load = os.getloadavg()[0]
    found: dict[str, dict[int, list[float]]] = {}
    for name, series in SERIES.items():
        work = Path(tempfile.mkdtemp(prefix="pybuild-growth-", dir=chosen.dir))
        try:
            points = dict(series(work))
            values: dict[int, list[float]] = {size: [] for size in points}
            for _ in range(chosen.rounds):
                for size, measure in points.items():
                    values[size].append(measure())
        finally:
            shutil.rmtree(work, ignore_errors=True)
        found[name] = values
        medians = (f"{size}: {statistics.median(v) * 1e3:.2f}" for size, v in values.items())
        print(f"{name}: {', '.join(medians)} ms", flush=True)
    facts = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "seconds": found,
    }
    Path(chosen.json).write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
