"""A run of the benchmark: the tools, where they work, their turns, and who has failed at what."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import floors
from measure import FailedError, run
from report import FLOOR, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from measure import Outcome
    from peers import Peer, Request

_APPLETS = ("sh", "true", "dd", "yes", "rm", "chown", "sleep", "cat", "find", "wc")


@dataclass(slots=True)
class Bench:
    """What the workloads share. `images` are base images every tool can pull, by short name."""

    work: Path
    peers: list[Peer]
    images: dict[str, str]
    rounds: int
    debs: Path | None = None
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
            self._failed(workload, peer, error)
            return None

    def forget(self, workload: str, peer: Peer) -> bool:
        """Empty a tool's store, untimed; a tool that cannot is left out of the workload."""
        try:
            run(peer.forget(), self.work / f"{peer.name}.log")
        except FailedError as error:
            self._failed(workload, peer, error)
            return False
        return True

    def _failed(self, workload: str, peer: Peer, error: FailedError) -> None:
        self.failures[f"{workload} {peer.name}"] = str(error)
        print(f"  {workload}: {peer.name} failed: {error}", file=sys.stderr)

    def measure(
        self,
        workload: str,
        row: Row,
        request: Callable[[int, Peer], Request],
        *,
        floor: Callable[[int], str] | None = None,
        warm: int = 0,
        rounds: int = 0,
    ) -> Row:
        """Fill a row: `warm` rounds untimed, then the others, the floor once in each."""
        for n, peer in self.turns(workload, warm):
            self.attempt(workload, peer, request(n, peer))
        for n, peer in self.turns(workload, rounds or self.rounds):
            if floor is not None and len(row.values.get(FLOOR, [])) <= n:
                os.sync()
                row.add(FLOOR, floors.timed(floor(n)))
            outcome = self.attempt(workload, peer, request(n, peer))
            if outcome:
                row.add(peer.name, outcome.seconds)
        return row

    def root(self) -> Path:
        """A root directory of busybox, for floors; made once."""
        root = self.work / "bare"
        if not root.exists():
            (root / "bin").mkdir(parents=True)
            shutil.copy(str(shutil.which("busybox")), root / "bin" / "busybox")
            for name in _APPLETS:
                (root / "bin" / name).symlink_to("busybox")
            (root / "dev").mkdir()
            for name in ("zero", "urandom", "null"):  # chroot brings no devices
                (root / "dev" / name).touch()
        return root

    def archive(self, peer: Peer) -> Path:
        """Where a tool writes its archive."""
        return self.work / f"{peer.name}.oci.tar"
