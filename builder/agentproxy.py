"""Between a step and an ssh agent: listing keys and signing pass, all else is refused (M14).

The protocol is that of draft-miller-ssh-agent: a length, a type, a body. Both sides may send
anything; messages and connections are limited.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIST_KEYS, _SIGN, _EXTENSION = 11, 13, 27
_FAILURE, _EXTENSION_FAILURE = b"\x00\x00\x00\x01\x05", b"\x00\x00\x00\x01\x1c"
_MAX_MESSAGE = 256 * 1024  # bytes, as OpenSSH's own limit
_MAX_CONNECTIONS = 64  # at a time for one step
_LENGTH = struct.Struct(">I")


@contextlib.contextmanager
def serving(listener: socket.socket, agent: str) -> Iterator[None]:
    """Pass requests of those who connect on to the agent's socket until the context is left."""
    proxy = _Proxy(listener, agent)
    thread = threading.Thread(target=proxy.accept, name="ssh-agent", daemon=True)
    thread.start()
    try:
        yield
    finally:
        proxy.stop()
        thread.join()


class _Proxy:
    def __init__(self, listener: socket.socket, agent: str) -> None:
        self._listener = listener
        self._agent = agent
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopped = False

    def accept(self) -> None:
        """Take connections until stopped."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # shut down, or out of descriptors: then there are no more
                return
            if not self._keep(client):
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def stop(self) -> None:
        """End every connection, and accept()."""
        with self._lock:
            self._stopped = True
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)

    def _keep(self, connection: socket.socket) -> bool:
        with self._lock:
            if self._stopped or len(self._open) >= 2 * _MAX_CONNECTIONS:
                return False
            self._open.add(connection)
            return True

    def _serve(self, client: socket.socket) -> None:
        agent = socket.socket(socket.AF_UNIX)
        try:
            _connect(agent, self._agent)
            if self._keep(agent):
                _relay(client, agent)
        except OSError:
            pass  # one of the two went away
        finally:
            with self._lock:
                self._open -= {client, agent}
                client.close()
                agent.close()


def _connect(agent: socket.socket, path: str) -> None:
    """Connect by way of the directory's fd: the path may be longer than an address can be."""
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        agent.connect(f"/proc/self/fd/{fd}/{name}")
    finally:
        os.close(fd)


def _relay(client: socket.socket, agent: socket.socket) -> None:
    while request := _message(client):
        kind = request[_LENGTH.size]
        if kind in (_LIST_KEYS, _SIGN):
            agent.sendall(request)
            answer = _message(agent)
            if not answer:
                return
            client.sendall(answer)
        else:
            client.sendall(_EXTENSION_FAILURE if kind == _EXTENSION else _FAILURE)


def _message(connection: socket.socket) -> bytes:
    """A whole message with its length in front; empty at the end, or when it is none."""
    head = _exactly(connection, _LENGTH.size)
    if not head:
        return b""
    (length,) = _LENGTH.unpack(head)
    if not 0 < length <= _MAX_MESSAGE:
        return b""
    body = _exactly(connection, length)
    return head + body if body else b""


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return b""
        data += part
    return bytes(data)
