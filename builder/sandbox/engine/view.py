"""A step's file names and what they stand for on this host, where nothing can be mounted.

A guest path is resolved by the kernel inside the step's tree (openat2, RESOLVE_IN_ROOT). What
would be mounts is a table: names below a target lead to another directory or file of the host.
/proc, /dev and /sys are such targets, opened by `systemtrees`.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections import deque
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel
from builder.sandbox.engine.hiding import Hiding
from builder.sandbox.engine.systemtrees import ROOTS, SystemTrees
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REFERENCE = os.O_PATH | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel's
_SYSTEM = frozenset(ROOTS)
_LOOK_CLOSER = frozenset({errno.ELOOP, errno.EAGAIN, errno.EINVAL})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
fail = kernel.fail


@value
class Place:
    """A target of the table: `guest` stands for the host's `host`, a directory or a file.

    `held` is an fd of it where another step could put something else at that name meanwhile (C03).
    """

    guest: bytes
    host: bytes
    readonly: bool = False
    held: int = -1

    @property
    def source(self) -> bytes:
        """A name that leads there, whatever others do."""
        return self.host if self.held < 0 else fd_path(self.held)


def fd_path(fd: int) -> bytes:
    """A name for what an fd refers to."""
    return b"/proc/self/fd/%d" % fd


class View:
    """Names of one step."""

    def __init__(
        self,
        root: bytes,
        places: Sequence[Place],
        is_ours: Callable[[int], bool],
        process_of: Callable[[int], int],
        program_of: Callable[[int], bytes | None] = lambda _: None,
        known_as: bytes | None = None,
    ) -> None:
        """`is_ours` says whether a process belongs to the step, `process_of` whose a thread is.

        `program_of` gives the guest path of what a process executes; `known_as` is what the kernel
        calls the root, where that is not the path it is opened by.
        """
        self.root = root
        self.root_fd = os.open(root, _REFERENCE | os.O_DIRECTORY)
        self._places = {place.guest: place for place in places}
        self._bases = {
            place.guest: os.open(place.source, _REFERENCE)
            for place in places
            if place.guest not in _SYSTEM
        }
        # A path that begins otherwise lies in no place, as it is written.
        self.letters = (b"//", b"/.", *{place.guest[:3] for place in places})
        self._hiding = Hiding(self.root_fd, [place.guest for place in places])
        self._trees = SystemTrees(is_ours, process_of)
        self._program_of = program_of
        # What a host path of a descriptor or working directory is called in the step.
        pairs = [(place.host, place.guest) for place in places]
        own = root if known_as is None else known_as
        self._names = sorted([(own, b""), *pairs], key=lambda pair: -len(pair[0]))

    def close(self) -> None:
        """Give the root and what lies elsewhere back."""
        for fd in (self.root_fd, *self._bases.values()):
            os.close(fd)

    def guest_name(self, host: bytes) -> bytes:
        """What the step calls a path of the host; passed-through trees keep their names."""
        for prefix, guest in self._names:
            if host == prefix:
                return guest or b"/"
            if host.startswith(prefix + b"/"):
                return guest + host[len(prefix) :]
        return host

    def shows(self, host: bytes) -> bool:
        """Whether a path of the host has a name in the step."""
        return any(host == known or host.startswith(known + b"/") for known, _ in self._names)

    def place_of(self, fd: int) -> Place | None:
        """What the file of an fd lies in; None for the step's own tree and what has no name.

        Raises:
            OSError: EACCES, for files of the host that are no business of the step.
        """
        host = os.readlink(fd_path(fd))
        if not host.startswith(b"/") or host.startswith(b"/memfd:"):
            return None  # a pipe, a socket, memory
        for prefix, guest in self._names:
            if prefix == host or host.startswith(prefix + b"/"):
                return self._places[guest] if guest else None
        return fail(errno.EACCES)

    def require_writable(self, fd: int) -> None:
        """Refuse to change a file, or what is in a directory, that is not the step's to change."""
        place = self.place_of(fd) if self._places else None
        if place is not None and (place.readonly or place.guest in _SYSTEM):
            fail(errno.EROFS)

    def absolute(self, task: int, directory: int, path: bytes) -> bytes:
        """The guest path that a path means to a task, links unresolved."""
        if path[:1] == b"/":
            return path
        number = signed(directory)
        where = b"/proc/%d/cwd" % task if number == kernel.AT_FDCWD else b"/proc/%d/fd/%d" % (
            task,
            number,
        )  # fmt: skip
        try:
            base = self.guest_name(os.readlink(where))
        except FileNotFoundError:
            fail(errno.EBADF)
        if not path:
            return base
        return (base if base != b"/" else b"") + b"/" + path

    def reference(self, task: int, path: bytes, *, follow: bool = True) -> int:
        """An O_PATH fd of an absolute guest path."""
        return self.open(task, path, _REFERENCE | (0 if follow else os.O_NOFOLLOW))

    def open(self, task: int, path: bytes, flags: int, mode: int = 0) -> int:
        """Open an absolute guest path.

        Raises:
            OSError: as the kernel would say in a root where the table is mounted.
        """
        fd = self._directly(path, flags, mode)
        if fd >= 0:
            return fd
        if -fd not in _LOOK_CLOSER:
            fail(-fd)
        place, host = self.passed(task, path)
        if place is not None:
            return self._open_host(task, (place, host), flags, mode)
        try:
            fd = kernel.open_in(self.root_fd, path, flags, mode)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}:
                raise
            if not self._leads_out(path, flags):
                raise
            return self._walk_and_open(task, path, flags, mode)
        if self._places_hide(fd):
            os.close(fd)
            return self._walk_and_open(task, path, flags, mode)
        return fd

    def _directly(self, path: bytes, flags: int, mode: int = 0) -> int:
        """Open what no link leads to and no place can hide: nearly everything, in one call.

        An fd, or an errno as a negative number, which is the answer unless in _LOOK_CLOSER.
        """
        if path.startswith(self.letters) or b"/.." in path:
            return -errno.ELOOP
        return kernel.open_without_links(self.root_fd, path, flags, mode)

    def parent(self, task: int, path: bytes) -> tuple[int, bytes]:
        """An O_PATH fd of the directory of a name, and the name, which is not followed."""
        stripped = path.rstrip(b"/") or b"/"
        directory, name = posixpath.split(stripped)
        if name in {b"", b"."}:
            fail(errno.EBUSY)
        if name == b"..":
            fail(errno.ENOTEMPTY)
        flags = _REFERENCE | os.O_DIRECTORY
        fd = self._directly(directory or b"/", flags)
        if fd >= 0:
            return fd, name  # of the tree itself
        fd = self.open(task, directory or b"/", flags)
        try:
            self.require_writable(fd)
        except OSError:
            os.close(fd)
            raise
        return fd, name

    def passed(self, task: int, path: bytes) -> tuple[Place | None, bytes]:
        """The place that a path lies in as it is written, and the host path it means there."""
        if not path.startswith(self.letters):
            return None, b""
        name = plain(path)
        for guest, place in self._places.items():
            if name == guest or name.startswith(guest + b"/"):
                return place, self._host_path(task, place, name)
        return None, b""

    def lies_in_place(self, path: bytes) -> bool:
        """Whether an absolute path, as it is written, is that of a place or of what is in one."""
        if not path.startswith(self.letters):
            return False
        name = plain(path)
        return any(name == guest or name.startswith(guest + b"/") for guest in self._places)

    def is_place(self, path: bytes) -> bool:
        """Whether an absolute path is that of a place itself."""
        return plain(path) in self._places

    def resolved(self, task: int, path: bytes, *, follow: bool) -> bytes:
        """The absolute guest path that links in another one lead to."""
        return self._walk(task, path, follow=follow)

    def _host_path(self, task: int, place: Place, name: bytes) -> bytes:
        if place.guest in _SYSTEM:
            return self._trees.name(task, name)
        return place.host + name[len(place.guest) :]

    def _open_host(self, task: int, what: tuple[Place, bytes], flags: int, mode: int) -> int:
        place, host = what
        if place.guest in _SYSTEM:
            return self._open_system(task, host, flags, mode)
        if place.readonly and flags & _WRITES and not flags & os.O_PATH:
            fail(errno.EROFS)
        inside, base = host[len(place.host) :], self._bases[place.guest]
        if not inside:
            return os.open(fd_path(base), flags & ~os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            return kernel.open_beneath(base, inside.lstrip(b"/") or b".", flags, mode)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        return self._open_beyond(task, place.guest + inside, flags, mode)

    def _open_beyond(self, task: int, path: bytes, flags: int, mode: int) -> int:
        """Open a name in a place that leads out of it, over a link or by `..`."""
        found = self._walk(task, path, follow=not flags & os.O_NOFOLLOW)
        place, host = self.passed(task, found)
        if place is None:
            return kernel.open_in(self.root_fd, found, flags, mode)
        if place.guest in _SYSTEM:
            return self._open_system(task, host, flags, mode)
        if place.readonly and flags & _WRITES and not flags & os.O_PATH:
            fail(errno.EROFS)
        base = self._bases[place.guest]
        return kernel.open_in(base, host[len(place.host) :] or b"/", flags, mode)

    def _open_system(self, task: int, name: bytes, flags: int, mode: int) -> int:
        link = self._trees.link(name)
        if link is None or (not link.rest and flags & os.O_NOFOLLOW):
            return self._trees.open(name, flags)
        if link.name.endswith(b"/exe"):
            return self.open(task, self._program_of(link.process) or fail(errno.ENOENT), flags)
        if link.name.endswith(b"/root"):
            return self.open(task, b"/" + link.rest, flags, mode)
        if link.rest:
            base = self._known(link.name)
            try:
                directory = self.guest_name(os.readlink(fd_path(base)))
            finally:
                os.close(base)
            return self.open(task, directory + b"/" + link.rest, flags, mode)
        return self._again(link.name, flags)

    def _known(self, link: bytes) -> int:
        """An O_PATH fd of what a process has open or works in, if that is the step's."""
        fd = os.open(link, _REFERENCE)
        try:
            self.place_of(fd)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _again(self, link: bytes, flags: int) -> int:
        """Open what a process has open once more."""
        known = self._known(link)
        if flags & os.O_PATH:
            return known
        if flags & os.O_CREAT and flags & os.O_EXCL:
            os.close(known)
            fail(errno.EEXIST)
        try:
            if flags & _WRITES:
                place = self.place_of(known)
                if place is not None and place.readonly:
                    fail(errno.EROFS)
            return os.open(fd_path(known), flags & ~os.O_CREAT | os.O_CLOEXEC)
        finally:
            os.close(known)

    def _leads_out(self, path: bytes, flags: int) -> bool:
        """Whether a name that is not in the tree may be one beyond a link into a place."""
        if not self._places:
            return False
        directory, name = posixpath.split(path.rstrip(b"/"))
        try:
            above = kernel.open_in(self.root_fd, directory or b"/", _REFERENCE)
        except OSError:
            return bool(directory)  # somewhere above may be the link
        try:
            if self._places_hide(above):
                return True
            if flags & os.O_NOFOLLOW:
                return False
            return stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
        except (OSError, ValueError):
            return False
        finally:
            os.close(above)

    def _places_hide(self, fd: int) -> bool:
        """Whether what was found in the tree lies under a place, which would be mounted over it."""
        if self._hiding.holds(fd):
            return True
        if not self._hiding.deep:
            return False
        name = self.guest_name(os.readlink(fd_path(fd)))
        return any(name.startswith(guest + b"/") for guest in self._hiding.deep)

    def _walk_and_open(self, task: int, path: bytes, flags: int, mode: int) -> int:
        """Resolve part by part, so that links lead into places and out of them."""
        found = self._walk(task, path, follow=not flags & os.O_NOFOLLOW)
        place, host = self.passed(task, found)
        if place is not None:
            return self._open_host(task, (place, host), flags, mode)
        return kernel.open_in(self.root_fd, found, flags, mode)

    def _walk(self, task: int, path: bytes, *, follow: bool) -> bytes:
        todo = deque(part for part in path.split(b"/") if part not in {b"", b"."})
        here: list[bytes] = []
        links = 0
        while todo:
            part = todo.popleft()
            if part == b"..":
                del here[-1:]
                continue
            here.append(part)
            name = b"/" + b"/".join(here)
            if self.passed(task, name)[0] is not None and here[0] in {b"proc", b"dev", b"sys"}:
                return b"/".join((name, *todo))
            if not todo and not follow:
                break
            target = self._link(task, name)
            if target is None:
                continue
            links += 1
            if links > _MAX_LINKS:
                fail(errno.ELOOP)
            here = [] if target.startswith(b"/") else here[:-1]
            todo.extendleft(reversed([p for p in target.split(b"/") if p not in {b"", b"."}]))
        return b"/" + b"/".join(here)

    def _link(self, task: int, name: bytes) -> bytes | None:
        """The text of a link at a name whose parents hold none."""
        how = _REFERENCE | os.O_NOFOLLOW
        place, host = self.passed(task, name)
        try:
            if place is not None:
                fd = self._open_host(task, (place, host), how, 0)
            else:
                fd = kernel.open_in(self.root_fd, name, how)
        except OSError:
            return None
        try:
            return os.readlink(b"", dir_fd=fd)
        except OSError:
            return None
        finally:
            os.close(fd)


def plain(path: bytes) -> bytes:
    """A path without empty, `.` and `..` parts, as it is written."""
    if b"//" not in path and b"/." not in path:
        return path.rstrip(b"/") or b"/"
    name = posixpath.normpath(path)
    return name[1:] if name[:2] == b"//" else name


def signed(number: int) -> int:
    """A 32-bit argument as the int it is."""
    return ((number & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
