"""Names of unix sockets in calls: what the host is to be given instead of a guest path.

Owns the structures that such names stand in. The kernel takes no more than 107 bytes of a name;
where a tree lies deeper, a link with a short name leads to the directory for as long as the step
runs. Knows nothing of tracing: it reads a task's memory and says what to write where.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import tempfile
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel, permissions
from builder.sandbox.engine.kernel import AT_FDCWD, fail
from builder.sandbox.engine.view import fd_path
from cache.value import value

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Step
    from builder.sandbox.engine.view import View

_UNIX = 1
_MAX_NAME = 107
_ADDRESS = 110  # bytes of struct sockaddr_un
_FAMILY = struct.Struct("<H")
_MESSAGE = struct.Struct("<QIIQQQQQ")  # struct msghdr: name, its length, padding, and the rest
_MESSAGES = _MESSAGE.size + 8  # struct mmsghdr: a message and how much of it was sent
_MOST_MESSAGES = 1024  # the kernel's limit of one call


@value
class Binding:
    """A socket about to get a name: the directory's O_PATH fd, and the name in it."""

    parent: int
    name: bytes


class SocketNames:
    """Addresses of one step's calls."""

    def __init__(self, step: Step) -> None:
        """Nothing is shortened yet."""
        self._step = step
        self._short: dict[bytes, bytes] = {}

    @staticmethod
    def guest(task: int, address: int, size: int) -> bytes:
        """The path in a socket address; empty for other families and abstract names."""
        return path_in(task, address, size)

    def existing(self, task: int, name: bytes) -> bytes:
        """The host's address of a socket that is there.

        Raises:
            OSError: none is, or it is not reached by the step.
        """
        view = self._step.view(task)
        fd = view.reference(task, permissions.named(self._step, task, AT_FDCWD, name))
        try:
            permissions.require(self._step, task, fd, permissions.WRITE)
            view.place_of(fd)  # nothing of the host's
            host = os.readlink(fd_path(fd))
        finally:
            os.close(fd)
        return self._address(host)

    def new(self, task: int, name: bytes) -> tuple[bytes, Binding]:
        """The host's address for a socket that gets a name; the caller closes the directory."""
        view = self._step.view(task)
        path = permissions.named(self._step, task, AT_FDCWD, name, follow=False)
        parent, last = view.parent(task, path)
        try:
            permissions.require_new(self._step, task, parent, last)
            return self._address(os.readlink(fd_path(parent)) + b"/" + last), Binding(parent, last)
        except OSError:
            os.close(parent)
            raise

    def message(self, task: int, address: int) -> tuple[bytes, bytes]:
        """A struct msghdr and the host's address it is to have; empty if it may stay as it is."""
        header = kernel.read_exactly(task, address, _MESSAGE.size)
        name_at, size = _MESSAGE.unpack(header)[:2]
        name = self.guest(task, name_at, size)
        return header, self.existing(task, name) if name else b""

    def first_named(self, task: int, address: int, count: int) -> int:
        """The first of an array of messages that names a socket by path; -1 for none."""
        for number in range(min(count & 0xFFFFFFFF, _MOST_MESSAGES)):
            header = kernel.read_exactly(task, address + number * _MESSAGES, _MESSAGE.size)
            name_at, size = _MESSAGE.unpack(header)[:2]
            if self.guest(task, name_at, size):
                return number
        return -1

    def close(self) -> None:
        """Remove the links."""
        for link in self._short.values():
            with contextlib.suppress(OSError):
                os.unlink(link)
        self._short.clear()

    def _address(self, host: bytes) -> bytes:
        if len(host) > _MAX_NAME:
            directory, name = os.path.split(host)
            host = self._shortened(directory) + b"/" + name
        if len(host) > _MAX_NAME:
            fail(errno.ENAMETOOLONG)
        return _FAMILY.pack(_UNIX) + host + b"\0"

    def _shortened(self, directory: bytes) -> bytes:
        link = self._short.get(directory)
        if link is None:
            place = os.fsencode(tempfile.gettempdir())
            link = os.path.join(place, b".pybuild-" + os.urandom(8).hex().encode())
            os.symlink(directory, link)
            self._short[directory] = link
        return link


def path_in(task: int, address: int, size: int) -> bytes:
    """The path in a socket address; empty for other families and abstract names."""
    size = min(size & 0xFFFFFFFF, _ADDRESS)
    if not address or size <= _FAMILY.size:
        return b""
    data = kernel.read(task, address, size)
    if len(data) <= _FAMILY.size or _FAMILY.unpack_from(data)[0] != _UNIX:
        return b""
    return data[2:].split(b"\0")[0]


def connected(view: View, task: int, path: bytes) -> socket.socket:
    """A stream socket connected to the one that has a path; never waits."""
    fd = view.reference(task, path)
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(0)
            made.connect(fd_path(fd))
        except BaseException:
            made.close()
            raise
        return made
    finally:
        os.close(fd)


def put_instead(step: Step, request: Request, made: socket.socket, number: int) -> None:
    """Put a socket in the place of one of a task's, with the flags of that."""
    number &= 0xFFFFFFFF
    place = f"/proc/{request.task}/fd/{number}"
    try:
        if not stat.S_ISSOCK(os.stat(place).st_mode):
            fail(errno.ENOTSOCK)
        with open(f"/proc/{request.task}/fdinfo/{number}", "rb") as file:
            flags = int(file.read().partition(b"flags:")[2].split(None, 1)[0], 8)
    except FileNotFoundError:
        fail(errno.EBADF)
    made.setblocking(not flags & os.O_NONBLOCK)
    kernel.replace_fd(step.listener, request.id, made.fileno(), number, flags)


def redirected(header: bytes, place: int, size: int) -> bytes:
    """A struct msghdr with its name elsewhere."""
    rest = _MESSAGE.unpack(header)[2:]
    return _MESSAGE.pack(place, size, *rest)
