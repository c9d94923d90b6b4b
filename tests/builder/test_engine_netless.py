"""What counts as near to a step without a network."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox.engine import netless


def four(address):
    """A struct sockaddr_in."""
    return struct.pack("<HH4s8x", socket.AF_INET, 0x5000, ipaddress.IPv4Address(address).packed)


def six(address):
    """A struct sockaddr_in6."""
    packed = ipaddress.IPv6Address(address).packed
    return struct.pack("<HHI16sI", socket.AF_INET6, 0x5000, 0, packed, 0)


@pytest.mark.parametrize(
    ("data", "near"),
    [
        (four("127.0.0.1"), True),
        (four("127.255.3.4"), True),
        (four("0.0.0.0"), True),  # noqa: S104 - what the kernel takes for this host
        (four("10.0.0.1"), False),
        (four("169.254.169.254"), False),
        (six("::1"), True),
        (six("::"), True),
        (six("::ffff:127.0.0.1"), True),
        (six("::ffff:8.8.8.8"), False),
        (six("fe80::1"), False),
        (six("2001:db8::1")[:24], False),
        (struct.pack("<H", socket.AF_UNIX) + b"/run/socket", True),
        (struct.pack("<H14x", socket.AF_UNSPEC), True),
    ],
)
def test_near_is_this_host(data, near):
    """F11: loopback and no address are near, what a network would be needed for is not."""
    assert netless.is_near(data) is near


@given(st.binary(max_size=28))
def test_any_address_can_be_asked_about(data):
    """F11: whatever a step passes as an address is judged without an error."""
    assert netless.is_near(data) in {True, False}


def test_sockets_can_be_kept_to_loopback_here():
    """F11: Linux 5.7 lets everybody bind a socket that is bound to nothing."""
    assert netless.can_be()
