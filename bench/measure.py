"""Runs commands and measures them: wall time, bytes read, and the peak memory of process trees."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.02


class FailedError(Exception):
    """A command that was to be measured ended with an error, or a tool cannot do the work."""


@dataclass(frozen=True, slots=True)
class Job:
    """Commands that together do one piece of work, in order."""

    commands: tuple[tuple[str, ...], ...]
    env: tuple[tuple[str, str], ...] = ()
    daemon: int = 0  # a process whose tree works for this job


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run of a job took."""

    seconds: float
    peak_bytes: int = 0
    peak_kind: str = ""
    read_bytes: int = 0


def run(job: Job, log: Path, *, memory: bool = False) -> Outcome:
    """Run a job to its end; `memory` samples its process tree, which disturbs its time.

    Raises:
        FailedError: a command failed; the end of its output is the message.
    """
    env = {**os.environ, **dict(job.env)}
    sampler = _Sampler(job.daemon) if memory else None
    before = _read_so_far()
    start = time.perf_counter()
    for command in job.commands:
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
            )
            try:
                if sampler:
                    sampler.watch(process)
                code = process.wait()
            except BaseException:  # such as the benchmark's own end: nothing is left running
                process.terminate()
                process.wait()
                raise
        if code:
            tail = log.read_text(errors="replace")[-1500:]
            raise FailedError(f"{' '.join(command)}: status {code}\n{tail}")
    seconds = time.perf_counter() - start
    read = _read_so_far() - before
    if sampler:
        return Outcome(seconds, sampler.peak, "PSS" if sampler.exact else "RSS", read)
    return Outcome(seconds, read_bytes=read)


def _read_so_far() -> int:
    # A reaped child's counters are added to its parent's, so the difference covers the tree.
    found = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())
    return int(found[1]) if found else 0


class _Sampler:
    """The highest sum of memory seen over a process tree (and a daemon's)."""

    def __init__(self, daemon: int) -> None:
        self.peak = 0
        self.exact = True  # every process let its PSS be read; else RSS stands in for it
        self._daemon = daemon

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Sample until the process ends."""
        while process.poll() is None:
            total = sum(self._memory(pid) for pid in _tree({process.pid, self._daemon} - {0}))
            self.peak = max(self.peak, total)
            time.sleep(SAMPLE_SECONDS)

    def _memory(self, pid: int) -> int:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
            return int(found[1]) * 1024 if found else 0
        except PermissionError:  # another user id of the same tree, as from a user namespace
            self.exact = False
            return _resident(pid)
        except OSError:  # it has ended meanwhile
            return 0


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _tree(roots: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


_TRACED = re.compile(r"\b\w+\((?P<args>.*)\) += (?P<count>\d+)$")


def files_read(job: Job, below: Path, trace: Path) -> tuple[int, int]:
    """How many files below a directory a job's commands read, and how many bytes (by strace)."""
    calls = "trace=read,pread64,readv,preadv,preadv2,sendfile,copy_file_range,mmap"
    strace = ("strace", "-f", "-qq", "-y", "-s", "0", "-e", calls, "-o", str(trace))
    wrapped = tuple(strace + command for command in job.commands)
    run(Job(wrapped, job.env), trace.with_suffix(".log"))
    names: set[str] = set()
    total = 0
    with trace.open(errors="replace") as lines:
        for line in lines:
            name = re.search(rf"\d<({re.escape(str(below))}/[^>]*)>", line)
            done = _TRACED.search(line)
            if name and done:
                names.add(name[1])
                total += int(done["count"])
    return len(names), total
