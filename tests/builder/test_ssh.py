"""Agents for steps: what passes to the user's agent, what does not, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import struct
import subprocess
import threading
import time

import pytest

from builder.errors import SandboxError, UsageError
from builder.request import SshSource
from builder.ssh import SshAgents
from frontend.graph import SshMount

needs_openssh = pytest.mark.skipif(
    not (shutil.which("ssh-agent") and shutil.which("ssh-keygen")), reason="needs openssh"
)


def message(*parts):
    body = b"".join(parts)
    return struct.pack(">I", len(body)) + body


class FakeAgent:
    """An agent that answers everything with type 99 and remembers what it was asked."""

    def __init__(self, path):
        self.path = str(path)
        self.asked = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    while data := client.recv(65536):
                        self.asked.append(data)
                        client.sendall(message(b"\x63", data))

    def close(self):
        self._listener.close()


@pytest.fixture
def agent(tmp_path):
    """A running fake agent."""
    running = FakeAgent(tmp_path / "user.sock")
    yield running
    running.close()


@pytest.fixture
def agents(agent, tmp_path):
    """The agents of a build that was given the fake one as default."""
    made = SshAgents([SshSource("default", (agent.path,))], {}, str(tmp_path / "agents"))
    yield made
    made.close()


def connected(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(path)
    return client


def test_listing_and_signing_pass(agents, agent):
    """Requests to list keys and to sign reach the agent and its answers come back (M14)."""
    with agents.socket(SshMount()) as path, connected(path) as client:
        for request in (message(b"\x0b"), message(b"\x0d", b"key and data")):
            client.sendall(request)
            assert client.recv(100) == message(b"\x63", request)
    assert agent.asked == [message(b"\x0b"), message(b"\x0d", b"key and data")]


@pytest.mark.parametrize("kind", [1, 17, 18, 19, 20, 21, 22, 23, 25, 26, 255])
def test_what_changes_an_agent_is_refused(agents, agent, kind):
    """Adding, removing and locking keys is answered with failure and never reaches the agent."""
    with agents.socket(SshMount()) as path, connected(path) as client:
        client.sendall(message(bytes([kind]), b"x"))
        assert client.recv(100) == message(b"\x05")
    assert agent.asked == []


def test_extensions_are_refused(agents, agent):
    """Extensions have an answer of their own for failure."""
    with agents.socket(SshMount()) as path, connected(path) as client:
        client.sendall(message(b"\x1b", b"x"))
        assert client.recv(100) == message(b"\x1c")
    assert agent.asked == []


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\xff\xff\xff\xff\x0b", b"\0\4\0\1\x0b"])
def test_what_is_no_message_ends_the_connection(agents, agent, data):
    """Empty and oversized messages are not waited for."""
    with agents.socket(SshMount()) as path, connected(path) as client:
        client.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert agent.asked == []


def test_socket_has_mode_and_ends_with_the_step(agents, tmp_path):
    """The socket has the mode asked for; afterwards neither it nor a connection is left (T101)."""
    with agents.socket(SshMount(mode=0o640)) as path:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        client = connected(path)
    assert client.recv(1) == b""
    client.close()
    assert os.listdir(tmp_path / "agents") == []


def test_no_descriptor_is_left(agents):
    """Steps that use an agent leave no descriptor open (T101)."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with agents.socket(SshMount()) as path, connected(path) as client:
            client.sendall(message(b"\x0b"))
            client.recv(100)
    patience = time.monotonic() + 10  # the other side closes in its own time
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_other_ids_have_no_agent(agents):
    """An id that was not given is no agent, which is for the step to decide about (M14)."""
    assert agents.socket(SshMount("other")) is None


def test_variable_names_the_default(agent, tmp_path):
    """Without paths the agent is that of SSH_AUTH_SOCK (M14)."""
    agents = SshAgents([SshSource()], {"SSH_AUTH_SOCK": agent.path}, str(tmp_path / "a"))
    with agents.socket(SshMount()) as path, connected(path) as client:
        client.sendall(message(b"\x0b"))
        assert client.recv(100)


def test_mistakes(agent, tmp_path):
    """The same id twice, sockets with keys, and nothing at all are refused."""
    key = tmp_path / "key"
    key.write_text("x")
    for sources in (
        [SshSource("a", (agent.path,)), SshSource("a", (agent.path,))],
        [SshSource("a", (agent.path, str(key)))],
        [SshSource("a", (str(tmp_path / "nope"),))],
    ):
        with pytest.raises(UsageError):
            SshAgents(sources, {}, str(tmp_path / "a"))


@needs_openssh
def test_keys_get_an_agent_of_their_own(tmp_path):
    """Key files are served by an agent that ends with the build and leaves nothing (M14)."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    key.chmod(0o644)
    agents = SshAgents([SshSource("k", (str(key),))], {}, str(tmp_path / "agents"))
    with agents.socket(SshMount("k")) as path:
        listed = subprocess.run(
            ["ssh-add", "-L"],
            env={"SSH_AUTH_SOCK": path, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert listed.split()[1] == (tmp_path / "key.pub").read_text().split()[1]
    agents.close()
    assert os.listdir(tmp_path / "agents") == []


@needs_openssh
def test_keys_with_a_passphrase_are_refused(tmp_path):
    """Nobody is asked for a passphrase."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", key], check=True)
    agents = SshAgents([SshSource("k", (str(key),))], {}, str(tmp_path / "agents"))
    with pytest.raises(SandboxError, match="without a passphrase"), agents.socket(SshMount("k")):
        pass
    agents.close()
