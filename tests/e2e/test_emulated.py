"""RUN without any privilege: the same layers as with namespaces, and what a step cannot reach (F2-F8)."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.step_layers import CHANGES, members

EMULATED = ("--sandbox", "emulate", "--progress", "plain")


def build(pybuild, context, name, *flags):
    """Build to a layout; gives its layers' entries."""
    output = pybuild.home / name
    pybuild.good(*flags, "-o", f"type=oci,tar=false,dest={output}", context)
    return members(output)


def test_layers_are_those_of_namespaces(pybuild, busybox):
    """Owners, modes, links, whiteouts, opaque directories, USER and WORKDIR: entry by entry (F2, F4, F5)."""
    context = pybuild.context("same", CHANGES.format(base=busybox), {"file": "from context\n"})
    flags = ("--no-cache",)
    first = build(pybuild, context, "namespaces", "--sandbox", "userns", *flags)
    second = build(pybuild, context, "emulated", "--sandbox", "emulate", *flags)
    assert len(first) == len(second)
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        assert one == other, f"layer {number}"


def test_devices_and_protected_attributes_are_recorded(pybuild, busybox):
    """Device nodes that nobody may make are in the layer, and a later step sees them (F3)."""
    text = f"""\
FROM {busybox}
RUN mknod /n c 1 3 && mknod -m 640 /b b 7 8 && chown 3:4 /b && test -c /n && test -b /b
RUN stat -c '%F %t:%T %u:%g %a' /n /b > /o && cp -a /n /n2 && rm /b
"""
    context = pybuild.context("devices", text)
    layers = build(pybuild, context, "out", *EMULATED)
    assert layers[-2]["n"][:4] == (tarfile.CHRTYPE, "0o644", 0, 0)
    assert layers[-2]["n"][6:8] == (1, 3)
    assert layers[-2]["b"][:4] == (tarfile.BLKTYPE, "0o640", 3, 4)
    assert layers[-1]["o"][8] == (
        b"character special file 1:3 0:0 644\nblock special file 7:8 3:4 640\n"
    )
    assert layers[-1]["n2"][6:8] == (1, 3)
    assert ".wh.b" in layers[-1]


def test_mounts_are_there_and_leave_nothing(pybuild, busybox):
    """Caches, binds, secrets, tmpfs and /etc/hosts are seen by the step and not in its layer (R07)."""
    text = f"""\
FROM {busybox} AS other
RUN mkdir /give && echo given > /give/f
FROM {busybox}
RUN --mount=type=cache,target=/cache --mount=type=secret,id=s --mount=type=tmpfs,target=/t \\
    --mount=from=other,source=/give,target=/in --mount=target=/ctx \\
    cat /run/secrets/s /in/f /ctx/file /etc/resolv.conf /etc/hosts > /dev/null && echo kept > /cache/k \\
    && echo lost > /t/x && ! echo no > /in/f && ! echo no > /run/secrets/s && cat /in/f > /o
RUN --mount=type=cache,target=/cache cat /cache/k >> /o
"""
    context = pybuild.context("mounts", text, {"file": "x\n", "secret": "hidden\n"})
    secret = ("--secret", f"id=s,src={context / 'secret'}")
    layers = build(pybuild, context, "out", *EMULATED, *secret)
    assert set(layers[-2]) == {"o"}
    assert os.listdir(pybuild.state / "scratch") == []  # what tmpfs and /dev/shm held is gone
    assert layers[-1]["o"][8] == b"given\nkept\n"


def test_a_step_reaches_neither_files_nor_processes_outside(pybuild, busybox):
    """Not by path, by link, by /proc nor by signal (F8, D04, D05)."""
    secret = pybuild.home / "outside"
    secret.write_text("canary")
    text = f"""\
FROM {busybox}
ARG OUTSIDE
ARG BUILDER
RUN ln -s $OUTSIDE /link; for f in $OUTSIDE /link /../../../../../..$OUTSIDE /proc/1/root$OUTSIDE \\
    /proc/self/root$OUTSIDE /proc/$BUILDER/environ /proc/$BUILDER/root$OUTSIDE; do \\
    if cat $f 2> /dev/null; then echo "read $f"; fi; done; \\
    kill -0 $BUILDER 2> /dev/null && echo signalled; kill -9 -1; echo alive
"""
    context = pybuild.context("jail", text)
    done = pybuild.good(
        *EMULATED,
        "--build-arg",
        f"OUTSIDE={secret}",
        "--build-arg",
        f"BUILDER={os.getpid()}",
        context,
    )
    assert "alive" in done.err
    for bad in ("canary", " read /", "signalled"):
        assert bad not in done.err.split("RUN ln")[-1].split("\n", 6)[-1]


@pytest.mark.parametrize("native", ["1", "0"])
def test_what_a_mount_hides_is_reached_over_no_link(pybuild, busybox, native):
    """Names below a mount are those in it, whatever link leads there (R07, C5)."""
    text = f"""\
FROM {busybox}
RUN mkdir -p /mnt/d /a && echo hidden > /mnt/f && echo hidden > /mnt/d/f \\
 && ln -s /mnt /a/link && ln -s link/../../mnt /a/way && ln -s ../mnt/f /a/file
RUN --mount=type=cache,target=/mnt,id=hides-{native} cd /a && ! cat link/f && ! cat way/f && ! cat file \\
 && ! cat /a/link/d/f && ! test -e /a/way/d && ! test -r /a/link/f && ! chmod 600 link/f \\
 && echo seen > link/f && cat way/f file && test "$(stat -c %s /a/link/f)" = 5 && mv link/f way/g
RUN cat /mnt/f /mnt/d/f && ! test -e /mnt/g
"""
    context = pybuild.context(f"hides-{native}", text)
    environ = {**pybuild.environ(), "PYBUILD_NATIVE": native}
    done = subprocess.run(
        pybuild.command(*EMULATED, "--no-cache", context),
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_fifos_sockets_links_and_chroot_work(pybuild, busybox):
    """What programs of package managers do: rendezvous, chroot, scripts of scripts, /proc/self/exe (C5)."""
    text = f"""\
FROM {busybox}
RUN mkfifo /p && (echo through > /p &) && cat /p
RUN printf '#!/bin/sh\\necho script "$0" "$@"\\n' > /s && chmod 755 /s && printf '#!/s with\\n' > /t \\
 && chmod 755 /t && /t more
RUN readlink /proc/self/exe; cd /bin && ./busybox echo relative; hostname
RUN mkdir -p /j/bin /j/etc && cp /bin/busybox /j/bin && chroot /j /bin/busybox ls / && ls -d /j
"""
    context = pybuild.context("works", text)
    done = pybuild.good(*EMULATED, context)
    for line in (
        "through", "script /s with /t more", "/bin/busybox", "relative", "buildkitsandbox", "/j",
    ):  # fmt: skip
        assert any(text.endswith(f" {line}") for text in done.err.splitlines()), line


def test_what_needs_namespaces_is_refused(pybuild, busybox):
    """No weaker thing is given instead: exit 3 names doctor (D27)."""
    context = pybuild.context("refused", f"FROM {busybox}\nRUN --security=insecure true\n")
    done = pybuild.run(*EMULATED, "--allow", "security.insecure", context)
    assert done.code == 3
    assert "pybuild doctor" in done.err
    assert "Dockerfile:2" in done.err


def test_calls_that_no_step_may_make_are_refused_here_too(pybuild, busybox):
    """The filter of namespaced steps stands behind the engine: keys, io_uring, AF_ALG (S-D11)."""
    text = f"FROM {busybox}\nRUN grep Seccomp_filters /proc/self/status && unshare -U true\n"
    context = pybuild.context("refused", text)
    done = pybuild.run(*EMULATED, context)
    status = Path("/proc/self/status").read_text().split()
    before = int(status[status.index("Seccomp_filters:") + 1])
    assert f"Seccomp_filters:\t{before + 2}" in done.err
    assert done.code == 1


@pytest.mark.parametrize("sandbox", ["userns", "emulate"])
def test_a_crash_leaves_no_core(pybuild, busybox, sandbox):
    """Neither a file in the layer nor a program of the host's gets a step's memory (S-D17, S-I07)."""
    text = (
        f"FROM {busybox}\nRUN ulimit -c unlimited; cd /tmp; sh -c 'kill -SEGV $$'; ls /tmp > /o\n"
    )
    output = pybuild.home / "out"
    context = pybuild.context("core", text + "RUN grep -i 'core file' /proc/self/limits >> /o\n")
    flags = ("--sandbox", sandbox, "-o", f"type=local,dest={output}")
    pybuild.good(*flags, context)
    # 0 starts a program that is registered for cores, 1 does not.
    words = (output / "o").read_text().split()
    assert [word for word in words if "core" in word.lower()] == ["core"]
    assert words[-3:-1] in (["1", "1"], ["0", "0"])


def test_sizes_that_nothing_keeps_are_told(pybuild, busybox):
    """C9, M12: a tmpfs is a directory here, which its size does not limit: one line says so."""
    text = f"""\
FROM {busybox}
RUN --mount=type=tmpfs,target=/scratch,size=1m --mount=type=tmpfs,target=/other true
RUN --mount=type=tmpfs,target=/other echo again
"""
    done = pybuild.good(*EMULATED, "--no-cache", "--shm-size", "1m", pybuild.context("sizes", text))
    told = [line.partition("warning: ")[2] for line in done.err.splitlines() if "no size" in line]
    start = "nothing can be mounted here: no size limits "
    assert told == [start + "/scratch, /dev/shm", start + "/dev/shm"]
