"""What would be mounted into a step, as a table of names: system trees, binds, memory files.

Targets are found and made in the step's tree as for real mounts, so that the same stubs come
and go. Holds what the table refers to until the step ends.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from builder.errors import SandboxError
from builder.sandbox import targets
from builder.sandbox.engine.records import Records, key_of
from builder.sandbox.engine.systemtrees import ROOTS
from builder.sandbox.engine.view import Place, View, fd_path
from builder.sandbox.spec import DEFAULT_SHM_SIZE, Bind, BindOverlay, MemoryFile, Tmpfs
from builder.sandbox.syscalls import open_in_root

if TYPE_CHECKING:
    from builder.sandbox.spec import SandboxSpec, StepMount

_SYSTEM = (b"proc", b"dev", b"sys")
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Places:
    """The table of one step while it is made."""

    def __init__(
        self, root: targets.Root, path: bytes, scratch: bytes, records: Records | None
    ) -> None:
        """Make stubs in `root`, which lies at `path`; temporary directories go below `scratch`.

        Owners are recorded, or given by the kernel if there are no records.
        """
        self._root = root
        self._path = path
        self._scratch = scratch
        self._records = records
        self._made: list[str] = []  # names of directories in the scratch directory
        self._held: list[int] = []  # fds that the table names
        self.table: list[Place] = []

    @property
    def has_sockets(self) -> bool:
        """Whether any of them is a socket."""
        return any(stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in self._held)

    def add_system(self, spec: SandboxSpec) -> None:
        """/proc, /dev, /sys, a shared memory directory, /etc/resolv.conf and /etc/hosts."""
        _warn_of_sizes(spec)
        for name in _SYSTEM:
            os.close(targets.system_directory(self._root, name.decode()))
            self.table.append(Place(b"/" + name, b"/" + name, readonly=name == b"sys"))
        self.table.insert(0, Place(b"/dev/shm", self._directory(0o1777)))
        for path, data in (("/etc/resolv.conf", spec.resolv_conf), ("/etc/hosts", spec.hosts)):
            if data:
                self.add(MemoryFile(path, data, mode=0o644))

    def add(self, mount: StepMount) -> None:
        """Put a mount into the table; later ones hide earlier ones.

        Raises:
            SandboxError: its source or target will not do.
        """
        match mount:
            case Bind():
                self._bind(mount.source, mount.subpath, mount.target, readonly=mount.readonly)
                if self._records is not None and mount.uid >= 0:
                    record = self._records.make(key_of(self._held[-1])[0])
                    record.uid, record.gid = mount.uid, mount.gid
            case BindOverlay():
                source = os.path.join(mount.base, mount.lowers[0])
                self._bind(source, mount.subpath, mount.target, readonly=mount.readonly)
                if self._records is not None:
                    tree = os.open(source, _DIRECTORY)
                    self._records.seed(tree, mount.recorded)
                    os.close(tree)
            case Tmpfs():
                place = Place(b"", self._directory(0o1777), mount.readonly)
                self._put(mount.target, place, directory=True)
            case MemoryFile():
                self._memory_file(mount)

    def working_directory(self, path: str, owner: tuple[int, int]) -> bytes:
        """The host's name of WORKDIR; what is missing of it is made for `owner` (R03)."""
        if self._records is None:
            fd = targets.working_directory(self._root, path, owner)
            found = os.readlink(fd_path(fd))
            os.close(fd)
            return found
        missing = self._missing(path)
        fd = targets.working_directory(self._root, path, (os.geteuid(), os.getegid()))
        try:
            for name in missing:
                made = open_in_root(self._root.fd, name, os.O_PATH)
                record = self._records.make(key_of(made)[0])
                record.uid, record.gid = owner
                os.close(made)
            return os.readlink(fd_path(fd))
        finally:
            os.close(fd)

    def lead_away(self, view: View, path: bytes, owner: tuple[int, int]) -> bool:
        """Whether WORKDIR lies in a place; what is missing of it in a mount is made (R03)."""
        resolved = view.resolved(0, path, follow=True)
        if not view.lies_in_place(resolved):
            return False
        place, _ = view.passed(0, resolved)
        if place is None or place.guest in ROOTS or place.readonly:
            return True
        root = targets.Root(os.open(place.source, _DIRECTORY))
        given = owner if self._records is None else (os.geteuid(), os.getegid())
        try:
            name = os.fsdecode(resolved.removeprefix(place.guest))
            os.close(targets.working_directory(root, f"/{name}", given))
        finally:
            os.close(root.fd)
        return True

    def _missing(self, path: str) -> list[str]:
        parts = [part for part in path.split("/") if part]
        found = []
        for count in range(1, len(parts) + 1):
            name = "/".join(parts[:count])
            try:
                os.close(open_in_root(self._root.fd, name, os.O_PATH))
            except OSError:
                found.append(name)
        return found

    def writable(self) -> list[bytes]:
        """Host paths a step may change."""
        return [
            self._path,
            *(p.source for p in self.table if not p.readonly and p.host != b"/proc"),
        ]

    def readable(self) -> list[bytes]:
        """Host paths a step may read only."""
        return [b"/proc", *(p.source for p in self.table if p.readonly)]

    def close(self) -> None:
        """Remove what lay in memory for the step, or would have; call when no process is left."""
        from cache.archive.rooted import remove_tree  # noqa: PLC0415 - at the end of a step only

        while self._held:
            os.close(self._held.pop())
        scratch = os.open(self._scratch, _DIRECTORY & ~os.O_PATH)
        try:
            while self._made:
                remove_tree(scratch, self._made.pop())
        finally:
            os.close(scratch)

    def _directory(self, mode: int) -> bytes:
        name = f"{os.getpid()}.{len(self._made)}.{os.urandom(4).hex()}"
        path = os.path.join(self._scratch, name.encode())
        os.mkdir(path, 0o700)
        self._made.append(name)
        os.chmod(path, mode)
        return path

    def _bind(self, source: str, subpath: str, target: str, *, readonly: bool) -> None:
        try:
            base = os.open(source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fd = open_in_root(base, subpath, os.O_PATH) if subpath else os.dup(base)
            finally:
                os.close(base)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise SandboxError(f"source of the mount at {target}: {reason}") from error
        self._held.append(fd)
        host = os.readlink(fd_path(fd))
        place = Place(b"", host, readonly, fd)
        self._put(target, place, directory=os.path.isdir(fd_path(fd)))

    def _memory_file(self, mount: MemoryFile) -> None:
        fd = os.memfd_create("step", os.MFD_CLOEXEC)
        view = memoryview(mount.data)
        while view:
            view = view[os.write(fd, view) :]
        if self._records is None:
            os.fchown(fd, mount.uid, mount.gid)
            os.fchmod(fd, mount.mode & 0o7777)
            self._held.append(fd)
            self._put(mount.target, Place(b"", fd_path(fd), readonly=True), directory=False)
            return
        os.fchmod(fd, 0o400 | mount.mode & 0o111)
        key, status = key_of(fd)
        record = self._records.make(key)
        record.uid, record.gid = mount.uid, mount.gid
        record.mode = status.st_mode & ~0o7777 | mount.mode & 0o7777
        self._held.append(fd)
        self._put(mount.target, Place(b"", fd_path(fd), readonly=True), directory=False)

    def _put(self, target: str, what: Place, *, directory: bool) -> None:
        fd = targets.mount_target(self._root, target, directory)
        try:
            place = os.readlink(fd_path(fd))
        finally:
            os.close(fd)
        if not place.startswith(self._path + b"/"):
            raise SandboxError(f'mount target "{target}" is outside the step')
        guest = place[len(self._path) :]
        self.table[:] = [known for known in self.table if known.guest != guest]
        self.table.insert(0, Place(guest, what.host, what.readonly, what.held))


def _warn_of_sizes(spec: SandboxSpec) -> None:
    """Say on the step's stderr which directories may grow beyond the size that was asked for."""
    found = [mount.target for mount in spec.mounts if isinstance(mount, Tmpfs) and mount.size]
    found += ["/dev/shm"] if spec.shm_size != DEFAULT_SHM_SIZE else []  # noqa: S108 - not ours
    if found:
        text = f"pybuild: warning: nothing can be mounted here: no size limits {', '.join(found)}\n"
        os.write(2, text.encode("utf-8", "replace"))
