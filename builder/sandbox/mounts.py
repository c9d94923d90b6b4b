"""The mounts a step asked for, made inside its root by init.

Sources are opened once and cloned by fd, targets are fds resolved in the root: no name is
looked up twice, so nobody can swap one for a link in between (C01-C03). Everything mounted is
nosuid and nodev.
"""

from __future__ import annotations

import os
import stat

from builder.errors import SandboxError
from builder.sandbox import overlay, syscalls, targets
from builder.sandbox.spec import Bind, BindOverlay, MemoryFile, StepMount, Tmpfs
from cache.value import field, value

_PLAIN = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_PERMISSIONS = 0o777
_ANYONE = 0o1777  # as /tmp
_BINDABLE = (stat.S_ISREG, stat.S_ISDIR, stat.S_ISSOCK)


@value
class Scratch:
    """A tmpfs only init sees: mount points, memory files, thrown-away changes."""

    path: str
    names: list[str] = field(default_factory=list)

    def fresh(self) -> str:
        """A path in it that nobody used yet."""
        self.names.append(str(len(self.names)))
        return f"{self.path}/{self.names[-1]}"

    def directory(self) -> str:
        """A new empty directory, mode 0755."""
        path = self.fresh()
        os.mkdir(path, 0o755)
        return path


def make_mount(root: targets.Root, scratch: Scratch, mount: StepMount) -> None:
    """Make one mount of the specification.

    Raises:
        SandboxError: the source or target will not do.
    """
    match mount:
        case Bind():
            _bind(root, mount)
        case BindOverlay():
            _bind_overlay(root, scratch, mount)
        case Tmpfs():
            _tmpfs(root, mount)
        case MemoryFile():
            _memory_file(root, scratch, mount)


def attach_tree(root: targets.Root, tree: int, target: str, readonly: bool) -> None:
    """Restrict a detached tree and mount it on an in-image path."""
    attributes = _PLAIN | (syscalls.MOUNT_ATTR_RDONLY if readonly else 0)
    syscalls.restrict_tree(tree, attributes)
    target_fd = targets.mount_target(root, target, stat.S_ISDIR(os.fstat(tree).st_mode))
    try:
        syscalls.attach(tree, target_fd)
    finally:
        os.close(target_fd)


def _inside(source_fd: int, subpath: str, shown: str) -> int:
    """The fd of `subpath` resolved inside a source, which must be of a kind to bind."""
    try:
        fd = syscalls.open_in_root(source_fd, subpath, os.O_PATH)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise SandboxError(f'mount source "{subpath}" of {shown}: {reason}') from error
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(fd)
        raise SandboxError(f'mount source "{subpath}" of {shown} is neither file nor directory')
    return fd


def _clone_and_attach(
    root: targets.Root, source_fd: int, mount: Bind | BindOverlay, shown: str
) -> None:
    inner = _inside(source_fd, mount.subpath, shown) if mount.subpath else os.dup(source_fd)
    try:
        if root.owned is not None and isinstance(mount, BindOverlay):
            top, place = (os.readlink(f"/proc/self/fd/{fd}") for fd in (source_fd, inner))
            number = os.fstat(inner)
            named = (mount.target, place[len(top) + 1 :])
            root.bound.append((*named, number.st_dev, number.st_ino))
        tree = syscalls.clone_tree(inner)
    finally:
        os.close(inner)
    try:
        attach_tree(root, tree, mount.target, mount.readonly)
    finally:
        os.close(tree)


def _bind(root: targets.Root, mount: Bind) -> None:
    shown = f"the mount at {mount.target}"
    try:
        source = os.open(mount.source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError(f"source of {shown}: {(error.strerror or '').lower()}") from error
    try:
        mode = os.fstat(source).st_mode
        if not any(is_kind(mode) for is_kind in _BINDABLE):
            raise SandboxError(f"source of {shown} is neither file nor directory")
        if root.owned is not None and mount.uid >= 0:
            root.give(None, source, (mount.uid, mount.gid))
        _clone_and_attach(root, source, mount, shown)
    finally:
        os.close(source)


def _bind_overlay(root: targets.Root, scratch: Scratch, mount: BindOverlay) -> None:
    point = scratch.directory()
    lowers = mount.lowers
    changes = None if mount.readonly else (scratch.directory(), scratch.directory())
    if changes is None and len(lowers) < 2:  # noqa: PLR2004 - an overlay without upper needs two
        lowers = (*lowers, scratch.directory())
    overlay.mount_overlay(point, mount.base, lowers, changes)
    source = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _clone_and_attach(root, source, mount, f"the mount at {mount.target}")
    finally:
        os.close(source)


def _tmpfs(root: targets.Root, mount: Tmpfs) -> None:
    existed = targets.exists(root, mount.target)
    target = targets.mount_target(root, mount.target, directory=True)
    try:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        flags |= syscalls.MS_RDONLY if mount.readonly else 0
        mode = stat.S_IMODE(os.fstat(target).st_mode) & _PERMISSIONS if existed else _ANYONE
        size = f",size={mount.size}" if mount.size else ""
        syscalls.mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", flags, f"mode={mode:o}{size}")
    finally:
        os.close(target)


def _memory_file(root: targets.Root, scratch: Scratch, mount: MemoryFile) -> None:
    path = scratch.fresh()
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    try:
        view = memoryview(mount.data)
        while view:
            view = view[os.write(fd, view) :]
        root.give(None, fd, (mount.uid, mount.gid))
        os.fchmod(fd, mount.mode & 0o7777)
    finally:
        os.close(fd)
    tree = syscalls.clone_tree(-100, path)  # AT_FDCWD
    try:
        attach_tree(root, tree, mount.target, readonly=True)
    finally:
        os.close(tree)
