"""RUN as root where nothing can be mounted: the layers of namespaces, and what a step meets (F2-F8)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from support.emulated_steps import compiled
from support.environments import CONFINED
from support.pybuild_cli import REPOSITORY
from support.running import running
from support.step_layers import CHANGES, members

from builder.sandbox.process import CAPABILITIES

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root"),
    pytest.mark.parametrize("pybuild", ["root"], indirect=True),
]

ANSWER = re.compile(r" (is|passwd|null|self|bad|hide|show) -?\d+( |$)")
CHROOT = ("--sandbox", "chroot", "--progress", "plain")


def build(pybuild, context, name, *flags):
    """Build to a layout; gives its layers' entries."""
    output = pybuild.home / name
    pybuild.good(*flags, "-o", f"type=oci,tar=false,dest={output}", context)
    return members(output)


def said(done, text):
    """Whether a step printed a line."""
    return any(line.split(" ", 2)[-1] == text for line in done.err.splitlines())


def test_chroot_layers_are_those_of_namespaces(pybuild, busybox):
    """Owners, modes, links, whiteouts, opaque directories, USER and WORKDIR: entry by entry (F2, F4, F5)."""
    context = pybuild.context("same", CHANGES.format(base=busybox), {"file": "from context\n"})
    first = build(pybuild, context, "namespaces", "--sandbox", "userns", "--no-cache")
    second = build(pybuild, context, "changed", *CHROOT, "--no-cache")
    assert len(first) == len(second)
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        assert one == other, f"layer {number}"


def test_chroot_system_trees_are_there(pybuild, busybox):
    """Devices, a process's own files, links that lead there; nothing of it is in the layer (C4)."""
    text = f"""\
FROM {busybox}
RUN ln -s /proc/meminfo /mem && ln -s ../proc/uptime /etc/up && ln -s mem /again && ln -s /dev /d
RUN echo x > /dev/null && echo x > /d/null && head -c 4 /dev/urandom > /dev/zero \\
 && head -n 1 /again | grep -q MemTotal && cat /etc/up && cd /etc && cat up \\
 && test "$(readlink /proc/self/exe)" = /bin/busybox && test -e /proc/self/fd/1 \\
 && cat < /dev/null && ls -l /dev/stdin > /o && cd / && grep -q MemTotal proc/meminfo \\
 && cd /proc/self && test "$(pwd)" = /proc/self && cat status > /dev/null && cat ../../o \\
 && cd /bin && ls ../proc/1 2> /dev/null; test -c /dev/null && mkdir /tmp/t \
 && ln -s /proc/self/exe /tmp/t/echo && /tmp/t/echo exe; rm -r /tmp/t; hostname
RUN echo 1 > /proc/sys/kernel/hostname; rm /etc/hosts; mv /etc/resolv.conf /x; echo done
"""
    context = pybuild.context("trees", text)
    layers = build(pybuild, context, "out", *CHROOT)
    assert set(layers[-2]) == {"o", "tmp"}
    assert layers[-1] == {}
    done = pybuild.good(*CHROOT, "--no-cache", context)
    assert said(done, "exe")
    assert said(done, "buildkitsandbox")
    assert done.err.count("Read-only file system") == 1
    assert done.err.count("Device or resource busy") == 2


def test_chroot_mounts_are_there_and_leave_nothing(pybuild, busybox):
    """Caches, binds, secrets, tmpfs and /etc/hosts are seen by the step and not in its layer (R07)."""
    text = f"""\
FROM {busybox} AS other
RUN mkdir /give && echo given > /give/f && printf '#!/bin/sh\\necho script $*\\n' > /give/s \\
 && cp /bin/busybox /give/echo && chmod 755 /give/s /give/echo
FROM {busybox}
RUN mkdir /var/run && ln -s /run /var/link
RUN --mount=type=cache,target=/cache,id=chroot --mount=type=secret,id=s --mount=type=tmpfs,target=/t \\
    --mount=from=other,source=/give,target=/in --mount=target=/ctx \\
    cat /run/secrets/s /var/link/secrets/s /in/f /ctx/file /etc/resolv.conf /etc/hosts > /dev/null \\
 && echo kept > /cache/k && cd /cache && mkdir -p a/b && echo 1 > a/b/c && mv a d && ln d/b/c e \\
 && ln -s d/b l && chown -h 7:8 l && chmod 4755 e && chown 5:6 d && rm -f nothing && touch -d @7 d \\
 && echo lost > /t/x && ! echo no > /in/f && ! echo no > /run/secrets/s && cat /in/f > /o \\
 && /in/s of a bind && /in/echo program && test -s /run/secrets/s
USER 1234
RUN --mount=type=cache,target=/cache,id=chroot --mount=type=secret,id=s ! cat /run/secrets/s 2> /dev/null \\
 && ! touch /cache/mine 2> /dev/null && cat /cache/l/c && cd /cache && pwd && cat k
USER 0
RUN --mount=type=cache,target=/cache,id=chroot cat /cache/k >> /o && stat -c '%u:%g %a %h %Y' /cache/d /cache/e >> /o
WORKDIR /cache
RUN --mount=type=cache,target=/cache,id=chroot cat k && pwd
"""
    context = pybuild.context("mounts", text, {"file": "x\n", "secret": "hidden\n"})
    secret = ("--secret", f"id=s,src={context / 'secret'}")
    layers = build(pybuild, context, "out", *CHROOT, *secret)
    assert set(layers[-5]) == {"o"}
    assert layers[-4] == {}
    assert layers[-3]["o"][8].startswith(b"given\nkept\n5:6 755 3 7\n0:0 4755 2 ")
    assert set(layers[-2]) == {"cache"}
    assert layers[-1] == {}
    done = pybuild.good(*CHROOT, "--no-cache", *secret, context)
    for line in ("script of a bind", "program", "kept", "/cache"):
        assert said(done, line), line
    assert os.listdir(pybuild.state / "scratch") == []


def test_chroot_a_step_reaches_neither_files_nor_processes_outside(pybuild, busybox):
    """Not by path, by link, by /proc, by a descriptor's parent nor by signal (F8, D04, D05)."""
    secret = pybuild.home / "outside"
    secret.write_text("canary")
    text = f"""\
FROM {busybox}
ARG OUTSIDE
ARG BUILDER
RUN ln -s $OUTSIDE /link; for f in $OUTSIDE /link /../../../../../..$OUTSIDE /proc/1/root$OUTSIDE \\
    /proc/self/root$OUTSIDE /proc/$BUILDER/environ /proc/$BUILDER/root$OUTSIDE /proc/$PPID/environ; do \\
    if cat $f 2> /dev/null; then echo "read $f"; fi; done; \\
    cd /proc && cat ..$OUTSIDE 2> /dev/null && echo read up; cd /dev/shm; cat ../..$OUTSIDE && echo read up; \\
    kill -0 $BUILDER 2> /dev/null && echo signalled; kill -9 -1; echo alive
"""
    context = pybuild.context("jail", text)
    ours = ("--build-arg", f"OUTSIDE={secret}", "--build-arg", f"BUILDER={os.getpid()}")
    done = pybuild.good(*CHROOT, *ours, context)
    assert said(done, "alive")
    for bad in ("canary", " read /", " read up", "signalled"):
        assert bad not in done.err.split("RUN ln")[-1].split("\n", 8)[-1], bad


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_chroot_a_killed_build_leaves_no_process(pybuild, busybox, number):
    """Neither a cancelled one nor one that had no chance to clean up (D23, S-I02)."""
    word = f"76{number:02}"
    text = f"FROM {busybox}\nRUN sleep {word}1 & (setsid sleep {word}2 &); sleep {word}\n"
    context = pybuild.context("killed", text)
    process = pybuild.start(*CHROOT, context)
    deadline = time.monotonic() + 60
    while not running("sleep", word) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running("sleep", word)
    process.send_signal(number)
    process.communicate(timeout=20)
    while time.monotonic() < deadline and any(running("sleep", word + n) for n in ("", "1", "2")):
        time.sleep(0.05)
    for last in ("", "1", "2"):
        assert not running("sleep", word + last)


def test_chroot_trees_of_other_sandboxes_are_not_mixed_up(pybuild, busybox):
    """A state directory may be used with and without recorded owners in turn (F2)."""
    text = f"FROM {busybox}\nARG N\nRUN touch /f && chown 3:4 /f\nRUN stat -c %u:%g /f > /o$N\n"
    context = pybuild.context("turns", text)
    for number, sandbox in enumerate(("chroot", "emulate", "chroot", "emulate")):
        flags = ("--sandbox", sandbox, "--build-arg", f"N={number}")
        layers = build(pybuild, context, f"out{number}", *flags)
        assert layers[-1][f"o{number}"][8] == b"3:4\n", sandbox


def confined(pybuild, *words):
    """Build with the rights of a container."""
    settings = {"uid": 0, "filter": "default", "capabilities": CAPABILITIES}
    command = [sys.executable, "-P", CONFINED, json.dumps(settings)]
    return subprocess.run(
        [*command, *pybuild.command("--progress", "plain", *words)],
        env=pybuild.environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_chroot_works_with_a_containers_rights(pybuild, busybox):
    """Without CAP_SYS_ADMIN and CAP_SYS_PTRACE: who changed his ids is still answered (C4)."""
    text = f"""\
FROM {busybox}
RUN su nobody -s /bin/sh -c 'id -u; echo x > /dev/null && test -s /etc/resolv.conf && cd /proc/self && cat status' > /o
RUN --mount=type=cache,target=/cache,id=rights,mode=0777 cd /cache && mkdir -p s && echo kept > s/k
USER 1234:567
RUN --mount=type=cache,target=/cache,id=rights,mode=0777 cd /cache/s && cd .. && cat s/k && touch mine && stat -c %u:%g mine \\
 && cd s && test "$(/bin/pwd)" = /cache/s && ! touch no 2> /dev/null && ln -s /proc/self/exe /cache/echo && /cache/echo own
"""
    context = pybuild.context("rights", text)
    done = confined(pybuild, context)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2)[-1] for line in done.stderr.splitlines()]
    assert lines[lines.index("kept") :][:3] == ["kept", "1234:567", "own"]


@pytest.mark.parametrize("rights", ["all", "container"])
def test_chroot_who_hides_its_memory_is_answered(pybuild, busybox, tmp_path, rights):
    """PR_SET_DUMPABLE as ssh-agent does: told, handed down, gone with exec, in no one's way (I06)."""
    source = REPOSITORY / "testdata" / "engine" / "hidden.c"
    program = compiled(tmp_path, "hidden", source.read_text())
    text = f"FROM {busybox}\nCOPY --chmod=755 hidden /hidden\nUSER bob\nRUN /hidden\n"
    context = pybuild.context("hidden", text, {"hidden": program})
    known = pybuild.good("--no-cache", "--sandbox", "userns", "--progress", "plain", context)
    if rights == "all":
        found = pybuild.good("--no-cache", *CHROOT, context).err
    else:
        done = confined(pybuild, "--no-cache", context)
        assert done.returncode == 0, done.stderr
        found = done.stderr
    said = [
        [line.split(" ", 2)[-1] for line in text.splitlines() if ANSWER.search(line)]
        for text in (known.err, found)
    ]
    assert len(said[0]) > 20
    assert said[0] == said[1]


def test_chroot_devices_are_in_the_layer(pybuild, busybox):
    """Device nodes are made, and a later step sees them (F3)."""
    text = f"""\
FROM {busybox}
RUN mknod /n c 1 3 && mknod -m 640 /b b 7 8 && chown 3:4 /b && test -c /n && test -b /b
RUN stat -c '%F %t:%T %u:%g %a' /n /b > /o && cp -a /n /n2 && rm /b
"""
    context = pybuild.context("devices", text)
    layers = build(pybuild, context, "out", *CHROOT)
    assert layers[-2]["n"][:4] == (tarfile.CHRTYPE, "0o644", 0, 0)
    assert layers[-2]["b"][:4] == (tarfile.BLKTYPE, "0o640", 3, 4)
    assert layers[-1]["o"][8] == (
        b"character special file 1:3 0:0 644\nblock special file 7:8 3:4 640\n"
    )
    assert layers[-1]["n2"][6:8] == (1, 3)
    assert ".wh.b" in layers[-1]


def test_chroot_what_needs_namespaces_is_refused(pybuild, busybox):
    """No weaker thing is given instead: exit 3 names doctor (D27)."""
    context = pybuild.context("refused", f"FROM {busybox}\nRUN --security=insecure true\n")
    done = pybuild.run(*CHROOT, "--allow", "security.insecure", context)
    assert done.code == 3
    assert "pybuild doctor" in done.err


def test_chroot_sizes_that_nothing_keeps_are_told(pybuild, busybox):
    """C9, M12: a tmpfs is a directory here, which its size does not limit: one line says so."""
    text = f"""\
FROM {busybox}
RUN --mount=type=tmpfs,target=/scratch,size=1m --mount=type=tmpfs,target=/other true
RUN --mount=type=tmpfs,target=/other echo again
"""
    done = pybuild.good(*CHROOT, "--no-cache", "--shm-size", "1m", pybuild.context("sizes", text))
    told = [line.partition("warning: ")[2] for line in done.err.splitlines() if "no size" in line]
    start = "nothing can be mounted here: no size limits "
    assert told == [start + "/scratch, /dev/shm", start + "/dev/shm"]
