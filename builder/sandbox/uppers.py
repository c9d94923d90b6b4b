"""Where the changes of steps go while they run: beside the trees, or where an overlay takes them.

A container's own file system is an overlay, and cannot hold the upper directory of another; nor
can most network file systems. Then it is a volume that holds nothing else, such as an emptyDir,
or memory. Found by mounting overlays, as root of a namespace of our own.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from builder import places
from builder.errors import HostUnsupportedError
from builder.sandbox import syscalls
from builder.sandbox.overlay import mount_overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BESIDE = ""  # the trees: on the state directory's own file system
MEMORY = "memory"
_TRIAL_SIZE = "size=1m,mode=700"
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_LEAST = 64 << 20  # bytes of memory that are offered in any case


def find(place: str, uid: int, volumes: Callable[[], Iterable[str]]) -> str:
    """Try where changes can be, best first; leaves an overlay mounted at `place`/root.

    `place` is an empty directory on the state's file system, `uid` who we are outside.

    Raises:
        HostUnsupportedError: nowhere; it says why not beside the trees.
    """
    for name in ("lower", "root", "beside", "memory"):
        os.mkdir(f"{place}/{name}")
    try:
        _stack(place, f"{place}/beside")
    except HostUnsupportedError as refused:
        for volume in volumes():
            with contextlib.suppress(HostUnsupportedError, OSError):
                directory = f"{volume}/pybuild-{uid}"
                if os.path.lexists(directory):
                    os.close(_own(directory))
                _stack(place, volume)
                return directory
        try:
            syscalls.mount("tmpfs", f"{place}/memory", "tmpfs", 0, _TRIAL_SIZE)
            _stack(place, f"{place}/memory")
        except (HostUnsupportedError, OSError):
            raise refused from None
        return MEMORY
    return BESIDE


def _stack(place: str, changes: str) -> None:
    """Mount an overlay that has its changes in a directory, and write to it."""
    # a volume may be shared with containers whose processes have the same numbers
    token = os.urandom(8).hex()
    names = [f"{changes}/pybuild-trial-{token}-{name}" for name in ("upper", "work")]
    try:
        for name in names:
            os.mkdir(name, 0o700)
        mount_overlay(f"{place}/root", place, ("lower",), (names[0], names[1]))
        with open(f"{place}/root/file", "wb"):
            pass
    finally:
        if not changes.startswith(place):
            _sweep(changes, names)


def _sweep(directory: str, paths: list[str]) -> None:
    from cache.archive.rooted import remove_tree  # noqa: PLC0415 - rarely needed

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in paths:
            remove_tree(fd, os.path.basename(path))
    finally:
        os.close(fd)


def _own(directory: str) -> int:
    """Open a directory on a volume, whatever is put there afterwards; a link's error says so."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(fd).st_uid == os.geteuid():
        return fd
    os.close(fd)
    msg = f"{directory} belongs to somebody else"
    raise HostUnsupportedError(msg, hint="remove it, or choose another volume")


def settle(where: str, actives: str) -> None:
    """Let the directory of active snapshots lie where `find` said; in our mounts only.

    Raises:
        HostUnsupportedError: that cannot be had any more.
    """
    if where == BESIDE:
        return
    try:
        _settle(where, actives)
    except OSError as error:
        msg = f"cannot keep what steps write in {where}: {(error.strerror or '').lower()}"
        raise HostUnsupportedError(msg, hint="build again: another place is looked for") from error


def _settle(where: str, actives: str) -> None:
    os.makedirs(actives, mode=0o700, exist_ok=True)
    if where == MEMORY:
        size = memory_to_use(places.read_text)
        syscalls.mount("tmpfs", actives, "tmpfs", syscalls.MS_NODEV, f"size={size},mode=700")
        return
    with contextlib.suppress(FileExistsError):
        os.mkdir(where, 0o700)
    with contextlib.ExitStack() as opened:
        directory = _own(where)
        opened.callback(os.close, directory)
        tree = syscalls.clone_tree(directory)
        opened.callback(os.close, tree)
        target = os.open(actives, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, target)
        syscalls.attach(tree, target)


def memory_to_use(read: Callable[[str], str]) -> int:
    """Half of the memory that is to be had, in bytes: the rest is for the programs of steps."""
    rows = dict(line.partition(":")[::2] for line in read("/proc/meminfo").splitlines())
    words = rows.get("MemAvailable", "").split()
    offers = [int(words[0]) << 10] if words and words[0].isdecimal() else []
    offers += [int(text) for path in _LIMITS if (text := read(path).strip()).isdecimal()]
    return max(min(offers, default=0) // 2, _LEAST)


def advice(root: str, where: str) -> str:
    """The one line for who could have a better place; "" when there is nothing to say."""
    if where != MEMORY:
        return ""
    kind = places.kind_of(root) or "a file system"
    size = memory_to_use(places.read_text) >> 20
    return (
        f"warning: what steps write is kept in memory, up to {size} MiB: {root} is on {kind}, where"
        " no overlay can be changed; mount a volume (in a pod an emptyDir) and set PYBUILD_ROOT"
    )
