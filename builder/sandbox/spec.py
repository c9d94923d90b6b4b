"""A RUN step as data: complete before any namespace exists, sent as JSON to the launcher.

Host paths here are absolute and chosen by pybuild; in-image paths (target, cwd, user) come
from the Dockerfile and are resolved by init inside the step's root only.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable


DEFAULT_SHM_SIZE = 64 * 1024 * 1024  # bytes of /dev/shm, as other runtimes give


class NetworkMode(StrEnum):
    """HOST shares the builder's network; NONE has loopback only.

    SANDBOX is a network of the step's own that reaches the world but not the host's loopback.
    """

    HOST = "host"
    NONE = "none"
    SANDBOX = "sandbox"


@value
class Overlay:
    """The step's root: an overlayfs. `lowers` are names relative to `base`, topmost first.

    `beneath` are more of those, which are no part of the image: places to mount on.
    """

    base: str
    lowers: tuple[str, ...]
    upper: str
    work: str
    beneath: tuple[str, ...] = ()


@value
class PlainRoot:
    """The step's root where nothing can be mounted: a directory, changed in place.

    `links` are paths and texts of symbolic links in it, for who needs to know them.
    """

    path: str
    links: tuple[tuple[str, str], ...] = ()


@value
class Recorded:
    """What a file is meant to be where the kernel did not allow it: kept beside the tree.

    `name` is an in-image path in a specification and `device:inode` in an outcome. Ids are -1
    and `mode` (type and permission bits) is -1 where the file itself tells; `device` is a
    device's major and minor number; xattrs are protected ones, such as file capabilities.
    """

    name: str
    uid: int = -1
    gid: int = -1
    mode: int = -1
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()


@value
class Bind:
    """Mount `source` (a host path; symlinks in its last part are not followed) at `target`.

    `subpath` is an in-tree path resolved inside `source` without leaving it (SEC-7). `uid` and
    `gid` are whose it is to be where ids can only be recorded, -1 for what it is by itself.
    """

    source: str
    target: str
    subpath: str = ""
    readonly: bool = True
    uid: int = -1
    gid: int = -1


@value
class BindOverlay:
    """Mount `subpath` of a merged tree at `target`: lowers as in Overlay, changes thrown away.

    `recorded` is of the whole tree.
    """

    base: str
    lowers: tuple[str, ...]
    target: str
    subpath: str = ""
    readonly: bool = True
    recorded: tuple[Recorded, ...] = ()


@value
class Tmpfs:
    """An empty tmpfs; size in bytes, 0 for no limit."""

    target: str
    size: int = 0
    readonly: bool = False


@value
class MemoryFile:
    """A file that exists in memory only (secret, script). `data` is base64 in the JSON."""

    target: str
    data: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


StepMount = Bind | BindOverlay | Tmpfs | MemoryFile


@value
class Process:
    """What runs. `user` is the USER text, resolved in the image's /etc/passwd by init (I06)."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    cwd: str = "/"
    user: str = ""


@value
class SandboxSpec:
    """Everything one step needs. `resolv_conf` and `hosts` are file contents to bind.

    `insecure` leaves out what keeps the step in: it has every capability of the namespace, no
    filter that forbids anything, nothing masked (R21). `ulimits` are (docker's name, soft, hard), -1 for no limit.
    """

    root: Overlay | PlainRoot
    process: Process
    mounts: tuple[StepMount, ...] = ()
    network: NetworkMode = NetworkMode.HOST
    hostname: str = "buildkitsandbox"
    resolv_conf: bytes = b""
    hosts: bytes = b""
    shm_size: int = DEFAULT_SHM_SIZE
    insecure: bool = False
    ulimits: tuple[tuple[str, int, int], ...] = ()
    cgroups: tuple[str, ...] = ()  # directories of control groups to be in
    processors: tuple[int, ...] = ()  # numbers of those to run on; none for any
    recorded: tuple[Recorded, ...] = ()  # of the tree as the step finds it
    interactive: bool = False  # stdin of the caller instead of /dev/null (pybuild run)
    netns: str = ""  # with SANDBOX: the path of the namespace to enter


@value
class Outcome:
    """How a step ended: exit code (128+n for signal n) and the mount stubs init created.

    `stubs` are in-image paths made only to mount on, deepest first, with the mtime in
    nanoseconds their parent had before; the snapshotter removes those still empty (R07).
    `memory_limit` is not 0 when a process was killed for wanting more bytes than that.
    """

    exit_code: int
    stubs: tuple[tuple[str, int], ...] = ()
    recorded: tuple[Recorded, ...] = ()
    memory_limit: int = 0


class Sandbox(Protocol):
    """Runs steps. One per build; `close` ends every process it started."""

    def run(self, spec: SandboxSpec, output: Callable[[int, bytes], None]) -> Outcome:
        """Run to the end, calling output(stream, data) as it comes; may be called from threads.

        Raises:
            SandboxError: it could not be set up; HostUnsupportedError if the host cannot.
        """

    def cancel(self) -> None:
        """Kill every running step; their `run` calls return with exit code 137."""

    def close(self) -> None:
        """Cancel, then end the launcher; idempotent."""
