"""Directories with short random names, claimed by one user at a time and removed when unclaimed.

Owns the protocol between processes: a claimed directory is locked (flock) until its claim
ends, so one that nobody locks and no record names was left by a crash. It must not know what
is inside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Self

from cache.errors import StoreError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# Six bytes with the separator: 500 lowers fit the one page of options that mount(2) takes.
_LENGTH = 5
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
# A default ACL of the host's would be inherited by every file of every tree.
_INHERITED = "system.posix_acl_default"
_TRIES = 1000
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@value
class Claim:
    """A directory that is ours until `fd` is closed."""

    name: str
    fd: int

    def __enter__(self) -> Self:
        """Hold the claim for a with-block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the claim; the directory stays."""
        os.close(self.fd)


@value
class Directories:
    """The directories in `path`, which stays open as `fd`."""

    path: str
    fd: int

    @classmethod
    def open(cls, path: str) -> Self:
        """Open a directory of directories, making it closed to other users when missing.

        Raises:
            StoreError: it cannot be made or opened.
        """
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            msg = f"cannot use {path!r}: {error.strerror}"
            raise StoreError(msg) from error
        with contextlib.suppress(OSError):  # none there, or a file system without ACLs
            os.removexattr(descriptor, _INHERITED)
        return cls(path, descriptor)

    def claim(self) -> Claim:
        """Make a directory of a new name and lock it.

        Raises:
            StoreError: the directory cannot be made.
        """
        try:
            for _ in range(_TRIES):
                name = "".join(_ALPHABET[byte & 31] for byte in os.urandom(_LENGTH))
                try:
                    os.mkdir(name, dir_fd=self.fd)
                except FileExistsError:
                    continue
                claim = self.lock(name)
                if claim is not None:
                    return claim
        except OSError as error:
            msg = f"cannot make a directory in {self.path!r}: {error.strerror}"
            raise StoreError(msg) from error
        msg = f"no free name in {self.path!r}"
        raise StoreError(msg)

    def lock(self, name: str) -> Claim | None:
        """Lock an existing directory; None when it is gone or somebody else's."""
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            here = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            if os.path.samestat(here, os.fstat(descriptor)):
                return Claim(name, descriptor)
        except (BlockingIOError, FileNotFoundError):
            pass  # locked by its user, or removed between open and lock
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def adopt(self, directory_fd: int, source: Directories, path: str) -> Claim:
        """Move the open directory `path` of `source` here under a new name; its claim owns the fd.

        It is locked before it appears here, so that nobody takes it for something left behind.
        """
        try:
            fcntl.flock(directory_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self.claim() as claim:
                try:
                    os.rename(path, claim.name, src_dir_fd=source.fd, dst_dir_fd=self.fd)
                except BaseException:
                    os.rmdir(claim.name, dir_fd=self.fd)
                    raise
                return Claim(claim.name, directory_fd)
        except BaseException:
            os.close(directory_fd)
            raise

    def sweep(self, is_used: Callable[[str], bool]) -> int:
        """Remove what is neither used nor claimed; return how many directories."""
        count = 0
        for name in sorted(os.listdir(self.fd)):
            claim = None if is_used(name) else self.lock(name)
            if claim is None:
                continue
            with claim:
                if not is_used(name):  # it may have come into use before we had the lock
                    self.remove(name)
                    count += 1
        return count

    def has(self, name: str) -> bool:
        """Whether there is such a directory."""
        return self.changed(name) is not None

    def changed(self, name: str) -> float | None:
        """When a directory was last changed itself, in seconds; None when there is none."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_ctime
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a directory and all in it; absent is success."""
        from cache.archive.rooted import remove_tree  # noqa: PLC0415 - not needed by a cached build

        if self.has(name):
            remove_tree(self.fd, name)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)
