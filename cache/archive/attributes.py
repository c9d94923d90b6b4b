"""Owner, xattrs, mode and times of what was unpacked, set in the order that keeps them all.

Owns which attributes of a tar reach the disk. It must not know of tars or of trees.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from cache.archive.entry import Kind, encode
from cache.archive.header import quoted
from cache.archive.rooted import open_beneath
from cache.errors import ArchiveError, StoreError

if TYPE_CHECKING:
    from cache.archive.entry import Entry

OPAQUE_XATTR = "user.overlay.opaque"
_OVERLAY_XATTRS = "user.overlay."
_SETTABLE = frozenset(
    {"security.capability", "system.posix_acl_access", "system.posix_acl_default"}
)
_PERMISSIONS, _PRIVATE = 0o777, 0o600
_UNSETTABLE = frozenset({errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.E2BIG, errno.ERANGE})


class Dresser:
    """Gives files their owner, xattrs, mode and times, in this order.

    Changing the owner drops special mode bits and file capabilities; a file without write
    permission takes no `user.*` xattr.
    """

    def __init__(self, root_fd: int, *, keep_owner: bool) -> None:
        """Work below a root; without `keep_owner` everything stays the caller's."""
        self._root_fd = root_fd
        self._keep_owner = keep_owner
        inherits = os.fstat(root_fd).st_mode & stat.S_ISGID
        # New files belong to this pair, so most need no chown.
        self._own = None if inherits else (os.geteuid(), os.getegid())
        self._plain_bits = _PERMISSIONS & ~_masked(root_fd)

    def habits(self) -> tuple[bool, tuple[int, int] | None, int]:
        """Whether owners are kept, whom new files belong to, which permissions these can have."""
        return self._keep_owner, self._own, self._plain_bits

    def _needs_owner(self, entry: Entry) -> bool:
        return self._keep_owner and (entry.uid, entry.gid) != self._own

    def _is_plain(self, entry: Entry) -> bool:
        """Whether a file can be made with its mode: then it need not be changed."""
        return not entry.mode & ~self._plain_bits and not entry.xattrs

    def first_mode(self, entry: Entry) -> int:
        """The mode to make a file with that `created` gets."""
        return entry.mode if self._is_plain(entry) else _PRIVATE

    def created(self, fd: int, entry: Entry) -> None:
        """Dress a file that was just made with its `first_mode`."""
        if self._is_plain(entry) and not self._needs_owner(entry):
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        else:
            self.opened(fd, entry)

    def opened(self, fd: int, entry: Entry) -> None:
        """Dress a file or directory by its descriptor."""
        if self._needs_owner(entry):
            try:
                os.fchown(fd, entry.uid, entry.gid)
            except OSError as error:
                raise _unowned(entry, error) from error
        for name, value in entry.xattrs:
            if name in _SETTABLE or (
                name.startswith("user.") and not name.startswith(_OVERLAY_XATTRS)
            ):
                _set_xattr(fd, name, value)
        os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def closed(self, dir_fd: int, name: str, entry: Entry) -> None:
        """Dress what must not be opened: a symlink or fifo, which take no `user.*` xattrs."""
        raw = encode(name)
        if self._needs_owner(entry):
            try:
                os.chown(raw, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)
            except OSError as error:
                raise _unowned(entry, error) from error
        if entry.kind is Kind.FIFO:
            place = os.open(raw, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            try:
                os.chmod(f"/proc/self/fd/{place}", entry.mode)
            finally:
                os.close(place)
        os.utime(raw, ns=(entry.mtime, entry.mtime), dir_fd=dir_fd, follow_symlinks=False)

    def directory(self, path: str, entry: Entry, *, is_opaque: bool) -> None:
        """Dress a directory of the layer."""
        fd = open_beneath(self._root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if is_opaque and path:
                _set_opaque(fd, path)
            self.opened(fd, entry)
        finally:
            os.close(fd)


def _masked(root_fd: int) -> int:
    """The permissions that something made below a directory may come to lack.

    All of them where they are not known: a default ACL decides instead of the umask.
    """
    try:
        if "system.posix_acl_default" in os.listxattr(root_fd):
            return _PERMISSIONS
    except OSError:
        return _PERMISSIONS
    with suppress(OSError, ValueError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line[6:], 8)
    return _PERMISSIONS


def _set_xattr(fd: int, name: str, value: bytes) -> None:
    try:
        os.setxattr(fd, encode(name), value)
    except OSError as error:
        if error.errno not in _UNSETTABLE:
            raise


def _set_opaque(fd: int, path: str) -> None:
    try:
        os.setxattr(fd, OPAQUE_XATTR, b"y")
    except OSError as error:
        raise StoreError(
            f"cannot mark {quoted(path)} as opaque: {error.strerror}",
            hint="the state directory's file system needs user.* extended attributes",
        ) from error


def _unowned(entry: Entry, error: OSError) -> ArchiveError:
    return ArchiveError(
        f"cannot give {quoted(entry.path)} to {entry.uid}:{entry.gid}: {error.strerror}",
        hint="the user namespace does not map this id; give the user more subordinate ids",
    )
