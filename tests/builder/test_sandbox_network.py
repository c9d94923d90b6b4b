"""resolv.conf and hosts of a step."""

from __future__ import annotations

from builder.sandbox.network import (
    RESOLV_CONF,
    SYSTEMD_RESOLV_CONF,
    hosts,
    resolv_conf,
    resolver_source,
)

STUB = "# systemd\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.org\n"


def test_the_host_network_keeps_loopback_resolvers():
    """On the host's network 127.0.0.53 answers, so it stays (R06)."""
    assert resolv_conf(STUB, own_network=False) == (
        b"nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.org\n"
    )
    assert resolver_source(STUB, own_network=False) == RESOLV_CONF


def test_a_network_of_its_own_drops_loopback_resolvers():
    """Unreachable resolvers go; public ones stand in when none is left (R06)."""
    mixed = "nameserver 127.0.0.1\nnameserver 10.0.0.2\nnameserver ::1\nnameserver\n;x\n"
    assert resolv_conf(mixed, own_network=True) == b"nameserver 10.0.0.2\n"
    assert resolv_conf("", own_network=True) == b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert resolver_source(STUB, own_network=True) == SYSTEMD_RESOLV_CONF
    assert resolver_source(mixed, own_network=True) == RESOLV_CONF


def test_hosts_has_the_host_name_and_the_added_entries():
    """localhost, the step's name, then --add-host in order (R06)."""
    assert hosts("box", [("db", "10.0.0.9"), ("v6", "fd00::1")]).decode().splitlines() == [
        "127.0.0.1\tlocalhost box",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "10.0.0.9\tdb",
        "fd00::1\tv6",
    ]
