"""Who a task is to the kernel: ids, groups and umask, where they are not virtual."""

from __future__ import annotations

from typing import NamedTuple

from builder.sandbox.engine.kernel import fail

_NO_SUCH_PROCESS = 3
_MAX_STATUS = 1 << 16  # bytes of /proc/PID/status; groups make it long
_FIELDS = (b"Tgid:", b"Uid:", b"Gid:", b"Groups:", b"Umask:")


class Owner(NamedTuple):
    """Who a task is to the kernel: its process, ids (real, effective, saved, for files), umask."""

    process: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    umask: int

    @property
    def is_root(self) -> bool:
        """Whether its files and rights are root's."""
        return self.uids[3] == 0 and self.gids[3] == 0


def owner_of(task: int) -> Owner:
    """Who a task is.

    Raises:
        ProcessLookupError: it is gone.
    """
    try:
        with open(f"/proc/{task}/status", "rb", buffering=0) as stream:
            lines = (stream.read(_MAX_STATUS) or b"").splitlines()
    except OSError:
        fail(_NO_SUCH_PROCESS)
    found = {
        line.partition(b":")[0]: line.split()[1:] for line in lines if line.startswith(_FIELDS)
    }
    if len(found) < len(_FIELDS):  # it is ending, and has let go of its umask already
        fail(_NO_SUCH_PROCESS)
    process, uids, gids, groups = (
        tuple(int(word) for word in found[name]) for name in (b"Tgid", b"Uid", b"Gid", b"Groups")
    )
    return Owner(process[0], uids, gids, groups, int(found[b"Umask"][0], 8))
