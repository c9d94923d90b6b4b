"""Where this process stands in the control groups of the host, and how their files are used.

Reads and parses; which limits are wanted and what is made of them is not known here.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Protocol

from cache.value import value

_LIMIT = 1 << 20  # bytes read of a file; the longest is the list of a group's processes
_MOUNT_FIELDS = 6  # before the optional ones
_ESCAPED = re.compile(r"\\([0-7]{3})")


@value
class Hierarchy:
    """One tree of groups: where it is mounted (top) and where in it this process is (own).

    `controllers` are what a tree of version 1 is for; version 2 has one tree for everything.
    """

    version: int
    top: str
    own: str
    controllers: tuple[str, ...] = ()

    def upwards(self) -> tuple[str, ...]:
        """The directories from our own group to the top."""
        found = [self.own]
        while found[-1] != self.top and len(found[-1]) > len(self.top):
            found.append(os.path.dirname(found[-1]))
        return tuple(found)


class GroupFiles(Protocol):
    """The files of the group file system; failures are OSError."""

    def read(self, path: str) -> str:
        """The text of a file."""

    def write(self, path: str, text: str) -> None:
        """Write a text in one go."""

    def make(self, path: str) -> None:
        """Make a group."""

    def remove(self, path: str) -> None:
        """Remove a group without processes."""

    def can_hold(self, path: str) -> bool:
        """Whether a child of ours can be put into a group; it is gone again afterwards."""


class KernelGroupFiles:
    """The kernel's (implements GroupFiles)."""

    def read(self, path: str) -> str:
        """Read."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            parts = []
            while part := os.read(fd, _LIMIT):
                parts.append(part)
            return b"".join(parts).decode("utf-8", "surrogateescape")
        finally:
            os.close(fd)

    def write(self, path: str, text: str) -> None:
        """Write; never makes a file."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def make(self, path: str) -> None:
        """Make a group."""
        os.mkdir(path, 0o755)

    def remove(self, path: str) -> None:
        """Remove a group."""
        os.rmdir(path)

    def can_hold(self, path: str) -> bool:
        """Try it: whether one may is decided by what lies between there and where we are."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.write(f"{path}/cgroup.procs", "0")
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        return status == 0


def read_hierarchies() -> tuple[Hierarchy, ...]:
    """The trees this process is in, as far as they are mounted where it can see them."""
    texts = []
    for name in ("cgroup", "mountinfo"):
        text = ""
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "rb") as stream:
            text = stream.read().decode("utf-8", "surrogateescape")
        texts.append(text)
    return hierarchies(*texts)


def hierarchies(groups: str, mounts: str) -> tuple[Hierarchy, ...]:
    """The trees, given the text of /proc/self/cgroup and of /proc/self/mountinfo."""
    mounted = [found for line in mounts.splitlines() if (found := _mounted(line))]
    trees = []
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        wanted = frozenset(names.split(",")) - {""}
        for controllers, root, top in mounted:
            inside = _inside(path, root)
            if inside is None or not (wanted <= controllers if wanted else not controllers):
                continue
            own = f"{top}/{inside}" if inside else top
            trees.append(Hierarchy(1 if wanted else 2, top, own, tuple(sorted(wanted))))
            break
    return tuple(trees)


def _mounted(line: str) -> tuple[frozenset[str], str, str] | None:
    """(controllers, root, mount point) of a mount of groups; no controllers for version 2."""
    before, _, after = line.partition(" - ")
    fields, kind = before.split(" "), after.split(" ")
    if len(fields) < _MOUNT_FIELDS or kind[0] not in {"cgroup", "cgroup2"}:
        return None
    options = frozenset(kind[-1].split(",")) if kind[0] == "cgroup" else frozenset[str]()
    return options, _unescaped(fields[3]), _unescaped(fields[4])


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def _inside(path: str, root: str) -> str | None:
    """A group's path below the root of a mount; None when it is not there."""
    if ".." in path.split("/"):
        return None  # outside our namespace of groups
    if root == "/":
        return path.strip("/")
    if path == root or path.startswith(f"{root}/"):
        return path[len(root) :].strip("/")
    return None
