"""What a reference names today: asked of the remote, unless it is a whole commit (K22, A10)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.git.program import GitError
from cache.value import value
from frontend.source import printable

if TYPE_CHECKING:
    from builder.git.program import GitProgram
    from builder.git.remote import Remote
    from frontend.graph import GitOp

_TIMEOUT = 300.0  # seconds of asking for references
_COMMIT = re.compile(r"(?:[0-9a-f]{40}|[0-9a-f]{64})\Z")
_HEX = re.compile(r"[0-9a-fA-F]+\Z")
_BRANCH = re.compile(r"ref: refs/heads/(\S+)\tHEAD")
_HEADS, _TAGS, _REFS = "refs/heads/", "refs/tags/", "refs/"
_PEELED = "^{}"


@value
class Resolved:
    """A reference and its object: `sha` as advertised, `commit` behind it where that is known.

    `ref` is as asked for, the default branch's name if nothing was; `full` is the one that
    matched, or the object's own name.
    """

    ref: str
    full: str
    sha: str
    commit: str


def is_commit(text: str) -> bool:
    """Whether a text is the whole name of an object, SHA-1 or SHA-256."""
    return _COMMIT.match(text) is not None


def resolve(program: GitProgram, remote: Remote, op: GitOp) -> Resolved:
    """Find the object, and hold it against the checksum.

    Raises:
        GitError: no such reference, another checksum, or the remote does not answer.
    """
    if op.checksum and _HEX.match(op.checksum) is None:
        raise GitError(f"invalid checksum {op.checksum[:80]} for git URL, expected hex commit hash")
    if is_commit(op.ref):
        _check(op.checksum, op.ref)
        return Resolved(op.ref, op.ref, op.ref, op.ref)
    if op.fetch_by_commit:
        return _by_commit(op)
    found = _asked(program, remote, op.ref)
    _check(op.checksum, found.sha, found.commit)
    return found


def _by_commit(op: GitOp) -> Resolved:
    """Trust the checksum; the reference is only a name then."""
    if not op.checksum:
        raise GitError("fetch-by-commit requires a checksum or a commit SHA ref")
    if not is_commit(op.checksum):
        raise GitError(
            f'fetch-by-commit requires a full commit SHA checksum, got "{op.checksum[:80]}"'
        )
    ref = op.ref if op.ref.startswith(_REFS) or not op.ref else _HEADS + op.ref
    return Resolved(ref or op.checksum, ref or op.checksum, op.checksum, op.checksum)


def _asked(program: GitProgram, remote: Remote, ref: str) -> Resolved:
    if not ref:
        text = _listed(program, remote, "--symref", "--", remote.url, "HEAD")
        branch = _BRANCH.search(text)
        if branch is None:
            raise GitError(
                f"could not find default branch for repository: {remote.shown}",
                hint="name a branch, such as with #main",
            )
        ref = branch[1]
    text = _listed(program, remote, "--", remote.url, ref, ref + _PEELED)
    known = {name: sha for sha, _, name in (line.partition("\t") for line in text.split("\n"))}
    partial = _REFS + ref.removeprefix(_REFS)
    head = _HEADS + ref.removeprefix(_HEADS)
    tag = _TAGS + ref.removeprefix(_TAGS)
    # Git prefers branches when a name is a tag's as well.
    full = next((name for name in (partial, head, tag) if name in known), None)
    if full is None or full.endswith(_PEELED):
        raise GitError(
            f"repository does not contain ref {printable(ref)[:100]}",
            hint="give a branch, a tag or a whole commit hash",
        )
    sha = known[full]
    # What a tag's object is about counts only where the tag is what was meant.
    commit = known.get(full + _PEELED, sha) if full == tag else sha
    if not is_commit(sha) or not is_commit(commit):
        raise GitError(f"invalid commit sha {printable(sha)[:100]!r}")
    return Resolved(ref, full, sha, commit)


def _listed(program: GitProgram, remote: Remote, *args: str) -> str:
    output = program.run("ls-remote", *args, settings=remote.settings, timeout=_TIMEOUT)
    return output.decode("utf-8", "surrogateescape")


def _check(checksum: str, *shas: str) -> None:
    """Hold names against a checksum, which may be the beginning of one of them.

    Raises:
        GitError: none of them begins with it.
    """
    if checksum and not any(sha.startswith(checksum) for sha in shas):
        found = " or ".join(dict.fromkeys(shas))
        raise GitError(
            f"expected checksum to match {checksum}, got {found}",
            hint="check the reference, or give its commit as the checksum",
        )
