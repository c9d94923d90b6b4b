"""Finding and making the places in a step's root that something is mounted on or started in.

Every path is an in-image path and is resolved inside the root, whatever links it meets (C07,
D16, D18). What is missing is created; components made only to mount on are kept as stubs, so
that the snapshotter can remove them again (R07). Knows nothing of mounts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque

from builder.errors import SandboxError
from builder.sandbox import syscalls
from cache.value import field, value

_MAX_LINKS = 40  # as the kernel's
_FORBIDDEN = ("proc", "sys")  # kernel views: nothing is mounted in them
_FORBIDDEN_ITSELF = ("", "dev")


@value
class Root:
    """A step's root directory: its fd, and the stubs made in it so far, oldest first.

    `owned`, where ids can only be recorded, are device, inode and owner of what was made;
    `bound` are targets of merged trees, what of the tree is mounted there, links resolved, and
    its device and inode.
    """

    fd: int
    stubs: list[tuple[str, int]] = field(default_factory=list)
    owned: list[tuple[int, int, int, int]] | None = None
    bound: list[tuple[str, str, int, int]] = field(default_factory=list)

    def give(self, directory: int | None, name: str | int, owner: tuple[int, int]) -> None:
        """Make a new file or directory somebody's; `name` may be an fd."""
        if self.owned is None:
            if isinstance(name, int):
                os.fchown(name, *owner)
            else:
                os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
            return
        known = os.stat(name, dir_fd=directory, follow_symlinks=isinstance(name, int))
        self.owned.append((known.st_dev, known.st_ino, *owner))


@value
class _Missing:
    """A path whose last `names` do not exist under the existing directory `parent`."""

    parent: tuple[str, ...]
    names: tuple[str, ...]


def _split(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def _open(root: Root, names: list[str] | tuple[str, ...], flags: int = 0) -> int:
    return syscalls.open_in_root(root.fd, "/".join(names) or ".", os.O_PATH | flags)


def _walk(root: Root, path: str) -> tuple[str, ...] | _Missing:
    """Follow a path by hand, so that dangling links lead to what is to be created."""
    todo = deque(_split(path))
    real: list[str] = []
    links = 0
    while todo:
        name = todo.popleft()
        if name == "..":
            del real[-1:]
            continue
        try:
            fd = _open(root, [*real, name], os.O_NOFOLLOW)
        except FileNotFoundError:
            return _missing(path, real, [name, *todo])
        try:
            mode = os.fstat(fd).st_mode
            link = os.readlink("", dir_fd=fd) if stat.S_ISLNK(mode) else None
        finally:
            os.close(fd)
        if link is None:
            real.append(name)
            continue
        _refuse_kernel_views(path, tuple(real))  # a magic link's text is a host path
        links += 1
        if links > _MAX_LINKS:
            raise SandboxError(f'"{path}" has too many levels of symbolic links')
        if link.startswith("/"):
            real.clear()
        todo.extendleft(reversed(_split(link)))
    return tuple(real)


def _missing(path: str, parent: list[str], names: list[str]) -> _Missing:
    if ".." in names:
        raise SandboxError(f'"{path}" leads through a directory that does not exist')
    return _Missing(tuple(parent), tuple(names))


def _create(root: Root, missing: _Missing, directory: bool, owner: tuple[int, int] | None) -> None:
    """Make the missing names; `owner` makes them part of the layer instead of stubs."""
    real = list(missing.parent)
    root_device = os.fstat(root.fd).st_dev
    for index, name in enumerate(missing.names):
        parent = _open(root, real, os.O_DIRECTORY)
        try:
            before = os.fstat(parent)
            if directory or index < len(missing.names) - 1:
                os.mkdir(name, 0o755, dir_fd=parent)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW
                os.close(os.open(name, flags, 0o644, dir_fd=parent))
            if owner is not None:
                root.give(parent, name, owner)
        finally:
            os.close(parent)
        real.append(name)
        # What is created in another mount (a cache, our /dev) is not in the layer anyway.
        if owner is None and before.st_dev == root_device:
            root.stubs.append(("/" + "/".join(real), before.st_mtime_ns))


def _ensure(
    root: Root, path: str, directory: bool, owner: tuple[int, int] | None
) -> tuple[tuple[str, ...], int]:
    found = _walk(root, path)
    if isinstance(found, _Missing):
        _refuse_kernel_views(path, found.parent + found.names)
        _create(root, found, directory, owner)
        found = found.parent + found.names
    return found, _open(root, found)


def _refuse_kernel_views(path: str, names: tuple[str, ...]) -> None:
    if names and names[0] in _FORBIDDEN:
        raise SandboxError(f'"{path}" lies in /{names[0]}, which belongs to the kernel')


def _refuse_wrong_target(
    path: str, names: tuple[str, ...], directory: bool, is_directory: bool
) -> None:
    if "/".join(names) in _FORBIDDEN_ITSELF:
        raise SandboxError(f'mount target "{path}" is forbidden')
    if is_directory != directory:
        wanted = "a directory" if directory else "a file"
        raise SandboxError(f'mount target "{path}" is not {wanted}')


def exists(root: Root, path: str) -> bool:
    """Whether mount_target() would have nothing to create."""
    return "\0" not in path and not isinstance(_walk(root, path), _Missing)


def mount_target(root: Root, path: str, directory: bool) -> int:
    """An O_PATH fd of the place to mount on, created when missing.

    Raises:
        SandboxError: a forbidden place, or one of the other kind.
    """
    if "\0" in path:
        raise SandboxError("mount target has a null byte")
    try:
        names, fd = _ensure(root, path, directory, None)
    except OSError as error:
        raise SandboxError(f'mount target "{path[:256]}": {_reason(error)}') from error
    try:
        _refuse_kernel_views(path, names)
        _refuse_wrong_target(path, names, directory, stat.S_ISDIR(os.fstat(fd).st_mode))
    except BaseException:
        os.close(fd)
        raise
    return fd


def working_directory(root: Root, path: str, owner: tuple[int, int]) -> int:
    """An O_PATH fd of WORKDIR; missing directories are made for `owner` and stay (R03).

    Raises:
        SandboxError: it is not a directory, or lies in a kernel view (D01).
    """
    if not path.startswith("/") or "\0" in path:
        raise SandboxError(f'working directory "{path[:256]!a}" is not an absolute path')
    try:
        names, fd = _ensure(root, path, directory=True, owner=owner)
    except OSError as error:
        raise SandboxError(f'working directory "{path[:256]}": {_reason(error)}') from error
    try:
        _refuse_kernel_views(path, names)
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
    except BaseException:
        os.close(fd)
        raise
    if not is_directory:
        os.close(fd)
        reason = os.strerror(errno.ENOTDIR).lower()
        raise SandboxError(f'working directory "{path[:256]}": {reason}')
    return fd


def system_directory(root: Root, name: str) -> int:
    """The fd of /proc, /sys or /dev in the root; a link there is refused, not followed."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=root.fd)
    try:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=root.fd)
    except OSError as error:
        raise SandboxError(f"/{name} of the image is not a directory") from error


def read_file(root: Root, path: str, limit: int) -> bytes:
    """The content of a regular file in the root, empty when there is none (E11, E12).

    Raises:
        SandboxError: it is longer than `limit`.
    """
    try:
        fd = syscalls.open_in_root(root.fd, path, os.O_PATH)
    except OSError:
        return b""
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return b""
        if info.st_size > limit:
            raise SandboxError(f"/{path} of the image is larger than {limit} bytes")
        with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as stream:
            return stream.read(limit) or b""
    finally:
        os.close(fd)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
