"""The port to a tree that COPY, ADD and bind mounts read, and the one way links are followed.

Owns path resolution over any tree. Must not know Dockerfiles, caches or the host's paths.
"""

from __future__ import annotations

from cache.archive.entry import Kind
from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING, BinaryIO, Protocol
from frontend.source import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from contextlib import AbstractContextManager

    from cache.archive.entry import Entry

MAX_LINKS = 255  # symlinks followed for one path, as for merged trees
_CAPABILITY = "security.capability"
_MAX_STEPS = 16_384  # parts walked over them all: targets may be long, too


class CopyError(PybuildError):
    """A COPY, ADD or WORKDIR that cannot be done as written."""


class SourceTree(Protocol):
    """A tree of entries by in-image path; never changes under its reader without an error."""

    @property
    def lasting(self) -> bytes | None:
        """What names the whole tree and its content for good; None for one that may change."""

    @property
    def place(self) -> str:
        """What names a tree that may change from build to build; "" for one that never does."""

    def get(self, path: str, /) -> Entry | None:
        """The entry at a path, its last part not followed; None when absent or ignored."""

    def children(self, path: str, /) -> list[str]:
        """Sorted names in a directory; empty for anything else."""

    def entries(self, path: str, /) -> list[Entry]:
        """What `get` says of every child, in the order of `children`."""

    def resolve(self, path: str, /, *, follow_last: bool = True) -> str:
        """The path with its links followed inside this tree; it need not exist."""

    def open(self, path: str, /) -> AbstractContextManager[BinaryIO]:
        """The payload of a file: exactly `entry.size` bytes, or an error that names it."""

    def read(self, path: str, /) -> bytes:
        """The whole payload of a small file, under the same promise as `open`."""

    def digest(self, path: str, /) -> bytes:
        """The sha256 of a file's payload."""

    def known_digest(self, path: str, /) -> bytes | None:
        """The sha256 of a file's payload if no byte need be read to tell."""

    def group(self, path: str, /) -> Hashable | None:
        """What names of one inode have in common; None for a file with a single name."""

    def fingerprint(self, path: str, /) -> bytes | None:
        """A value that changes whenever anything at or below a path may have; None: unknown."""

    def trusted(self, path: str, /) -> bool:
        """Whether a path's fingerprint may be remembered beyond this build (J10)."""

    def hidden(self, path: str, /) -> bool:
        """Whether something is there that ignore rules hide."""


def carried(xattrs: tuple[tuple[str, bytes], ...]) -> tuple[tuple[str, bytes], ...]:
    """What comes along when a file is copied: its capability, and nothing else, as elsewhere."""
    return tuple(pair for pair in xattrs if pair[0] == _CAPABILITY) if xattrs else ()


def join(parent: str, name: str) -> str:
    """Join in-image paths; an empty side adds nothing."""
    return f"{parent}/{name}" if parent and name else parent or name


def shown(path: str) -> str:
    """Render a path for a message: absolute, control characters made visible."""
    return printable(f"/{path.lstrip('/')}").encode("utf-8", "replace").decode()


def clean(path: str) -> str:
    """Make a path an in-image one: rooted, without empty, `.` and `..` parts (C20)."""
    done: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del done[-1:]
        elif part not in {"", "."}:
            done.append(part)
    return "/".join(done)


def resolve(get: Callable[[str], Entry | None], path: str, *, follow_last: bool = True) -> str:
    """Follow links as a process rooted at the tree would; parts that do not exist are kept.

    Raises:
        CopyError: more links than are ever meant, or a loop.
    """
    todo = [part for part in reversed(path.split("/")) if part not in {"", "."}]
    here = ""
    links = steps = 0
    while todo:
        part = todo.pop()
        steps += 1
        if part == "..":
            here = here.rpartition("/")[0]
            continue
        above, here = here, f"{here}/{part}" if here else part
        if not todo and not follow_last:
            break
        entry = get(here)
        if entry is None or entry.kind is not Kind.SYMLINK:
            continue
        links += 1
        if links > MAX_LINKS or steps > _MAX_STEPS:
            raise CopyError(f'"{shown(path)}": too many levels of symbolic links')
        here = "" if entry.linkname.startswith("/") else above
        target = reversed(entry.linkname.split("/"))
        todo.extend(part for part in target if part not in {"", "."})
    return here
