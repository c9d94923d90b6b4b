"""--network=sandbox: the world but not this host, through real pasta and slirp4netns (issue 4, C8)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.network_driver import GREETING

REPOSITORY = Path(__file__).resolve().parents[2]
CONNECTORS = ["/usr/bin/pasta", "/usr/bin/slirp4netns"]


def can_use_tun():
    """Whether namespaces can be connected here."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError:
        return False
    return True


needs_tun = pytest.mark.skipif(not can_use_tun(), reason="needs /dev/net/tun")
needs_pasta = pytest.mark.skipif(not Path(CONNECTORS[0]).exists(), reason="needs pasta")


@pytest.fixture
def loopback_port():
    """The port of a server on the host's loopback that greets whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(GREETING)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@needs_tun
@pytest.mark.parametrize("connector", CONNECTORS)
def test_a_step_has_a_network_but_not_the_hosts_loopback(tmp_path, connector, loopback_port):
    """F15: an address of its own, names, no way to 127.0.0.1 of the host; nothing is left."""
    if not Path(connector).exists():
        pytest.skip(f"needs {connector}")
    driver = REPOSITORY / "tests/support/network_driver.py"
    done = subprocess.run(
        [sys.executable, driver, tmp_path, connector, str(loopback_port)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found.pop("names") in {True, False}  # there may be no resolver where tests run
    assert found == {
        "interfaces": ["lo", "tap0"],
        "address": "10.0.2.100",
        "loopback": [False, False],
        "left": [],
    }


@needs_tun
@needs_pasta
def test_names_of_the_network_reach_the_step_and_not_the_image(root_pybuild, busybox, workspace):
    """R06: resolv.conf names the network's server, host-gateway its gateway; neither is kept."""
    pybuild = root_pybuild.with_state("networks")
    text = (
        f"FROM {busybox}\n"
        "RUN cat /etc/resolv.conf /etc/hosts && ip route && cat /sys/class/net/tap0/operstate\n"
        "RUN --network=none ! ip route | grep default\n"
    )
    context = pybuild.context("networks", text)
    rootfs = workspace / "networks-out"
    flags = ("--network=sandbox", "--add-host=me:host-gateway", "--no-cache")
    result = pybuild.good(*flags, "-o", rootfs, context)
    for said in ("nameserver 10.0.2.3", "10.0.2.2\tme", "default via 10.0.2.2 dev tap0"):
        assert said in result.err
    assert "nameserver" not in "".join(
        path.read_text() for path in [rootfs / "etc/resolv.conf"] if path.exists()
    )


def test_without_the_device_the_way_out_is_named(user_pybuild, busybox):
    """F15: exit 3, what is missing and what to choose instead."""
    if os.geteuid() == 0 and os.stat("/dev/net/tun").st_mode & 0o006:
        pytest.skip("everybody may use /dev/net/tun here")
    pybuild = user_pybuild.with_state("no-tun")
    context = pybuild.context("no-tun", f"FROM {busybox}\nRUN true\n")
    result = pybuild.run("--network=sandbox", context)
    assert result.code == 3
    assert "--network=sandbox needs" in result.err
    assert "--network host or none" in result.err


@needs_tun
@needs_pasta
def test_run_publishes_a_port(root_pybuild, busybox):
    """`pybuild run -p`: a port of the host's leads to the program's; without a network it cannot."""
    pybuild = root_pybuild.with_state("published")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = "echo welcome >/tmp/f; nc -l -p 99 </tmp/f"
    flags = ("--network", "sandbox", "-p", f"{port}:99")
    child = pybuild.start("run", *flags, busybox, "sh", "-c", f"mkdir -p /tmp; {serve}")
    heard = b""
    deadline = time.monotonic() + 20
    while not heard and time.monotonic() < deadline:
        time.sleep(0.1)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as end:
            end.settimeout(2)
            end.shutdown(socket.SHUT_WR)
            heard = end.recv(20)
    child.terminate()
    child.communicate(timeout=20)
    assert heard == b"welcome\n"
    refused = pybuild.run("run", "-p", "1:2", busybox, "true")
    assert (refused.code, "--network sandbox" in refused.err) == (2, True)
