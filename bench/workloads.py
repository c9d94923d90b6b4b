"""The workloads of bench/README.md: what each tool does, in rounds in which every tool has its turn."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import contexts
import floors
from measure import files_read
from peers import Request
from report import FLOOR, Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from turns import Bench

STEPS = 20
LAYER_MEBIBYTES = 512


def cached(bench: Bench) -> list[Row]:
    """W1: a whole process that finds every one of twelve instructions in its cache."""
    row = Row("W1 cached rebuild, 12 instructions, 200 files", "s", best=0.7, floor=5)
    context = contexts.cached(bench.work / "W1", bench.images["base"])
    request = Request(context, "bench-cached")
    walk = floors.walk(context)
    rounds = bench.rounds * 3
    bench.measure("W1", row, lambda *_: request, floor=lambda _: walk, warm=2, rounds=rounds)
    return [row]


def cached_many(bench: Bench) -> list[Row]:
    """W1b: the same over twenty thousand files."""
    row = Row("W1b cached rebuild, 20,000 files", "s", best=0.25, floor=3)
    context = contexts.context_of_many(bench.work / "W1b", bench.images["base"])
    request = Request(context, "bench-cached-many")
    walk = floors.walk(context)
    bench.measure("W1b", row, lambda *_: request, floor=lambda _: walk, warm=2)
    return [row]


def step(bench: Bench) -> list[Row]:
    """W2: what one more RUN costs: builds with 1 and with 21 of them, the difference by 20."""
    name = "W2"
    row = Row("W2 one more RUN true", "s", best=0.5, floor=3)
    one = contexts.steps(bench.work / "W2-one", bench.images["base"], 1)
    many = contexts.steps(bench.work / "W2-many", bench.images["base"], 1 + STEPS)
    bare = "; ".join([floors.inside(bench.root(), "true")] * STEPS)
    for n, peer in bench.turns(name, bench.rounds):
        if len(row.values.get(FLOOR, [])) <= n:
            row.add(FLOOR, floors.timed(bare) / STEPS)
        short = bench.attempt(name, peer, Request(one, "bench-one", cached=False))
        if not short:
            continue
        long = bench.attempt(name, peer, Request(many, "bench-many", cached=False))
        if long:
            row.add(peer.name, (long.seconds - short.seconds) / STEPS)
    return [row]


def copy(bench: Bench) -> list[Row]:
    """W3: COPY of 20,000 files to an OCI archive; W3e: again with one file changed."""
    name = "W3"
    cold = Row("W3 COPY 20,000 files, OCI archive, gzip", "s", best=0.3, floor=3)
    edited = Row("W3e one of them edited", "s", best=0.3, floor=4)
    read = Row("W3e bytes read by the client's processes", "MB")
    size = Row("W3 size of the archive", "MB")
    context = bench.work
    for n, peer in bench.turns(name, bench.rounds):
        if not (bench.work / f"W3-{n}").exists():
            context = contexts.copying(bench.work / f"W3-{n}", bench.images["base"], f"round {n}")
            packed = floors.packed(context / "tree", bench.work / "floor.tar.gz", "gzip")
            for row in (cold, edited):
                row.add(FLOOR, floors.timed(packed))
        archive = bench.archive(peer)
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
    if os.geteuid() != 0 or strace.returncode or f"W3 {pybuild.name}" in bench.failures:
        return []
    contexts.edit(context, "edited for the tracer\n")
    archive = bench.work / "traced.oci.tar"
    job = pybuild.job(Request(context, "bench-copy", archive))
    files, count = files_read(job, context, bench.work / "trace")
    row = Row("W3e context files read (strace)", "files", limit=3)  # Dockerfile and one
    row.add(pybuild.name, files)
    size = Row("W3e bytes of them", "B")
    size.add(pybuild.name, count)
    return [row, size]


def large(bench: Bench) -> list[Row]:
    """W4: a layer of 512 MiB, half of which compresses, to an OCI archive with gzip."""
    row = Row("W4 RUN writes 512 MiB, OCI archive, gzip", "s", best=0.7, floor=1.25)
    return [_large(bench, "W4", row, "gzip")]


def large_zstd(bench: Bench) -> list[Row]:
    """W4z: the same with zstd."""
    row = Row("W4z the same, zstd", "s", best=1.0, floor=1.1)
    return [_large(bench, "W4z", row, "zstd")]


def _large(bench: Bench, name: str, row: Row, compression: str) -> Row:
    context = contexts.half(bench.work / name, bench.images["base"], LAYER_MEBIBYTES)
    row = bench.measure(
        name,
        row,
        lambda _, peer: Request(
            context, "bench-large", bench.archive(peer), compression, cached=False
        ),
        floor=lambda _: _half_bare(bench, compression),
    )
    for peer in bench.peers:
        bench.archive(peer).unlink(missing_ok=True)
    return row


def _half_bare(bench: Bench, compression: str) -> str:
    part = LAYER_MEBIBYTES // 2
    place = bench.work / "half"
    where = shlex.quote(str(place))
    return (
        f"mkdir -p {where}; dd if=/dev/urandom of={where}/random bs=1M count={part} 2>/dev/null; "
        f"yes pybuild benchmark 2>/dev/null | "
        f"dd of={where}/text bs=1M count={part} iflag=fullblock 2>/dev/null; "
        + floors.packed(place, bench.work / "half.packed", compression)
    )


def memory(bench: Bench) -> list[Row]:
    """W11: the peak over the process tree of W3 and of W4."""
    rows = []
    half = contexts.half(bench.work / "W11-half", bench.images["base"], LAYER_MEBIBYTES)
    many = contexts.copying(bench.work / "W11-many", bench.images["base"], "memory")
    for name, context in (("W3", many), ("W4", half)):
        row = Row(f"W11 peak memory of {name}", "MiB", limit=120)
        for _, peer in bench.turns(f"W11 {name}", bench.rounds):
            request = Request(context, "bench-memory", bench.archive(peer), cached=False)
            outcome = bench.attempt(f"W11 {name}", peer, request, memory=True)
            if outcome:
                row.add(peer.name, outcome.peak_bytes / 2**20)
                row.notes[peer.name] = outcome.peak_kind
            bench.archive(peer).unlink(missing_ok=True)
        rows.append(row)
    return rows


def stages(bench: Bench) -> list[Row]:
    """W5: four stages of two seconds each."""
    row = Row("W5 four stages of sleep 2", "s", best=0.97, floor=1.06)
    context = contexts.parallel(bench.work / "W5", bench.images["base"])
    request = Request(context, "bench-parallel", cached=False, parallel=True)
    bare = floors.inside(bench.root(), "sleep 2") + " & "
    bench.measure("W5", row, lambda *_: request, floor=lambda _: bare * 4 + "wait")
    return [row]


def pull(bench: Bench) -> list[Row]:
    """W6: nothing in the store; a large base from the registry, and one RUN."""
    name = "W6"
    row = Row("W6 cold store: pull a large base, RUN once", "s", best=0.7)
    context = contexts.over(bench.work / name, bench.images["large"], "RUN true")
    for _, peer in bench.turns(name, bench.rounds):
        if not bench.forget(name, peer):
            continue
        outcome = bench.attempt(name, peer, Request(context, "bench-pull"))
        if outcome:
            row.add(peer.name, outcome.seconds)
    return [row]


def push(bench: Bench) -> list[Row]:
    """W7: build W4 and push it; push it again unchanged."""
    name = "W7"
    first = Row("W7 RUN writes 512 MiB, push", "s", best=0.75)
    again = Row("W7 the same again, unchanged", "s", best=0.5)
    context = contexts.half(bench.work / name, bench.images["base"], LAYER_MEBIBYTES)
    host = bench.images["base"].partition("/")[0]
    for n, peer in bench.turns(name, bench.rounds):
        tag = f"{host}/bench/push-{peer.name}:{n}"
        fresh = bench.attempt(name, peer, Request(context, tag, push=True, cached=False))
        if not fresh:
            continue
        first.add(peer.name, fresh.seconds)
        repeated = bench.attempt(name, peer, Request(context, tag, push=True))
        if repeated:
            again.add(peer.name, repeated.seconds)
    return [first, again]


def own(bench: Bench) -> list[Row]:
    """W8: chown -R over 20,000 files of the base."""
    row = Row("W8 chown -R over 20,000 files of the base", "s", best=0.5)
    return [_on_tree(bench, "W8", row, "RUN chown -R 1234:1234 /tree")]


def remove(bench: Bench) -> list[Row]:
    """W10: rm -rf of 20,000 files of the base."""
    row = Row("W10 rm -rf of 20,000 files of the base", "s", best=0.75)
    return [_on_tree(bench, "W10", row, "RUN rm -rf /tree")]


def _on_tree(bench: Bench, name: str, row: Row, line: str) -> Row:
    context = contexts.over(bench.work / name, bench.images["tree"], line)
    request = Request(context, f"bench-{name.lower()}", cached=False)
    # The first round unpacks the base.
    return bench.measure(name, row, lambda *_: request, warm=1)


def hundred(bench: Bench) -> list[Row]:
    """W9: a hundred instructions, cached and not."""
    context = contexts.steps(bench.work / "W9", bench.images["base"], 100)
    hit = Row("W9 100 instructions, cached", "s", best=0.4)
    miss = Row("W9 100 instructions, not cached", "s", best=0.5, floor=3)
    request = Request(context, "bench-hundred")
    again = Request(context, "bench-hundred", cached=False)
    bare = "; ".join([floors.inside(bench.root(), "true")] * 100)
    bench.measure("W9", hit, lambda *_: request, warm=2)
    rounds = max(1, bench.rounds // 2)
    bench.measure("W9 miss", miss, lambda *_: again, floor=lambda _: bare, rounds=rounds)
    return [hit, miss]


def packages(bench: Bench) -> list[Row]:
    """W12: Debian packages from local files; needs --debian."""
    if bench.debs is None or "debian" not in bench.images:
        return []
    row = Row("W12 dpkg -i of local packages", "s", best=0.8)
    context = contexts.packages(bench.work / "W12", bench.images["debian"], bench.debs)
    request = Request(context, "bench-packages", cached=False)
    return [bench.measure("W12", row, lambda *_: request, warm=1)]


ALL: dict[str, Callable[[Bench], list[Row]]] = {
    "W1": cached,
    "W1b": cached_many,
    "W2": step,
    "W3": copy,
    "W4": large,
    "W4z": large_zstd,
    "W5": stages,
    "W6": pull,
    "W7": push,
    "W8": own,
    "W9": hundred,
    "W10": remove,
    "W11": memory,
    "W12": packages,
}
