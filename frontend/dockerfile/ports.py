"""Port specifications of EXPOSE: `80`, `80/udp`, `8000-8010`, and docker's `ip:host:port` (I04)."""

from __future__ import annotations

from frontend.dockerfile.problems import MistakeError

_PROTOCOLS = frozenset({"tcp", "udp", "sctp"})
_LAST_PORT = 65535
_DIGITS = 5


def parse_ports(text: str) -> list[str]:
    """List the ports of one word as `port/proto`; only the container's side counts.

    Raises:
        MistakeError: not a port, a reversed range, an unknown protocol, a wrong host side.
    """
    host, _, inner = text.rpartition(":")
    container, _, protocol = inner.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise MistakeError(
            f'invalid port: "{text[:60]}": invalid proto: {protocol[:20]}',
            hint="use tcp, udp or sctp",
        )
    address, _, host_port = host.rpartition(":")
    _check_address(address)
    ports = _range(container)
    if ports is None:
        raise MistakeError(
            f"invalid containerPort: {container[:60]}",
            hint="give a port from 0 to 65535 or a range such as 8000-8010",
        )
    if host_port:
        _check_host_port(host_port, ports, container)
    return [f"{port}/{protocol}" for port in ports]


def _check_address(address: str) -> None:
    if not address:
        return
    import ipaddress  # noqa: PLC0415 - hardly any file names an address

    bare = address[1:-1] if address[0] == "[" and address[-1] == "]" else address
    try:
        ipaddress.ip_address(bare)
    except ValueError as error:
        raise MistakeError(
            f"invalid IP address: {address[:60]}", hint="EXPOSE needs the container's port only"
        ) from error


def _check_host_port(text: str, container: range, shown: str) -> None:
    host = _range(text)
    if host is None:
        raise MistakeError(
            f"invalid hostPort: {text[:60]}", hint="EXPOSE needs the container's port only"
        )
    if len(container) not in {1, len(host)}:
        raise MistakeError(
            f"invalid ranges specified for container and host ports: {shown} and {text[:60]}",
            hint="EXPOSE needs the container's ports only",
        )


def _range(text: str) -> range | None:
    first, dash, last = text.partition("-")
    low = _port(first)
    high = _port(last) if dash else low
    if low is None or high is None or high < low:
        return None
    return range(low, high + 1)


def _port(text: str) -> int | None:
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()) or len(digits.lstrip("0")) > _DIGITS:
        return None
    number = int(digits[-_DIGITS:])
    return number if number <= _LAST_PORT else None
