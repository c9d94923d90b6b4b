"""Port specifications of EXPOSE: `80`, `80/udp`, `8000-8010`, and docker's `ip:host:port` (I04)."""

from __future__ import annotations

from frontend.dockerfile.problems import MistakeError

_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_LAST_PORT = 65535
_DIGITS = 5


def parse_ports(text: str) -> list[str]:
    """List the ports of one word as `port/proto`; only the container's side counts.

    Raises:
        MistakeError: not a port, a reversed range or an unknown protocol.
    """
    address, slash, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if slash and protocol not in _PROTOCOLS:
        raise MistakeError(
            f'invalid port: "{text[:60]}": invalid proto: {protocol[:20]}',
            hint="use tcp, udp or sctp",
        )
    container = address.rpartition(":")[2]
    first, dash, last = container.partition("-")
    low = _port(first)
    high = _port(last) if dash else low
    if low is None or high is None or high < low:
        raise MistakeError(
            f"invalid containerPort: {container[:60]}",
            hint="give a port from 0 to 65535 or a range such as 8000-8010",
        )
    return [f"{port}/{protocol}" for port in range(low, high + 1)]


def _port(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text.lstrip("0")) > _DIGITS:
        return None
    number = int(text)
    return number if number <= _LAST_PORT else None
