"""Steps that attack the host through what a build lends them; rows of the security sheet (S-...)."""

from __future__ import annotations

import pytest

SANDBOXES = ["userns", "emulate"]


def _canary(pybuild):
    """A directory of the account's with a file no step may see."""
    outside = pybuild.home / "outside"
    outside.mkdir()
    (outside / "secret").write_text("HOSTCANARY")
    return pybuild.own(outside)


def _run(pybuild, sandbox, context, *flags):
    done = pybuild.run("--sandbox", sandbox, "--progress", "plain", *flags, context)
    shown = [line for line in (done.out + done.err).splitlines() if "RUN" not in line]
    return done, "\n".join(shown)


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_mount_stays_where_its_source_was(pybuild, busybox, sandbox):
    """S-C03: a source that turns into a link to the host while it is mounted leads nowhere else."""
    outside = _canary(pybuild)
    text = f"""\
FROM {busybox}
RUN --mount=type=cache,id=x,target=/c mkdir /c/s && echo inside > /c/s/secret
RUN --mount=type=cache,id=x,target=/c --mount=type=cache,id=x,target=/m,source=s \\
    mv /c/s /c/t && ln -s {outside} /c/s && cat /m/secret; echo bad > /m/new; ls /m; cat /c/t/new
"""
    done, shown = _run(pybuild, sandbox, pybuild.context("flip", text))
    assert done.code == 0, done.err
    assert "HOSTCANARY" not in shown
    assert [path.name for path in outside.iterdir()] == ["secret"]


@pytest.mark.parametrize("sandbox", SANDBOXES)
@pytest.mark.parametrize("source", ["link", "up", "chain", "root{outside}", "../../..{outside}"])
def test_links_of_a_cache_lead_into_it(pybuild, busybox, sandbox, source):
    """S-C02: a mount's source is looked up inside the cache, whatever links a step left there."""
    outside = _canary(pybuild)
    text = f"""\
FROM {busybox}
RUN --mount=type=cache,id=x,target=/c ln -s {outside} /c/link && ln -s / /c/root \\
    && ln -s ../../../../../../../..{outside} /c/up && ln -s link /c/chain
RUN --mount=type=cache,id=x,target=/m,source={source.format(outside=outside)} cat /m/secret
"""
    done, shown = _run(pybuild, sandbox, pybuild.context("links", text))
    assert done.code == 1
    assert "HOSTCANARY" not in shown
