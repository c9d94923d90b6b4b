"""The five workloads: what each tool does, in rounds in which every tool has its turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import contexts
from measure import FailedError, files_read, run
from peers import Request
from report import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from measure import Outcome
    from peers import Peer

EXTRA_STEPS = 20
LAYER_MEBIBYTES = 1024


@dataclass(slots=True)
class Bench:
    """The tools, where they work, and who has failed at what."""

    work: Path
    peers: list[Peer]
    base_image: str
    rounds: int
    failures: dict[str, str] = field(default_factory=dict)

    def turns(self, workload: str, rounds: int) -> Iterator[tuple[int, Peer]]:
        """Every tool once in each round, the order moving on, but for those that failed."""
        for n in range(rounds):
            print(f"  {workload}: round {n + 1} of {rounds}", file=sys.stderr, flush=True)
            for k in range(len(self.peers)):
                peer = self.peers[(n + k) % len(self.peers)]
                if f"{workload} {peer.name}" not in self.failures:
                    yield n, peer

    def attempt(
        self, workload: str, peer: Peer, request: Request, *, memory: bool = False
    ) -> Outcome | None:
        """Run a build; a tool that fails is left out of the rest of the workload."""
        if request.archive:
            request.archive.unlink(missing_ok=True)
        os.sync()  # what the tool before left in memory is not written during this one's turn
        try:
            return run(peer.job(request), self.work / f"{peer.name}.log", memory=memory)
        except FailedError as error:
            self.failures[f"{workload} {peer.name}"] = str(error)
            print(f"  {workload}: {peer.name} failed: {error}", file=sys.stderr)
            return None


def cached_rebuild(bench: Bench) -> list[Row]:
    """A whole process that finds every one of twelve instructions in its cache."""
    name = "cached"
    row = Row("cached rebuild, 12 instructions, 200 files", "s", "pybuild < 0.150 s", limit=0.150)
    context = contexts.cached(bench.work / name, bench.base_image)
    request = Request(context, "bench-cached")
    for _, peer in bench.turns(name, 2):
        bench.attempt(name, peer, request)
    for _, peer in bench.turns(name, bench.rounds * 3):
        outcome = bench.attempt(name, peer, request)
        if outcome:
            row.add(peer.name, outcome.seconds)
    return [row]


def another_run(bench: Bench) -> list[Row]:
    """What one more RUN costs: builds with 1 and with 21 of them, the difference by 20."""
    name = "step"
    row = Row("one more RUN true", "s", "pybuild < 0.040 s above the bare chroot", above=0.040)
    one = contexts.steps(bench.work / "step-one", bench.base_image, 1)
    many = contexts.steps(bench.work / "step-many", bench.base_image, 1 + EXTRA_STEPS)
    bare = _bare_chroot(bench.work)
    for n, peer in bench.turns(name, bench.rounds):
        if len(row.values.get("bare chroot", [])) <= n:
            row.add("bare chroot", bare())
        short = bench.attempt(name, peer, Request(one, "bench-one", cached=False))
        if not short:
            continue
        long = bench.attempt(name, peer, Request(many, "bench-many", cached=False))
        if long:
            row.add(peer.name, (long.seconds - short.seconds) / EXTRA_STEPS)
    return [row]


def _bare_chroot(work: Path) -> Callable[[], float]:
    root = work / "bare"
    contexts.base(root)
    (root / "true").symlink_to("busybox")
    command = ["unshare", "--mount", "--pid", "--fork", "chroot", str(root), "/true"]
    if os.geteuid() != 0:
        command[1:1] = ["--user", "--map-root-user"]

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(EXTRA_STEPS):
            subprocess.run(command, check=True)
        return (time.perf_counter() - start) / EXTRA_STEPS

    return measure


def many_files(bench: Bench) -> list[Row]:
    """COPY of 20,000 files to an OCI archive, then again with one file changed."""
    name = "copy"
    goal = "pybuild at most a third of buildah"
    cold = Row("COPY 20,000 files, OCI archive, gzip", "s", goal, third_of="buildah")
    edited = Row("the same with one file edited", "s", "-")
    read = Row("bytes read by the client's processes in that", "MB", "-")
    size = Row("size of the archive", "MB", "-")
    context = bench.work / name
    for n, peer in bench.turns(name, bench.rounds):
        if n == len(cold.values.get(peer.name, [])) and not (bench.work / f"copy-{n}").exists():
            context = contexts.copying(bench.work / f"copy-{n}", bench.base_image, f"round {n}")
        archive = bench.work / f"{peer.name}.oci.tar"
        request = Request(context, "bench-copy", archive)
        first = bench.attempt(name, peer, request)
        if not first:
            continue
        cold.add(peer.name, first.seconds)
        size.add(peer.name, archive.stat().st_size / 1e6)
        contexts.edit(context, f"edited for {peer.name} {n}\n")
        second = bench.attempt(name, peer, request)
        if second:
            edited.add(peer.name, second.seconds)
            read.add(peer.name, second.read_bytes / 1e6)
    return [cold, edited, read, size, *_what_was_read(bench, context)]


def _what_was_read(bench: Bench, context: Path) -> list[Row]:
    # A tracer takes the set-user-id bit from newuidmap, so only root can look.
    pybuild = bench.peers[0]
    strace = subprocess.run(("sh", "-c", "command -v strace"), capture_output=True, check=False)
    if os.geteuid() != 0 or strace.returncode or f"copy {pybuild.name}" in bench.failures:
        return []
    contexts.edit(context, "edited for the tracer\n")
    archive = bench.work / "traced.oci.tar"
    job = pybuild.job(Request(context, "bench-copy", archive))
    files, count = files_read(job, context, bench.work / "trace")
    row = Row("context files read after one edit (strace)", "files", "Dockerfile and one", limit=3)
    row.add(pybuild.name, files)
    size = Row("bytes of them", "B", "-")
    size.add(pybuild.name, count)
    return [row, size]


def large_layer(bench: Bench) -> list[Row]:
    """A layer of 1 GiB made by RUN and exported with gzip: peak memory, and time as it comes."""
    name = "memory"
    row = Row("peak memory, 1 GiB layer, gzip", "MiB", "pybuild < 200 MiB", limit=200)
    seconds = Row("time of that, while sampled", "s", "-")
    context = contexts.large(bench.work / name, bench.base_image, LAYER_MEBIBYTES)
    for _, peer in bench.turns(name, bench.rounds):
        archive = bench.work / f"{peer.name}.oci.tar"
        request = Request(context, "bench-large", archive, cached=False)
        outcome = bench.attempt(name, peer, request, memory=True)
        if outcome:
            row.add(peer.name, outcome.peak_bytes / 2**20)
            row.notes[peer.name] = outcome.peak_kind
            seconds.add(peer.name, outcome.seconds)
        archive.unlink(missing_ok=True)
    return [row, seconds]


def stages(bench: Bench) -> list[Row]:
    """Four stages of two seconds each."""
    name = "parallel"
    row = Row("four stages of sleep 2", "s", "pybuild < 4 s", limit=4)
    context = contexts.parallel(bench.work / name, bench.base_image)
    for _, peer in bench.turns(name, bench.rounds):
        request = Request(context, "bench-parallel", cached=False, parallel=True)
        outcome = bench.attempt(name, peer, request)
        if outcome:
            row.add(peer.name, outcome.seconds)
    return [row]


ALL: dict[str, Callable[[Bench], list[Row]]] = {
    "cached": cached_rebuild,
    "step": another_run,
    "copy": many_files,
    "memory": large_layer,
    "parallel": stages,
}
