"""Records of trees that are mounted into a step whose mounts are the kernel's.

Only names below what is mounted count, and none that another mount hides.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel
from builder.sandbox.engine.view import fd_path
from builder.sandbox.spec import BindOverlay

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from builder.sandbox.engine.overlaid import OverlaidRecords
    from builder.sandbox.spec import Recorded, StepMount

_REFERENCE = os.O_PATH | os.O_CLOEXEC


def seed(
    records: OverlaidRecords,
    root_fd: int,
    mounts: Sequence[StepMount],
    bound: Iterable[tuple[str, str, int, int]],
) -> None:
    """Record what files of bound trees are meant to be; `bound` is what init says of them."""
    known = {m.target: m for m in mounts if isinstance(m, BindOverlay) and m.recorded}
    if not known:
        return
    with contextlib.ExitStack() as held:
        opened = _opened(root_fd, mounts, held)
        paths = {target: os.readlink(fd_path(fd)) for target, fd in opened.items()}
        for target, top, device, inode in bound:
            if target not in known or target not in opened:
                continue
            fd, path = opened[target], paths[target]
            if (os.fstat(fd).st_dev, os.fstat(fd).st_ino) != (device, inode):
                continue  # another mount hides it
            hidden = tuple(p + b"/" for p in paths.values() if p.startswith(path + b"/"))
            can_go = not known[target].readonly
            for name, recorded in _inside(known[target].recorded, os.fsencode(top)):
                full = path + name
                if not (full + b"/").startswith(hidden):
                    _seed(records, fd, (name[1:], full), recorded, can_go)


def _opened(
    root_fd: int, mounts: Sequence[StepMount], held: contextlib.ExitStack
) -> dict[str, int]:
    found = {}
    for mount in mounts:
        with contextlib.suppress(OSError):  # hidden by another one
            fd = kernel.open_in(root_fd, os.fsencode(mount.target), _REFERENCE)
            held.callback(os.close, fd)
            found[mount.target] = fd
    return found


def _seed(
    records: OverlaidRecords,
    fd: int,
    named: tuple[bytes, bytes],
    recorded: Recorded,
    can_go: bool,
) -> None:
    name, full = named
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False) if name else os.fstat(fd)
    except OSError:
        return
    records.seed_bound(full, status, recorded, can_go)


def _inside(seeds: Sequence[Recorded], top: bytes) -> Iterator[tuple[bytes, Recorded]]:
    """What comes after `top`, with its slash; empty for itself."""
    above = b"/" + top if top else b""
    for known in seeds:
        name = b"" if known.name == "." else b"/" + os.fsencode(known.name)
        if name == above or name.startswith(above + b"/"):
            yield name[len(above) :], known
