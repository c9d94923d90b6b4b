"""How networks of steps are connected: programs, their arguments, what a host lacks (issue 4)."""

from __future__ import annotations

import os

import pytest
from support.fake_sandbox import FakeSandbox, Program

from builder.errors import HostUnsupportedError
from builder.flagvalues import parse_hosts
from builder.options import parse_build
from builder.sandbox import network_link as link
from builder.sandbox.network import resolv_conf_of
from builder.sandbox.spec import NetworkMode, Outcome, Overlay, Process, SandboxSpec
from cache.value import replace


@pytest.fixture
def tun(tmp_path):
    """A device that can be opened."""
    path = tmp_path / "tun"
    path.write_bytes(b"")
    return str(path)


def install(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"")
    path.chmod(0o755)
    return str(path)


def test_pasta_is_preferred(tmp_path, tun):
    """Issue 4: either will do."""
    slirp = install(tmp_path, "slirp4netns")
    assert link.find_connector((), (str(tmp_path),), tun) == link.Connector(slirp, is_pasta=False)
    pasta = install(tmp_path, "pasta")
    assert link.find_connector((), (str(tmp_path),), tun) == link.Connector(pasta, is_pasta=True)


def test_what_is_missing_is_named(tmp_path, tun):
    """Issue 4: the device or the program, and what to choose instead."""
    with pytest.raises(HostUnsupportedError, match="needs /nowhere/tun") as caught:
        link.find_connector((), (str(tmp_path),), "/nowhere/tun")
    assert "--network host" in caught.value.hint
    with pytest.raises(HostUnsupportedError, match="needs pasta or slirp4netns") as caught:
        link.find_connector((), (str(tmp_path),), tun)
    assert "apt install passt" in caught.value.hint
    install(tmp_path, "slirp4netns")
    with pytest.raises(HostUnsupportedError, match="through pasta only"):
        link.find_connector(((80, 80),), (str(tmp_path),), tun)


def test_nothing_of_the_hosts_loopback_is_led_in():
    """Issue 4: no gateway that is the host, no port of the host's that was not asked for."""
    words = link.pasta_arguments(link.Connector("/p", is_pasta=True), "/n", "/f")
    assert "--no-map-gw" in words
    for flag in ("-t", "-u", "-T", "-U"):
        assert words[words.index(flag) + 1] == "none"
    published = link.Connector("/p", is_pasta=True, ports=((8080, 80), (99, 99)))
    words = link.pasta_arguments(published, "/n", "/f")
    assert words[words.index("-t") + 1] == "8080:80,99:99"
    assert "--disable-host-loopback" in link.slirp_arguments(published, "/n", 5)


def test_names_are_asked_of_the_network():
    """R06: one server, the search list as it was."""
    made = b"nameserver 1.1.1.1\nnameserver ::1\nsearch a b\noptions ndots:2\n"
    assert resolv_conf_of("10.0.2.3", made) == b"nameserver 10.0.2.3\nsearch a b\noptions ndots:2\n"


def test_host_gateway_is_the_gateway():
    """Issue 4: of the network that the step has."""
    assert parse_hosts(["a:host-gateway"], "10.0.2.2") == (("a", "10.0.2.2"),)
    request = parse_build(["--network=sandbox", "--add-host=a=host-gateway", "."], {})
    assert request.extra_hosts == (("a", "10.0.2.2"),)
    assert parse_build(["--add-host=a=host-gateway", "."], {}).extra_hosts == (("a", "127.0.0.1"),)


class Recording(FakeSandbox):
    """Keeps what it was given."""

    def __init__(self):
        super().__init__({("x",): Program()})
        self.specs = []

    def run(self, spec, output):
        self.specs.append(spec)
        return Outcome(0)


def test_only_steps_that_are_apart_are_connected(tmp_path):
    """R20: RUN --network=none and host stay what they are."""
    inner = Recording()
    networks = link.IsolatedNetworks(str(tmp_path), link.Connector("/nowhere", is_pasta=True))
    sandbox = link.ConnectedSandbox(inner, networks)
    spec = SandboxSpec(Overlay("/", (), "/", "/"), Process(("x",), ()))
    for mode in (NetworkMode.HOST, NetworkMode.NONE):
        sandbox.run(replace(spec, network=mode), lambda *_: None)
    assert [(spec.network, spec.netns) for spec in inner.specs] == [
        (NetworkMode.HOST, ""),
        (NetworkMode.NONE, ""),
    ]


def test_what_killed_builders_left_is_cleared_away(tmp_path):
    """Issue 4: nothing stays for ever; what is of a running one stays."""
    left, running = tmp_path / f"{(1 << 22) + 1}-1", tmp_path / f"{os.getpid()}-1"
    left.touch()
    running.touch()
    link.IsolatedNetworks(str(tmp_path), link.Connector("/nowhere", is_pasta=True))
    assert (left.exists(), running.exists()) == (False, True)
