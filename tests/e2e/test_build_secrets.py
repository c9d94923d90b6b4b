"""A secret is there in its step and nowhere else."""

from __future__ import annotations

import base64
import gzip
import os

import pytest
from support.layout_files import Layout, plain

CANARY = "canary-Zq3v9LxT5mWj8RkB2nYpH7sD4fGc6EaUt"  # 40 characters found by their bytes


def _forms(text):
    """The bytes of a secret and those of its base64 at each of three alignments."""
    raw = text.encode()
    yield raw
    yield raw.hex().encode()
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw)
        yield encoded[4 if shift else 0 : -4]


def _holders(directory, forms):
    """Files under a directory that hold a form of the secret, compressed blobs looked into."""
    found = []
    for parent, _, files in os.walk(os.fsencode(directory)):
        for name in files:
            path = os.path.join(parent, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            with open(path, "rb") as file:
                data = file.read()
            if any(form in text for text in (data, _opened(data)) for form in forms):
                found.append(path)
            if any(form in path for form in forms):
                found.append(path)
    return found


def _opened(data):
    try:
        return plain(data)
    except (gzip.BadGzipFile, EOFError):
        return b""


@pytest.mark.parametrize("source", ["file", "environment"])
def test_secret_is_never_kept(pybuild, busybox, source):
    """A mounted secret's bytes are in no blob, record, log or file of the state directory."""
    assert len(CANARY) == 40
    text = f"""\
FROM {busybox}
RUN --mount=type=secret,id=token [ "$(cat /run/secrets/token)" = "$(printf %s {CANARY[:20]}; printf %s {CANARY[20:]})" ]
RUN --mount=type=secret,id=token,target=/other,mode=0440,uid=1000,gid=20 stat -c "%a %u %g" /other > /mode && wc -c < /other > /length
RUN --mount=type=secret,id=token,env=TOKEN echo ${{#TOKEN}} > /from-environment
RUN ls -A /run/secrets /other 2>&1 | cat
"""
    context = pybuild.context("secret", text)
    kept = pybuild.home.parent / f"{pybuild.home.name}-token"
    kept.write_text(CANARY)
    kept.chmod(0o644)
    flag = f"id=token,src={kept}" if source == "file" else "id=token,env=MY_TOKEN"
    layout = pybuild.home / "layout"
    done = pybuild.good(
        "--secret", flag, "-t", "secret", "-o", "type=image", "-o", f"type=oci,dest={layout},tar=false", context,
        env={"MY_TOKEN": CANARY},
    )  # fmt: skip
    forms = list(_forms(CANARY))
    assert _holders(layout, forms) == []
    assert _holders(pybuild.state, forms) == []
    assert CANARY not in done.err + done.out
    assert pybuild.good("run", "secret", "cat", "/mode", "/length", "/from-environment").out == (
        "440 1000 20\n40\n40\n"
    )
    Layout(layout).check()


def test_changed_secret_hits(pybuild, busybox):
    """Another value of a secret does not run its step again."""
    context = pybuild.context(
        "value", f"FROM {busybox}\nRUN --mount=type=secret,id=t wc -c < /run/secrets/t\n"
    )
    pybuild.good("--secret", "id=t,env=T", context, env={"T": "one"})
    done = pybuild.good("--secret", "id=t,env=T", context, env={"T": "another"})
    assert done.ending("DONE") == []


def test_required_secret(pybuild, busybox):
    """A required secret that is not given fails the build and names it; an optional one is empty."""
    run = "RUN --mount=type=secret,id=absent{} [ ! -e /run/secrets/absent ]\n"
    context = pybuild.context("required", f"FROM {busybox}\n" + run.format(",required=true"))
    done = pybuild.run(context)
    assert done.code in {1, 2}
    assert "absent" in done.err
    pybuild.good(pybuild.context("optional", f"FROM {busybox}\n" + run.format("")))
    assert pybuild.run(context).code == 1, "what the optional one left in the cache is no excuse"
