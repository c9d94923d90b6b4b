"""Sockets of a step without a network, where none of its own can be made for it.

Every socket that could reach further is made here, bound to the loopback interface before the
step gets it: the kernel lets only CAP_NET_RAW undo that, which such a step does not have, and sends
nothing of it elsewhere, nor brings it anything. Datagrams can name another interface in a message
all the same, so that there are none. What follows from addresses is said at once, but for
politeness only: without it a connection elsewhere would not fail before it times out.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING

from builder.errors import HostUnsupportedError
from builder.sandbox import host, syscalls
from builder.sandbox.engine import kernel
from builder.sandbox.engine.kernel import fail
from builder.sandbox.engine.step import CONTINUE

if TYPE_CHECKING:
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.step import Handler, Step

RIGHTS = 1 << 12 | 1 << 13  # CAP_NET_ADMIN and CAP_NET_RAW, which undo it
_LOOPBACK = b"lo"
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
_NETLINK_ROUTE = 0
_ADDRESS = 28  # bytes of struct sockaddr_in6
_SHORTEST = 8  # bytes of a struct sockaddr_in as far as it matters
_V6_AT, _V6_SIZE = 8, 24  # where struct sockaddr_in6 has the address


def can_be() -> bool:
    """Whether sockets can be kept to the loopback interface (Linux 5.7 where we are not root)."""
    try:
        _bound(socket.AF_INET).close()
    except OSError:
        return False
    return True


def refusal() -> HostUnsupportedError:
    """Why a step cannot do without a network here."""
    return HostUnsupportedError(
        "no network of its own can be given to a step here, nor its sockets be kept to loopback",
        hint="leave --network=none out, or run where user namespaces are allowed:"
        " see `pybuild doctor`",
    )


def give_up_rights() -> None:
    """Keep the calling process from undoing it; nothing it executes gets more rights than it has."""
    syscalls.set_capabilities(host.probe().capabilities & ~RIGHTS)


def _bound(family: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LOOPBACK)
    except OSError:
        made.close()
        raise
    return made


def _socket(step: Step, request: Request) -> int | None:
    """All arguments are numbers, which no thread can change any more."""
    family, kind, protocol = (argument & 0xFFFFFFFF for argument in request.arguments[:3])
    if family == socket.AF_UNIX or (family == socket.AF_NETLINK and protocol == _NETLINK_ROUTE):
        return CONTINUE
    what = kind & ~_FLAGS
    if family not in _FAMILIES:
        fail(errno.EPERM if family == socket.AF_PACKET else errno.EAFNOSUPPORT)
    if what == socket.SOCK_RAW:
        fail(errno.EPERM)
    if what != socket.SOCK_STREAM or protocol not in {0, socket.IPPROTO_TCP}:
        fail(errno.EPROTONOSUPPORT)
    with _bound(family) as made:
        made.setblocking(not kind & socket.SOCK_NONBLOCK)
        kernel.give_fd(step.listener, request.id, made.fileno(), kind & os.O_CLOEXEC)
    return None


def require_near(task: int, address: int, size: int) -> None:
    """Refuse to connect to what is not this host, as far as can be seen.

    Raises:
        OSError: ENETUNREACH.
    """
    size = min(size & 0xFFFFFFFF, _ADDRESS)
    if address and size >= _SHORTEST and not is_near(kernel.read(task, address, size)):
        fail(errno.ENETUNREACH)


def is_near(data: bytes) -> bool:
    """Whether a socket address is of this host, or of no network."""
    if len(data) < _SHORTEST:
        return True
    (family,) = struct.unpack_from("<H", data)
    if family == socket.AF_INET:
        near = ipaddress.IPv4Address(data[4:8])
        return near.is_loopback or near.is_unspecified
    if family == socket.AF_INET6 and len(data) >= _V6_SIZE:
        found = ipaddress.IPv6Address(data[_V6_AT:_V6_SIZE])
        inner = found.ipv4_mapped or found
        return inner.is_loopback or inner.is_unspecified
    return True


SOCKET: dict[str, Handler] = {"socket": _socket}
