"""A commit as the entries of one layer: what a checkout would give, without one (A09).

Owns which trees are refused and how submodules are put in their places. Writes nothing to the
file system, so names and links of a hostile repository lead nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol

from builder.git.conversion import converted
from builder.git.gitdir import NAME
from builder.git.program import GitError
from builder.git.submodules import MAX_SUBMODULES, Submodule, submodules
from cache.archive.entry import MAX_NAME, MAX_PATH, NANOSECOND, Entry, Kind, decode
from cache.value import state, value
from frontend.source import printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from builder.git.gitdir import GitDirectory
    from builder.git.remote import Remote
    from builder.git.repository import Item, Repository
    from cache.layers import LayerWriter

MAX_ENTRIES = 1_000_000  # entries of one checkout with its submodules
MAX_BYTES = 16 * 1024**3  # bytes of all its files
_TREE, _LINK, _GITLINK = 0o040000, 0o120000, 0o160000
_TYPE = 0o170000
_EXECUTABLE = 0o100


class Opener(Protocol):
    """Gives the repository of a submodule with its commit fetched, and its remote."""

    def __call__(self, parent: Remote, submodule: Submodule) -> tuple[Repository, Remote]:
        """Fetch it."""


@value
class Part:
    """A repository's commit and where it goes; `prefix` is "" or ends in a slash.

    `git` is where its git directory is kept in the checkout.
    """

    repository: Repository
    remote: Remote
    commit: str
    prefix: str = ""
    git: str = NAME


@value
class Options:
    """What of a commit is wanted; `mtime` in nanoseconds, None for the commit's time.

    `kept` is the git directory that comes with it, made for the commit already.
    """

    subdir: str = ""
    submodules: bool = True
    mtime: int | None = None
    kept: GitDirectory | None = None


def write_checkout(part: Part, options: Options, writer: LayerWriter, fetch: Opener) -> None:
    """Write a commit's tree, then those of its submodules, as entries of root's.

    Raises:
        GitError: a tree that git would not check out, a limit, or a subdirectory that is none.
    """
    mtime = options.mtime
    if mtime is None:
        mtime = part.repository.commit(part.commit)[1] * NANOSECOND
    _Checkout(options, mtime, writer, fetch).run(part)


@state
class _Budget:
    entries: int = MAX_ENTRIES
    size: int = MAX_BYTES
    submodules: int = MAX_SUBMODULES

    def spend(self, *, size: int = 0, submodules: int = 0) -> None:
        self.entries -= 1
        self.size -= size
        self.submodules -= submodules
        if min(self.entries, self.size, self.submodules) < 0:
            raise GitError(
                f"repository is larger than {MAX_ENTRIES} files, {MAX_SUBMODULES} submodules"
                f" or {MAX_BYTES} bytes"
            )


class _Checkout:
    def __init__(self, options: Options, mtime: int, writer: LayerWriter, fetch: Opener) -> None:
        self._options = options
        self._mtime = mtime
        self._writer = writer
        self._fetch = fetch
        self._budget = _Budget()
        self._seen: set[str] = set()
        self._found = not options.subdir

    def run(self, part: Part) -> None:
        self._writer.add(Entry("", Kind.DIRECTORY, 0o755, mtime=self._mtime))
        todo = [part]
        while todo:
            todo += reversed(self._one(todo.pop()))
        if self._options.kept is not None:
            self._options.kept.write(self._writer, self._mtime)
        if not self._found:
            subdir = printable(self._options.subdir)[:200]
            raise GitError(
                f"invalid subdir {subdir}: no such directory in the repository",
                hint="check what follows the colon of #ref:subdir",
            )

    def _one(self, part: Part) -> list[Part]:
        """Write one repository's entries; gives the submodules to go on with."""
        items = list(part.repository.listing(part.commit))
        known = self._submodules(part, items)
        parts: list[Part] = []
        with (
            converted(part.repository, part.commit, items) as changed,
            part.repository.objects() as objects,
        ):
            for item in items:
                path = self._place(part.prefix, item)
                if item.mode & _TYPE == _GITLINK:
                    parts += self._submodule(part, item, path, known)
                elif item.mode & _TYPE == _TREE:
                    self._directory(path)
                elif (place := self._wanted(path)) is not None:
                    opener = changed.opener(item.path) or objects.blob(item.object)
                    self._file(opener, item, place)
        return parts

    def _submodules(self, part: Part, items: list[Item]) -> dict[bytes, Submodule]:
        if not self._options.submodules or all(item.mode & _TYPE != _GITLINK for item in items):
            return {}
        return submodules(part.repository, items)

    def _place(self, prefix: str, item: Item) -> str:
        """The path in the checkout, each once and none that leads elsewhere."""
        path = prefix + decode(item.path)
        _check_name(item.path.rpartition(b"/")[2])
        if len(prefix) + len(item.path) > MAX_PATH or path in self._seen:
            raise _bad_path(item.path)
        self._seen.add(path)
        return path

    def _wanted(self, path: str) -> str | None:
        """The path below the subdirectory that is asked for; None outside of it."""
        subdir = self._options.subdir
        if not subdir:
            return path
        return path[len(subdir) + 1 :] if path.startswith(f"{subdir}/") else None

    def _directory(self, path: str) -> None:
        self._budget.spend()
        self._found = self._found or path == self._options.subdir
        place = self._wanted(path)
        if place is not None:
            self._writer.add(Entry(place, Kind.DIRECTORY, 0o755, mtime=self._mtime))

    def _submodule(
        self, part: Part, item: Item, path: str, known: dict[bytes, Submodule]
    ) -> list[Part]:
        self._directory(path)
        submodule = known.get(item.path)
        subdir = self._options.subdir
        near = f"{path}/".startswith(f"{subdir}/") or f"{subdir}/".startswith(f"{path}/")
        if submodule is None or (subdir and not near):
            return []
        self._budget.spend(submodules=1)
        repository, remote = self._fetch(part.remote, submodule)
        git = part.git
        if self._options.kept is not None:
            git, text = self._options.kept.add(part.git, path, submodule, repository, remote)
            entry = Entry(f"{path}/{NAME}", Kind.FILE, size=len(text), mtime=self._mtime)
            self._writer.add(entry, text)
        return [Part(repository, remote, submodule.commit, f"{path}/", git)]

    def _file(
        self, opener: AbstractContextManager[tuple[int, BinaryIO]], item: Item, place: str
    ) -> None:
        with opener as (size, stream):
            self._budget.spend(size=size)
            if item.mode & _TYPE != _LINK:
                mode = 0o755 if item.mode & _EXECUTABLE else 0o644
                entry = Entry(place, Kind.FILE, mode, size=size, mtime=self._mtime)
                self._writer.add(entry, _Exactly(stream, size))  # type: ignore[arg-type]
                return
            if not 0 < size < MAX_PATH:
                raise GitError(f"symbolic link {printable(place)[:200]} has no usable target")
            target = stream.read(size)
            if b"\0" in target:
                raise GitError(f"symbolic link {printable(place)[:200]} has no usable target")
        self._writer.add(
            Entry(place, Kind.SYMLINK, 0o777, mtime=self._mtime, linkname=decode(target))
        )


class _Exactly:
    """The next bytes of a stream as a file of their own."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted) if wanted else b""
        self._left -= len(data)
        return data


def _check_name(name: bytes) -> None:
    """Refuse what git refuses to check out: names that mean other places, and its own."""
    if name in {b"", b".", b".."} or name.lower() == b".git" or len(name) > MAX_NAME:
        raise _bad_path(name)


def _bad_path(path: bytes) -> GitError:
    return GitError(f"repository holds the invalid path {printable(decode(path))[:200]!r}")
