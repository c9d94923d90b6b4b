"""The `.git` of a checkout that keeps it: made by git in a directory of its own, then written.

Owns its references and those of submodules (--keep-git-dir). No file of a repository is checked
out here: the index is read from the tree.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import tempfile
from typing import TYPE_CHECKING

from builder.git.program import GitError
from builder.git.resolve import is_commit
from cache.archive.entry import Entry, Kind
from cache.archive.rooted import remove_tree
from frontend.source import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.git.program import GitProgram
    from builder.git.remote import Remote
    from builder.git.repository import Repository
    from builder.git.resolve import Resolved
    from builder.git.submodules import Submodule
    from cache.layers import LayerWriter

NAME = ".git"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_SHA256 = 64  # digits of an object name in a repository of that format


class GitDirectory:
    """A `.git` under work, in `folder`."""

    def __init__(self, program: GitProgram, folder: str) -> None:
        """Use an empty directory."""
        self._program = program
        self._folder = folder

    def make(self, repository: Repository, remote: Remote, resolved: Resolved, commit: str) -> None:
        """Make the repository's own, as a shallow clone has it with a detached HEAD."""
        self._init(NAME, "", repository, remote, resolved.sha)
        first, *others = _references(resolved, is_tag=commit != resolved.sha) or [""]
        self._fetch(NAME, repository, resolved.sha, first)
        for reference in others:
            self._git(NAME, "update-ref", reference, resolved.sha)
        self._finish(NAME, commit)

    def add(
        self, parent: str, path: str, submodule: Submodule, repository: Repository, remote: Remote
    ) -> tuple[str, bytes]:
        """Make a submodule's, below that of its parent; gives it and the text of its `.git` file.

        `parent` is the git directory that the submodule is of, `path` its place in the checkout.
        """
        if any(part in {"", ".", ".."} for part in submodule.name.split("/")):
            raise GitError(f"submodule has the invalid name {printable(submodule.name)[:100]!r}")
        place = f"{parent}/modules/{submodule.name}"
        section = f"submodule.{submodule.name}"
        self._git(parent, "config", f"{section}.active", "true")
        self._git(parent, "config", f"{section}.url", remote.url)
        self._init(place, path, repository, remote, submodule.commit)
        self._fetch(place, repository, submodule.commit, "")
        self._finish(place, submodule.commit)
        self._git(place, "config", "core.worktree", posixpath.relpath(path, place))
        text = f"gitdir: {posixpath.relpath(place, path)}\n"
        return place, text.encode("utf-8", "surrogateescape")

    def write(self, writer: LayerWriter, mtime: int) -> None:
        """Write everything as entries of root's, directories first."""
        todo = [NAME]
        while todo:
            path = todo.pop()
            writer.add(Entry(path, Kind.DIRECTORY, 0o755, mtime=mtime))
            with os.scandir(f"{self._folder}/{path}") as found:
                names = sorted(found, key=lambda item: item.name)
            for item in names:
                if item.is_dir(follow_symlinks=False):
                    todo.append(f"{path}/{item.name}")
                else:
                    self._write_file(writer, f"{path}/{item.name}", mtime)

    def _write_file(self, writer: LayerWriter, path: str, mtime: int) -> None:
        descriptor = os.open(f"{self._folder}/{path}", _FILE)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            mode = 0o755 if status.st_mode & 0o100 else 0o644 if status.st_mode & 0o200 else 0o444
            writer.add(Entry(path, Kind.FILE, mode, size=status.st_size, mtime=mtime), file)

    def _git(self, place: str, *args: str, tree: str = "", local: bool = False) -> None:
        extra = {
            "GIT_DIR": f"{self._folder}/{place}",
            "GIT_WORK_TREE": f"{self._folder}/{tree}".rstrip("/"),
        }
        if local:
            extra["GIT_ALLOW_PROTOCOL"] = "file"
        self._program.run(*args, extra=extra, cwd=self._folder)

    def _init(
        self, place: str, tree: str, repository: Repository, remote: Remote, name: str
    ) -> None:
        os.makedirs(f"{self._folder}/{tree}", mode=0o755, exist_ok=True)
        os.makedirs(f"{self._folder}/{place}", mode=0o755, exist_ok=True)
        shape = ["--object-format=sha256"] if len(name) == _SHA256 else []
        self._git(place, "init", "--quiet", *shape, tree=tree)
        self._git(place, "remote", "add", "origin", remote.url)
        repository.keep(name)

    def _fetch(self, place: str, repository: Repository, name: str, reference: str) -> None:
        """Copy the objects of one commit from our own repository, by a path that is ours."""
        self._git(
            place, "fetch", "--update-head-ok", "--depth=1", "--no-tags", "--no-write-fetch-head",
            "--", repository.path, f"+refs/pybuild/{name}:{reference}".rstrip(":"),
            local=True,
        )  # fmt: skip

    def _finish(self, place: str, commit: str) -> None:
        self._git(place, "update-ref", "--no-deref", "HEAD", commit)
        self._git(place, "read-tree", commit)
        self._git(place, "reflog", "expire", "--all", "--expire=now")


@contextlib.contextmanager
def git_directory(program: GitProgram, root: str) -> Iterator[GitDirectory]:
    """A `.git` to make, in a directory below `root` that is gone when the block is left."""
    folder = tempfile.mkdtemp(prefix="kept-", dir=root)
    try:
        yield GitDirectory(program, folder)
    finally:
        above = os.open(root, _DIRECTORY)
        try:
            remove_tree(above, os.path.basename(folder))
        finally:
            os.close(above)


def _references(resolved: Resolved, *, is_tag: bool) -> list[str]:
    """The names that the object has in the reference implementation's clone."""
    ref = resolved.ref
    if is_commit(ref):
        return []
    if ref.startswith("refs/"):
        return [ref]
    if is_tag:
        return [f"refs/tags/{ref}"]
    # It fetches what has a short name through a tag of that name, which stays.
    return [f"refs/heads/{ref}", f"refs/tags/{ref}"]
