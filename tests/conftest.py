"""What holds for every test: as root, who can install everything, nothing is left out."""

from __future__ import annotations

import os

import pytest

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
