"""Which trees are believed after a loss of power: those of this boot, and those surely written.

Nothing waits until a tree is on the disk, so one that was made in another boot may lack what it
had. Owns the mark beside a tree's name that says when it can be believed: the boot it was made
in, or a seal. It must not know how trees are made or what is in them.
"""

from __future__ import annotations

import contextlib
import os
import time
from threading import Lock
from typing import TYPE_CHECKING, Self

from cache.errors import PybuildError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.snapshot.directories import Directories
    from builder.snapshot.names import SnapshotNames
    from cache.spec.digest import Digest

    Throw = Callable[[Directories, str], None]
    Written = Callable[[], bool | None]  # whether it is; None for not yet

SEALED = "sealed"
# The kernel begins to write data after 30 seconds by default. When they are long over, asking for
# all to be written costs little; before, it would take the disk from the builds that follow.
SETTLED_SECONDS = 180
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_BOOT_ID_LENGTH = 36
_NOWHERE = [
    (os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0)
    for number in range(3)  # so that nobody waits for the end of our output
]


def write_beside(path: str) -> Written:
    """Have all of a file system written by a process of its own; the result says how it went.

    No thread does it: a process that the kernel writes for ends only when that is done.
    """
    try:
        pid = os.posix_spawnp(
            "sync", ["sync", "-f", path], {}, file_actions=_NOWHERE, setsigmask=()
        )
    except OSError:  # no such program
        return lambda: False

    def written() -> bool | None:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        return status == 0 if ended else None

    return written


@value
class Boot:
    """The boot a build runs in; with no `name` every tree is believed."""

    name: str = ""
    write: Callable[[str], Written] = write_beside
    settled_seconds: float = SETTLED_SECONDS

    @classmethod
    def current(cls, path: str = _BOOT_ID) -> Self:
        """Ask the kernel; where it does not say, as under a masked /proc, there is no name."""
        try:
            with open(path, encoding="ascii") as file:
                name = file.read(_BOOT_ID_LENGTH + 1).strip()
        except (OSError, UnicodeDecodeError):
            return cls()
        return cls(name) if len(name) == _BOOT_ID_LENGTH and " " not in name else cls()

    def believes(self, mark: str) -> bool:
        """Whether a tree with this mark has all it was made of."""
        return not self.name or mark in (self.name, SEALED)


class Seals:
    """Names of the trees that can be believed; the others are forgotten and thrown away."""

    def __init__(self, names: SnapshotNames, trees: Directories, boot: Boot, throw: Throw) -> None:
        """Keep marks in `names`; `throw` gets trees that nothing names any more."""
        self._names = names
        self._trees = trees
        self._boot = boot
        self._throw = throw
        self._guard = Lock()
        self._unsealed: dict[Digest, str] = {}
        self._writing: dict[Digest, str] = {}
        self._written: Written | None = None

    def get(self, chain: Digest) -> str | None:
        """Name of a chain's tree, when it is there and can be believed."""
        noted = self._names.get(chain)
        if noted is None:
            return None
        name, _, mark = noted.partition(" ")
        changed = self._trees.changed(name)
        if changed is None or not self._boot.believes(mark):
            # Another process may have made it anew meanwhile: only what we saw is dropped.
            if self._names.replace(chain, noted, None) and changed is not None:
                self._throw(self._trees, name)
            return None
        if mark == self._boot.name != "" and time.time() - changed >= self._boot.settled_seconds:
            with self._guard:
                self._unsealed[chain] = noted
        return name

    def put(self, chain: Digest, name: str) -> str:
        """Name a complete tree of this boot and return the chain's name: the first put wins."""
        noted = f"{name} {self._boot.name}" if self._boot.name else name
        return self._names.put(chain, noted).partition(" ")[0]

    def remove(self, chain: Digest) -> None:
        """Forget a chain; unknown is success."""
        self._names.remove(chain)

    def holds(self, name: str) -> bool:
        """Whether any chain has this name."""
        return self._names.holds(name)

    def settle(self) -> None:
        """Begin to have old trees that were asked for written, or seal them; waits for nothing."""
        if not self._unsealed and self._written is None:
            return
        with self._guard:
            self._seal()
            if self._unsealed and self._written is None:
                self._writing, self._unsealed = self._unsealed, {}
                self._written = self._boot.write(self._trees.path)

    def finish(self) -> None:
        """Seal what is written by now; the rest is for another build."""
        with self._guard:
            self._seal()

    def _seal(self) -> None:
        written = self._written() if self._written is not None else None
        if written is None:
            return
        self._written = None
        with contextlib.suppress(PybuildError):  # records that cannot be written harm no build
            for chain, noted in self._writing.items() if written else ():
                self._names.replace(chain, noted, f"{noted.partition(' ')[0]} {SEALED}")
