"""Git as a source of trees: one object for a build, from a GitOp to the layer of its checkout."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from typing import TYPE_CHECKING

from builder.git.program import Agent, GitError, GitFailedError, GitProgram
from builder.git.redirects import following
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
        self,
        root: str,
        environ: Mapping[str, str],
        secrets: Mapping[str, bytes],
        agent: Agent | None = None,
    ) -> None:
        """Keep repositories below `root`/git; what ssh may use is `agent`."""
        self._root = f"{root}/git"
        self._agent = agent or Agent()
        self._program = GitProgram(environ, self._agent)
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
                remote = self._remote(op.url)
                try:
                    found = following(
                        self._program, remote, lambda there: resolve(self._program, there, op)
                    )
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
        from builder.git.gitdir import git_directory  # noqa: PLC0415 - the same

        resolved = self.resolve(op)
        remote = self._remote(op.url)
        with opened(self._program, self._root, remote, resolved.sha) as repository:
            wanted = "" if op.fetch_by_commit else resolved.full
            following(
                self._program, remote, lambda there: repository.fetch(there, resolved.sha, wanted)
            )
        commit, _ = repository.commit(resolved.sha)
        _verify(op, resolved, commit)

        def fetch(parent: Remote, submodule: Submodule) -> tuple[Repository, Remote]:
            return self._submodule(remote, parent, submodule)

        part = Part(repository, remote, commit)
        time = None if op.mtime == "commit" else mtime
        with contextlib.ExitStack() as stack:
            kept = None
            if op.keep_git_dir and not op.subdir:
                kept = stack.enter_context(git_directory(self._program, self._root))
                kept.make(repository, remote, resolved, commit)
            write_checkout(part, Options(op.subdir, op.submodules, time, kept), writer, fetch)

    def _remote(self, url: str, main: Remote | None = None) -> Remote:
        remote = self._remotes.of(url, main)
        if remote.over_ssh and not self._agent:
            raise GitError(
                'no SSH key "default" forwarded from the client',
                hint="lend your ssh agent with --ssh default",
            )
        return remote

    def _submodule(
        self, main: Remote, parent: Remote, submodule: Submodule
    ) -> tuple[Repository, Remote]:
        try:
            remote = self._remote(relative(parent.full, submodule.url), main)
            with opened(self._program, self._root, remote, submodule.commit) as repository:
                following(
                    self._program, remote, lambda there: repository.fetch(there, submodule.commit)
                )
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


def agent_of(request: BuildRequest, environ: Mapping[str, str]) -> Agent:
    """What ssh may use: the agent or the keys of --ssh default, and the user's known hosts.

    A build whose context is cloned over ssh lends its agent without being told to, as docker does.
    """
    hosts = _known_hosts(environ)
    socket = environ.get("SSH_AUTH_SOCK", "")
    for source in request.ssh:
        if source.id != "default":
            continue
        if len(source.paths) == 1 and _is_socket(source.paths[0]):
            return Agent(source.paths[0], (), hosts)
        return Agent("", source.paths, hosts) if source.paths else Agent(socket, (), hosts)
    lent = not request.ssh and _over_ssh(request.context)
    return Agent(socket if lent else "", (), hosts)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _over_ssh(url: str) -> bool:
    return url.lower().startswith("ssh://") or (
        "@" in url and "://" not in url and not os.path.lexists(url)
    )
