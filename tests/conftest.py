"""What holds for every test: as root, who can install everything, nothing is left out."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Why a test has nothing to try as root, or where the kernel itself lacks something.
_FITTING = (
    "root needs no",
    "lowering the limit needs root",  # which another variant of the test is
    "everybody may use /dev/net/tun",
    "needs /dev/net/tun",
    "no ACLs on this file system",
    "no extended attributes here",
    "not a git checkout",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Fail a test that skips itself as root for want of a program: tests/setup.sh installs it."""
    report = yield
    if os.geteuid() == 0 and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(_FITTING):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} tried nothing: {reason}; see tests/setup.sh"
    return report


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> Path:
    """A self-signed certificate and key for localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here")
    folder = tmp_path_factory.mktemp("tls")
    arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x"
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    names = ["-addext", "subjectAltName=DNS:localhost,DNS:proxied.test"]
    subprocess.run([openssl, *arguments.split(), *names, *files], check=True, capture_output=True)
    return folder
