"""Debian's docker-registry as a process on a free loopback port, ended by its id."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {data}}}
  delete: {{enabled: true}}
http: {{addr: "{address}"}}
"""
_AUTH = """\
auth:
  htpasswd: {{realm: tests, path: {passwords}}}
"""
PATIENCE = 20.0  # seconds a registry may take to answer


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry."""

    host: str
    directory: Path

    def name(self, repository):
        """The full name of an image in it."""
        return f"{self.host}/{repository}"


def free_port(address="127.0.0.1"):
    """A port nobody listens on now."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def registry(directory, *, users=None, address="127.0.0.1"):
    """Serve a registry from `directory`; with `users` it wants htpasswd Basic credentials."""
    directory.mkdir(parents=True)
    host = f"{address}:{free_port(address)}"
    text = _CONFIG.format(data=json.dumps(str(directory / "data")), address=host)
    if users:
        passwords = directory / "htpasswd"
        lines = [_password(name, word) for name, word in users.items()]
        passwords.write_text("".join(lines))
        text += _AUTH.format(passwords=json.dumps(str(passwords)))
    config = directory / "config.yml"
    config.write_text(text)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=log, stderr=log, cwd=directory
        )
        try:
            _wait(process, host, directory / "log")
            yield Registry(host, directory)
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _password(name, word):
    made = subprocess.run(
        ["htpasswd", "-nbB", name, word], capture_output=True, text=True, check=True
    )
    return made.stdout.strip() + "\n"


def _wait(process, host, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        connection = http.client.HTTPConnection(host, timeout=2)
        try:
            connection.request("GET", "/v2/")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    msg = f"docker-registry does not answer on {host}: {log.read_text()[-2000:]}"
    raise RuntimeError(msg)
