"""Paths confined to a root directory: opening, making and removing what lies below a descriptor.

Owns the only joins of an in-image path with a host directory. Symlinks of the image are followed
inside the root, as after chroot(2); kernel magic links never are. openat2(2) does it in one
step; where it is missing, a walk over O_NOFOLLOW descriptors does the same.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from functools import cache
from typing import TYPE_CHECKING

from cache.archive.entry import MAX_PATH, decode, encode
from cache.archive.header import quoted
from cache.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable

IN_ROOT = 0x10 | 0x02  # RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS: symlinks stay in the root
NO_LINKS = 0x08 | 0x04  # RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS: a symlink anywhere is an error
_OPENAT2 = 437  # the system call's number on every architecture
_MAX_LINKS = 40  # symlinks followed for one path, as in the kernel
_RETRIES = 16  # openat2 gives EAGAIN when something is renamed under it
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_ALL = 0o700
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


def open_in_root(root_fd: int, path: str, flags: int = os.O_PATH) -> int:
    """Open a path as a process chrooted to the root would; the last component is followed too.

    Raises:
        OSError: as open(2); ELOOP for too many symlinks.
    """
    return _open(root_fd, path, flags, IN_ROOT, walk_in_root)


def open_beneath(root_fd: int, path: str, flags: int = os.O_PATH | os.O_DIRECTORY) -> int:
    """Open a path none of whose components is a symlink.

    Raises:
        OSError: as open(2); ELOOP or ENOTDIR for a symlink.
    """
    return _open(root_fd, path, flags | os.O_NOFOLLOW, NO_LINKS, walk_beneath)


def _open(
    root_fd: int, path: str, flags: int, resolve: int, walk: Callable[[int, str, int], int]
) -> int:
    for _ in range(_RETRIES):
        try:
            return openat2(root_fd, path, flags, resolve)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                continue
            # A seccomp filter that does not know the call answers EPERM.
            if error.errno not in {errno.ENOSYS, errno.EPERM}:
                raise
            break
    return walk(root_fd, path, flags)


def openat2(root_fd: int, path: str, flags: int, resolve: int) -> int:
    """Ask the kernel, by the system call of that name, for a path relative to the root.

    Raises:
        OSError: as the call; ENOSYS where there is none.
    """
    relative = encode(path).lstrip(b"/") or b"."
    if b"\0" in relative:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    numbers = (flags | os.O_CLOEXEC, 0, resolve)  # struct open_how: flags, mode, resolve
    how = b"".join(number.to_bytes(8, sys.byteorder) for number in numbers)
    syscall, last_error = _system_calls()
    fd = syscall(_OPENAT2, root_fd, relative, how, len(how))
    if fd < 0:
        number = last_error()
        raise OSError(number, os.strerror(number), path)
    return fd


@cache
def _system_calls() -> tuple[Callable[..., int], Callable[[], int]]:
    import ctypes  # noqa: PLC0415  costs start-up time

    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    syscall.argtypes = (
        ctypes.c_long,
        ctypes.c_long,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
    )
    return syscall, ctypes.get_errno


def walk_beneath(root_fd: int, path: str, flags: int) -> int:
    """Do what `open_beneath` does without openat2."""
    names = [name for name in encode(path).split(b"/") if name not in {b"", b"."}]
    if b".." in names:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    here = os.open(b".", _PLACE | os.O_DIRECTORY, dir_fd=root_fd)
    for name in names[:-1]:
        here = _step(here, name, _PLACE | os.O_DIRECTORY)
    return _step(here, names[-1] if names else b".", flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _step(fd: int, name: bytes, flags: int) -> int:
    """Exchange a directory's descriptor for that of something in it."""
    try:
        return os.open(name, flags, dir_fd=fd)
    finally:
        os.close(fd)


def walk_in_root(root_fd: int, path: str, flags: int) -> int:
    """Do what `open_in_root` does without openat2."""
    todo = encode(path).split(b"/")[::-1]
    resolved: list[bytes] = []
    hops = 0
    here = os.open(b".", _PLACE | os.O_DIRECTORY, dir_fd=root_fd)
    try:
        while todo:
            name = todo.pop()
            if name in {b"", b"."}:
                continue
            if name == b"..":
                del resolved[-1:]
                here = _again(root_fd, here, resolved)
                continue
            child = os.open(name, _PLACE, dir_fd=here)
            target = _link_text(child)
            if target is None:
                os.close(here)
                here = child
                resolved.append(name)
                continue
            hops += 1
            if hops > _MAX_LINKS or not target:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if target.startswith(b"/"):
                resolved.clear()
                here = _again(root_fd, here, resolved)
            todo.extend(target.split(b"/")[::-1])
        return _reopen(here, resolved, root_fd, flags)
    finally:
        os.close(here)


def _link_text(fd: int) -> bytes | None:
    """The target of a symlink, whose descriptor is closed; None for anything else."""
    if not stat.S_ISLNK(os.fstat(fd).st_mode):
        return None
    try:
        return os.readlink(b"", dir_fd=fd)
    finally:
        os.close(fd)


def _again(root_fd: int, stale: int, names: list[bytes]) -> int:
    """Walk from the root over names that were no symlinks: `..` must not leave by a rename."""
    fresh = walk_beneath(root_fd, decode(b"/".join(names)), _PLACE | os.O_DIRECTORY)
    os.close(stale)
    return fresh


def _reopen(here: int, resolved: list[bytes], root_fd: int, flags: int) -> int:
    if flags & os.O_PATH and not flags & os.O_DIRECTORY:
        return os.dup(here)
    return walk_beneath(root_fd, decode(b"/".join(resolved)), flags)


def open_parent(root_fd: int, path: str) -> tuple[int, str]:
    """Open the directory a path lies in, links followed inside the root, and name the rest.

    The caller closes the descriptor and never follows the last component.

    Raises:
        ArchiveError: the path has no last component.
        OSError: the directory is not there.
    """
    parent, _, name = path.rstrip("/").rpartition("/")
    if name in {"", ".", ".."}:
        raise ArchiveError(f"path {quoted(path)} names no file")
    return open_in_root(root_fd, parent, os.O_PATH | os.O_DIRECTORY), name


def make_parents(root_fd: int, path: str, mode: int = 0o755) -> None:
    """Make the missing directories on the way to a path, links followed inside the root.

    Raises:
        ArchiveError: something on the way is no directory, or a dangling link.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}][:-1]
    if ".." in parts or len(encode(path)) > MAX_PATH:
        raise ArchiveError(f'path {quoted(path)} is overlong or contains ".."')
    for count in range(1, len(parts) + 1):
        prefix = "/".join(parts[:count])
        try:
            os.close(open_in_root(root_fd, prefix, os.O_PATH | os.O_DIRECTORY))
        except FileNotFoundError:
            _make_directory(root_fd, prefix, mode)
        except OSError as error:
            raise ArchiveError(f"{quoted(prefix)} is not a directory: {error.strerror}") from error


def _make_directory(root_fd: int, path: str, mode: int) -> None:
    fd, name = open_parent(root_fd, path)
    try:
        raw = encode(name)
        os.mkdir(raw, _OWNER_ALL, dir_fd=fd)
        child = os.open(raw, _DIRECTORY, dir_fd=fd)
        try:
            os.fchmod(child, mode)  # whatever the umask
        finally:
            os.close(child)
    except FileExistsError as error:
        raise ArchiveError(f"{quoted(path)} is a dangling symlink, not a directory") from error
    finally:
        os.close(fd)


def read_file_in_root(root_fd: int, path: str, limit: int) -> bytes | None:
    """Read a regular file, links followed inside the root; None when there is no such file.

    Raises:
        ArchiveError: the file is larger than the limit.
    """
    try:
        place = open_in_root(root_fd, path)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    try:
        # Looked at before it is opened: opening a device can have effects, opening a fifo waits.
        if not stat.S_ISREG(os.fstat(place).st_mode):
            return None
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(f"/proc/self/fd/{place}", flags)
    finally:
        os.close(place)
    with os.fdopen(fd, "rb", buffering=0) as file:
        return _read_all(file.read, path, limit)


def _read_all(read: Callable[[int], bytes | None], path: str, limit: int) -> bytes:
    pieces: list[bytes] = []
    left = limit + 1
    while left and (data := read(min(left, 1 << 20))):
        pieces.append(data)
        left -= len(data)
    if not left:
        raise ArchiveError(f"{quoted(path)} is larger than {limit} bytes")
    return b"".join(pieces)


def remove_tree(root_fd: int, name: str) -> None:
    """Remove an entry of the directory `root_fd` and all below it; absent is success.

    Follows no link, needs two descriptors whatever the depth, and opens directories that their
    owner closed.

    Raises:
        OSError: something cannot be removed.
        ArchiveError: the tree is moved about meanwhile.
    """
    if name in {"", ".", ".."} or "/" in name:
        raise ArchiveError(f"{quoted(name)} is not the name of a directory entry")
    raw = encode(name)
    if _unlink(root_fd, raw):
        return
    cursor = _Cursor(_enter(root_fd, raw))
    try:
        _empty(cursor)
    finally:
        os.close(cursor.fd)
    os.rmdir(raw, dir_fd=root_fd)


def _unlink(fd: int, name: str | bytes) -> bool:
    """Remove what is not a directory; False when it is one."""
    try:
        os.unlink(name, dir_fd=fd)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError):
        if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            return False
        raise
    return True


def _enter(fd: int, name: str | bytes) -> int:
    """Open a directory for listing and removing, changing its mode where that forbids it."""
    place = os.open(name, _PLACE | os.O_DIRECTORY, dir_fd=fd)
    try:
        if os.fstat(place).st_mode & _OWNER_ALL != _OWNER_ALL:
            os.chmod(f"/proc/self/fd/{place}", _OWNER_ALL)
        return os.open(b".", _DIRECTORY, dir_fd=place)
    finally:
        os.close(place)


class _Cursor:
    """The one open directory of a removal, closed when it is left for another."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def move(self, fd: int) -> None:
        os.close(self.fd)
        self.fd = fd

    def identity(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        return status.st_dev, status.st_ino


def _empty(cursor: _Cursor) -> None:
    """Remove everything below the cursor's directory; the cursor ends where it began."""
    above: list[tuple[tuple[int, int], str, list[str]]] = []
    names = _unlink_files(cursor.fd)
    while names or above:
        if names:
            name = names.pop()
            above.append((cursor.identity(), name, names))
            cursor.move(_enter(cursor.fd, name))
            names = _unlink_files(cursor.fd)
            continue
        cursor.move(os.open("..", _DIRECTORY, dir_fd=cursor.fd))
        identity, name, names = above.pop()
        if cursor.identity() != identity:
            raise ArchiveError(f"directory {quoted(name)} was moved while it was removed")
        os.rmdir(name, dir_fd=cursor.fd)


def _unlink_files(fd: int) -> list[str]:
    """Remove what is not a directory; gives the names of the directories."""
    with os.scandir(fd) as listing:
        found = [(item.name, item.is_dir(follow_symlinks=False)) for item in listing]
    return [name for name, is_directory in found if is_directory or not _unlink(fd, name)]
