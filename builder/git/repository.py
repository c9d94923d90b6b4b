"""Bare repositories in the state directory, one a remote: fetched into, and read from.

Objects only ever come; nothing is checked out, so no hook, filter or path of a repository acts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from typing import TYPE_CHECKING, BinaryIO

from builder.git.program import GitError, GitFailedError
from builder.git.remote import redacted
from builder.git.sweep import READY
from cache.spec.digest import framed
from cache.value import value
from frontend.source import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.git.program import GitProgram
    from builder.git.remote import Remote

_SHA256 = 64  # digits of an object name in a repository of that format
_WAIT = 0.05  # seconds between looks at a lock that another build holds
_ITEM = re.compile(rb"([0-7]{6}) (blob|tree|commit) ([0-9a-f]{40,64})\t(.+)\Z", re.DOTALL)
_HEAD = re.compile(rb"[0-9a-f]{40,64} ([a-z]+) ([0-9]{1,19})\n\Z")
_COMMITTER = re.compile(rb"\ncommitter [^\n]*> ([0-9]{1,12}) [-+0-9]+\n")
# Servers that lack a feature; the same fetch without it may go.
_NO_DEPTH = ("shallow", "--depth")


@value
class Item:
    """An entry of a listed tree: its mode as git has it, its object, its path."""

    mode: int
    object: str
    path: bytes


class Repository:
    """One bare repository; `fetch` needs its lock, the rest does not."""

    def __init__(self, program: GitProgram, path: str) -> None:
        """Use a repository that is there; `opened` makes one."""
        self._program = program
        self.path = path

    def run(
        self,
        *args: str,
        extra: Mapping[str, str] | None = None,
        data: bytes = b"",
        cwd: str = "/",
    ) -> bytes:
        """Run a git command on it; its first argument is the command."""
        place = {"GIT_DIR": self.path}
        return self._program.run(*args, extra={**place, **(extra or {})}, data=data, cwd=cwd)

    def has(self, name: str) -> bool:
        """Whether an object and, of a tag, its commit are there."""
        try:
            self.run("cat-file", "-e", f"{name}^{{commit}}")
        except GitFailedError:
            return False
        return True

    def keep(self, name: str) -> None:
        """Give an object a reference, so that it can be fetched from here."""
        self.run("update-ref", f"refs/pybuild/{name}", name)

    def fetch(self, remote: Remote, name: str, ref: str = "") -> None:
        """Bring an object: by its reference, as every server allows that, or by its name.

        Raises:
            GitError: the remote does not have it, or failed.
        """
        if self.has(name):
            return
        failure: GitFailedError | None = None
        attempts = [[f"+{ref}:refs/pybuild/last"]] if ref.startswith("refs/") else []
        attempts += [[f"+{name}:refs/pybuild/{name}"], ["+refs/heads/*:refs/pybuild/heads/*"]]
        attempts += [["+refs/*:refs/pybuild/all/*"]]
        for refspecs in attempts:
            try:
                self._fetch(remote, refspecs, shallow="*" not in refspecs[0])
            except GitFailedError as error:
                failure = failure or error
            if self.has(name):
                self.keep(name)
                return
        if failure is not None:
            raise failed(f"failed to fetch remote {remote.shown}", failure) from failure
        raise GitError(f"{remote.shown} does not have {name}")

    def _fetch(self, remote: Remote, refspecs: list[str], *, shallow: bool) -> None:
        with contextlib.suppress(FileNotFoundError):  # left by a build that was killed
            os.unlink(f"{self.path}/shallow.lock")
        depth = ["--depth=1"] if shallow else []
        if not depth and os.path.exists(f"{self.path}/shallow"):
            depth = ["--unshallow"]
        args = ["--no-tags", "--no-auto-maintenance", "--no-write-fetch-head", "--update-shallow"]
        end = ["--", remote.url, *refspecs]
        try:
            self._get(remote, *args, *depth, *end)
        except GitFailedError as error:
            if not depth or not any(word in error.stderr for word in _NO_DEPTH):
                raise
            self._get(remote, *args, *end)

    def _get(self, remote: Remote, *args: str) -> None:
        place = {"GIT_DIR": self.path}
        self._program.run("fetch", *args, settings=remote.settings, extra=place)

    def commit(self, name: str) -> tuple[str, int]:
        """The commit behind a name, and its time in seconds.

        Raises:
            GitError: it is no commit.
        """
        found = self.run("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        commit = found.decode().strip()
        match = _COMMITTER.search(
            self.run("cat-file", "commit", commit).partition(b"\n\n")[0] + b"\n"
        )
        return commit, int(match[1]) if match is not None else 0

    def listing(self, commit: str) -> Iterator[Item]:
        """Every entry below a commit's root, directories before what they hold."""
        text = self.run("ls-tree", "-r", "-t", "-z", "--full-tree", commit)
        for line in text.split(b"\0"):
            if not line:
                continue
            match = _ITEM.match(line)
            if match is None:
                raise GitError(f"tree of {commit} holds an entry that git cannot name")
            yield Item(int(match[1], 8), match[3].decode(), match[4])

    @contextlib.contextmanager
    def objects(self) -> Iterator[Objects]:
        """Start reading blobs."""
        place = {"GIT_DIR": self.path}
        with self._program.started("cat-file", "--batch", extra=place) as process:
            if process.stdin is None or process.stdout is None:
                raise GitError("git was started without pipes")
            yield Objects(process.stdin, process.stdout)
            process.stdin.close()


class Objects:
    """Blobs, one after the other."""

    def __init__(self, requests: object, replies: object) -> None:
        """Speak to `git cat-file --batch`."""
        self._requests: BinaryIO = requests  # type: ignore[assignment]
        self._replies: BinaryIO = replies  # type: ignore[assignment]

    @contextlib.contextmanager
    def blob(self, name: str) -> Iterator[tuple[int, BinaryIO]]:
        """The size and the bytes of a blob; read them all before the block ends.

        Raises:
            GitError: it is not there, or git ended.
        """
        try:
            self._requests.write(f"{name}\n".encode())
            self._requests.flush()
        except OSError as error:
            raise GitError("git ended while it was read from") from error
        match = _HEAD.match(self._replies.readline(200))
        if match is None or match[1] != b"blob":
            raise GitError(f"object {name} is missing or no file")
        yield int(match[2]), self._replies
        if self._replies.read(1) != b"\n":
            raise GitError(f"object {name} is not as long as git said")


@contextlib.contextmanager
def opened(program: GitProgram, root: str, remote: Remote, name: str) -> Iterator[Repository]:
    """Lock and open the repository of a remote below `root`; made when there is none.

    `name` is an object to come, which tells the format.
    """
    sha256 = len(name) == _SHA256
    kind = b"sha256" if sha256 else b"sha1"
    key = framed("pybuild.git.v1", [remote.url.encode("utf-8", "surrogateescape"), kind]).hex[:32]
    path = f"{root}/{key}"
    os.makedirs(root, mode=0o700, exist_ok=True)
    with _locked(program, f"{path}.lock"):
        repository = Repository(program, path)
        if not os.path.exists(f"{path}/{READY}"):
            # `init` on a half-made one completes it.
            repository.run(
                "init", "--quiet", "--bare", "--template=",
                *(["--object-format=sha256"] if sha256 else []),
            )  # fmt: skip
            os.close(os.open(f"{path}/{READY}", os.O_CREAT | os.O_WRONLY, 0o600))
        os.utime(f"{path}/{READY}")
        yield repository


@contextlib.contextmanager
def _locked(program: GitProgram, path: str) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if program.cancelled:
                    raise GitError("cancelled") from None
                time.sleep(_WAIT)
        yield
    finally:
        os.close(lock)


def failed(what: str, error: GitFailedError) -> GitError:
    """Word a failure with what git said, and the next step where that is known."""
    said = printable(redacted(error.message).partition(" failed: ")[2])
    return GitError(f"{what}: {said}", hint=hint_of(error.stderr))


def hint_of(stderr: str) -> str | None:
    """The next step for what git said."""
    known = (
        ("Host key verification failed", "add the host to ~/.ssh/known_hosts (ssh-keyscan HOST)"),
        ("Permission denied (publickey", "give an agent that has the key with --ssh default"),
        ("could not read Username", "give a token with --secret id=GIT_AUTH_TOKEN,env=NAME"),
        ("Authentication failed", "check the secret GIT_AUTH_TOKEN or GIT_AUTH_HEADER"),
        ("cannot run ssh", "install an ssh client"),
        ("Could not resolve host", "check the host's name and the network"),
    )
    return next((hint for words, hint in known if words in stderr), None)
