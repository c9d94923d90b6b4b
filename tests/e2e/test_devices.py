"""Devices that RUN makes: in the layer whatever the sandbox, though no kernel allows them (F3)."""

from __future__ import annotations

import tarfile

import pytest
from support.step_layers import members

MAKING = """\
FROM {base}
RUN mknod /n c 1 3 && mknod -m 640 /b b 7 8 && chown 3:4 /b && mkdir /d && cd /d \\
 && mknod c c 5 1 && ln c e && mv c f && mknod gone c 1 5 && rm gone && touch plain \\
 && (umask 77; mknod closed c 1 7) && chown 0:9 . && chmod 2775 . && mknod grouped c 1 8 \\
 && mkdir -p /t/bin && cp /bin/busybox /t/bin/ && chroot /t /bin/busybox mknod /inside c 1 9 \\
 && mknod pipe p && echo x > /n
RUN rm /b && test -e /n && chmod 600 /n && touch /new
"""


def build(pybuild, context, name, *flags):
    """Build to a layout; gives its layers' entries."""
    output = pybuild.home / name
    pybuild.good("--no-cache", *flags, "-o", f"type=oci,tar=false,dest={output}", context)
    return members(output)


@pytest.mark.parametrize("sandbox", ["single", "emulate"])
def test_devices_are_the_same_in_every_sandbox(pybuild, busybox, sandbox):
    """F3: names, types, modes, owners and numbers, of links and renamed ones as well."""
    context = pybuild.context("same", MAKING.format(base=busybox))
    first = build(pybuild, context, "namespaces", "--sandbox", "userns")[-2:]
    second = build(pybuild, context, sandbox, "--sandbox", sandbox)[-2:]
    assert first == second
    made = {name: entry for name, entry in first[0].items() if entry[0] in b"34"}
    assert set(made) >= {"n", "b", "d/closed", "d/grouped", "t/inside"}
    assert made["b"][:4] == (tarfile.BLKTYPE, "0o640", 3, 4)
    assert made["b"][6:8] == (7, 8)
    assert made["d/closed"][1] == "0o600"
    assert made["d/grouped"][2:4] == (0, 9)
    assert "d/gone" not in first[0]
    assert first[1]["n"][:2] == (tarfile.CHRTYPE, "0o600")


def test_a_later_build_finds_what_an_earlier_one_left(pybuild, busybox):
    """F3: on a tree unpacked anew a device is there, changed by name, and still one in the layer."""
    text = f"FROM {busybox}\nRUN mknod /n c 1 3 && mknod /m c 1 5\n"
    first = pybuild.home / "layout"
    pybuild.good("-o", f"type=oci,tar=false,dest={first}", pybuild.context("first", text))
    pybuild.good("prune", "--all")
    context = pybuild.context("second", "FROM base\nRUN chmod 600 /n && rm /m\n")
    last = build(pybuild, context, "out", "--build-context", f"base=oci-layout://{first}:latest")[
        -1
    ]
    assert last["n"][:2] == (tarfile.CHRTYPE, "0o600")
    assert last["n"][6:8] == (1, 3)
    assert ".wh.m" in last


def test_devices_in_dev_go_with_their_step(pybuild, busybox):
    """F3, D08: what is made in a step's own /dev is in no layer."""
    context = pybuild.context(
        "own", f"FROM {busybox}\nRUN mknod /dev/tun c 10 200 && test -e /dev/tun\n"
    )
    assert build(pybuild, context, "out", "--sandbox", "userns")[-1] == {}


@pytest.mark.parametrize("sandbox", ["userns", "single", "emulate"])
def test_who_may_not_make_devices_is_refused(pybuild, busybox, sandbox):
    """F3: another user than root, a place that is not to be changed, and a whiteout, as ever."""
    text = f"""\
FROM {busybox}
RUN chmod 777 /srv 2>/dev/null || mkdir -m 777 /srv
RUN mknod /srv/w c 0 0 2>/dev/null && exit 1; mknod /none/x c 1 3 2>/dev/null && exit 1; \\
 mknod /proc/x c 1 3 2>/dev/null && exit 1; mknod /bin c 1 3 2>/dev/null && exit 1; true
USER 7
RUN mknod /srv/n c 1 3 2>/dev/null && exit 1; mknod /srv/p p
"""
    last = build(pybuild, pybuild.context("refused", text), "out", "--sandbox", sandbox)[-1]
    assert set(last) == {"srv", "srv/p"}
