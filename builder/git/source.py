"""Git as a source of trees: one object for a build, from a GitOp to the layer of its checkout."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

from builder.git.program import Agent, GitError, GitFailedError, GitProgram
from builder.git.remote import Remotes, relative
from builder.git.repository import Repository, failed, opened
from builder.git.resolve import Resolved, resolve
from frontend.source import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.git.remote import Remote
    from builder.git.submodules import Submodule
    from builder.request import BuildRequest
    from cache.layers import LayerWriter
    from frontend.graph import GitOp


class GitSource:
    """Resolves and writes; safe for several threads."""

    def __init__(
        self, root: str, environ: Mapping[str, str], secrets: Mapping[str, bytes], socket: str = ""
    ) -> None:
        """Keep repositories below `root`/git; `socket` is the ssh agent's, "" for none."""
        self._root = f"{root}/git"
        self._program = GitProgram(environ, Agent(socket, _known_hosts(environ)))
        self._remotes = Remotes(secrets)
        self._resolved: dict[GitOp, Resolved] = {}
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Kill running git commands."""
        self._program.cancel()

    def resolve(self, op: GitOp) -> Resolved:
        """What the reference names, asked once a build.

        Raises:
            GitError: it names nothing, or not what the checksum says.
        """
        with self._lock:
            found = self._resolved.get(op)
            if found is None:
                remote = self._remotes.of(op.url)
                try:
                    found = resolve(self._program, remote, op)
                except GitFailedError as error:
                    raise failed(f"failed to fetch remote {remote.shown}", error) from error
                self._resolved[op] = found
        return found

    def write(self, op: GitOp, writer: LayerWriter, mtime: int) -> None:
        """Fetch what is missing and write the checkout; `mtime` (ns) is the time it has.

        Raises:
            GitError: it cannot be fetched, or is not what the checksum says.
        """
        from builder.git.checkout import Options, Part, write_checkout  # noqa: PLC0415 - on a miss

        resolved = self.resolve(op)
        remote = self._remotes.of(op.url)
        with opened(self._program, self._root, remote, resolved.sha) as repository:
            wanted = "" if op.fetch_by_commit else resolved.full
            repository.fetch(remote, resolved.sha, wanted)
        commit, _ = repository.commit(resolved.sha)
        _verify(op, resolved, commit)
        options = Options(op.subdir, op.submodules, None if op.mtime == "commit" else mtime)

        def fetch(parent: Remote, submodule: Submodule) -> tuple[Repository, Remote]:
            return self._submodule(remote, parent, submodule)

        write_checkout(Part(repository, remote, commit), options, writer, fetch)

    def _submodule(
        self, main: Remote, parent: Remote, submodule: Submodule
    ) -> tuple[Repository, Remote]:
        try:
            remote = self._remotes.of(relative(parent.full, submodule.url), main)
            with opened(self._program, self._root, remote, submodule.commit) as repository:
                repository.fetch(remote, submodule.commit)
        except GitError as error:
            path = printable(submodule.path)[:200]
            raise GitError(f"submodule {path}: {error.message}", hint=error.hint) from error
        return repository, remote


def _verify(op: GitOp, resolved: Resolved, commit: str) -> None:
    """Hold what was fetched against the checksum: the object itself or the commit behind it."""
    names = dict.fromkeys((resolved.sha, commit))
    if op.checksum and not any(name.startswith(op.checksum) for name in names):
        raise GitError(f"expected checksum to match {op.checksum}, got {' or '.join(names)}")
    if resolved.commit not in names:  # it would be cached as what it is not
        raise GitError(f"{printable(resolved.full)[:100]} is not the commit that was announced")


def _known_hosts(environ: Mapping[str, str]) -> str:
    """The user's own file; ssh would look for another one where the user is mapped to root."""
    path = f"{environ.get('HOME', '')}/.ssh/known_hosts"
    try:
        return path if stat.S_ISREG(os.stat(path).st_mode) and '"' not in path else ""
    except OSError:
        return ""


def agent_socket(request: BuildRequest, environ: Mapping[str, str]) -> str:
    """The ssh agent that git may use: the one of --ssh default, "" for none.

    A build whose context is cloned over ssh lends its agent without being told to, as docker does.
    """
    for source in request.ssh:
        if source.id == "default":
            return next(iter(source.paths), "") or environ.get("SSH_AUTH_SOCK", "")
    if not request.ssh and _over_ssh(request.context):
        return environ.get("SSH_AUTH_SOCK", "")
    return ""


def _over_ssh(url: str) -> bool:
    return url.lower().startswith("ssh://") or (
        "@" in url and "://" not in url and not os.path.lexists(url)
    )
