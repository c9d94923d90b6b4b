"""A registry on loopback from which every builder takes the same base image."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from measure import FailedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def serving(work: Path) -> Iterator[str]:
    """Run docker-registry; its host and port."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if not program:
        raise FailedError("docker-registry is missing: apt-get install docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = work / "registry.yml"
    config.write_text(
        "version: 0.1\nstorage:\n  filesystem:\n"
        f"    rootdirectory: {work}/registry\nhttp:\n  addr: 127.0.0.1:{port}\n"
    )
    with (work / "registry.log").open("wb") as log:
        server = subprocess.Popen((program, "serve", str(config)), stdout=log, stderr=log)
    try:
        _wait(port)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def _wait(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/v2/")
            connection.getresponse().read()
            return
        time.sleep(0.1)
    raise FailedError("docker-registry does not answer")
