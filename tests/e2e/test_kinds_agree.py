"""What every kind of sandbox must do alike, tried by root, who can have all of them (issue 4)."""

from __future__ import annotations

import os

import pytest

KINDS = ("userns", "single", "chroot", "emulate")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its root")


@pytest.mark.parametrize("kind", KINDS)
def test_a_workdir_within_a_mount_is_made_there(root_pybuild, busybox, kind):
    """R03: it is a directory of the mount, not of the image below it, and is found again."""
    context = root_pybuild.context(
        f"workdir-{kind}",
        f"""\
FROM {busybox}
WORKDIR /c/made/here
RUN --mount=type=cache,target=/c,id=workdir-{kind} {{ pwd; touch x; ls /c/made/here; }} > /o
RUN --mount=type=cache,target=/c,id=workdir-{kind} {{ touch y; ls; ls ..; ls /c; }} >> /o
RUN --mount=type=tmpfs,target=/c {{ touch z; ls /c/made/here; pwd; }} >> /o
""",
    )
    root_pybuild.good("--no-cache", "--sandbox", kind, "-t", f"workdir-{kind}", context)
    said = root_pybuild.good("run", "--rm", f"workdir-{kind}", "cat", "/o").out
    assert said.split() == ["/c/made/here", "x", "x", "y", "here", "made", "z", "/c/made/here"]
