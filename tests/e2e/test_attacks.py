"""Steps that attack the host through what a build lends them; rows of the security sheet (S-...)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

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


PAIRS = [
    ("RUN echo a && RUN echo b > /x || true\n", "RUN echo a\nRUN echo b > /x || true\n"),
    ('RUN ["sh", "-c", "echo $0 $1 > /x"]\n', 'RUN ["sh", "-c", "echo $0 $1 > /x", "q", "r"]\n'),
    ("RUN <<E\necho a > /x\nE\n", "RUN <<E\necho b > /x\nE\n"),
    ("ENV V=1\nRUN echo $V > /x\n", "ENV V=2\nRUN echo $V > /x\n"),
    ("RUN echo x$V > /x\nARG V=1\n", "ARG V=1\nRUN echo x$V > /x\n"),
    ("ARG V\nRUN echo ${V-no} > /x\n", "ARG V=\nRUN echo ${V-no} > /x\n"),
    ('SHELL ["sh", "-c"]\nRUN echo $- > /x\n', 'SHELL ["sh", "-ec"]\nRUN echo $- > /x\n'),
    (
        "RUN --mount=target=/m cat /m/f1 > /x\n",
        "RUN --mount=target=/m cat /m/f1 > /x\nRUN --mount=target=/m,source=f2 cat /m > /y\n",
    ),
    ("RUN --network=none grep -c : /proc/net/dev > /x\n", "RUN grep -c : /proc/net/dev > /x\n"),
    (
        "RUN mkdir /d && touch /d/1 /d/2\nRUN rm /d/1\nRUN ls /d > /x\n",
        "RUN mkdir /d && touch /d/1 /d/2\nRUN rm -r /d && mkdir /d\nRUN ls /d > /x\n",
    ),
]


@pytest.mark.parametrize("pybuild", ["user"], indirect=True)
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_steps_that_differ_share_no_result(pybuild, busybox, first, second):
    """S-J01, S-J05, S-J06, S-J11, S-J12, S-J13: the second is as if the first had never been."""
    flags = ("-o", f"type=oci,dest={pybuild.home}/o.tar,rewrite-timestamp=true")
    epoch = {"SOURCE_DATE_EPOCH": "1700000000"}
    digests = []
    for name, text in (("first", first), ("second", second)):
        context = pybuild.context(name, f"FROM {busybox}\n{text}", {"f1": "one", "f2": "two"})
        digests.append(pybuild.good(*flags, context, env=epoch).manifest)
    cold = pybuild.with_state("cold").good(*flags, context, env=epoch).manifest
    assert digests[0] != digests[1] == cold


ODD = [
    *(("userns", "passwd", kind) for kind in ("link", "up", "environ", "zero", "fifo", "big")),
    *(("userns", "group", kind) for kind in ("link", "fifo", "dir", "loop")),
    *(("emulate", "passwd", kind) for kind in ("link", "environ", "fifo")),
]


@pytest.mark.parametrize(("sandbox", "name", "kind"), ODD)
@pytest.mark.parametrize("pybuild", ["user"], indirect=True)
def test_odd_user_files_name_nobody(pybuild, busybox, sandbox, name, kind):
    """S-E12: links lead inside the image, nothing but a small file is read, nothing is waited for."""
    outside = _canary(pybuild)
    (outside / "secret").write_text("evil:x:0:0::/:/bin/sh\nevil:x:0:\n")
    made = {
        "link": f"ln -sf {outside}/secret $F",
        "up": f"ln -sf ../../../../../../..{outside}/secret $F",
        "environ": "ln -sf /proc/self/environ $F",
        "zero": "ln -sf /dev/zero $F",
        "fifo": "rm -f $F; mkfifo $F",
        "dir": "rm -f $F; mkdir $F",
        "loop": f"ln -sf {name} $F",
        "big": "dd if=/dev/zero of=$F bs=1M count=30 2>/dev/null",
    }
    user = "evil" if name == "passwd" else "7:evil"
    text = f"FROM {busybox}\nRUN F=/etc/{name}; {made[kind]}\nUSER {user}\nRUN echo as $(id -u)\n"
    done, shown = _run(pybuild, sandbox, pybuild.context("users", text))
    assert done.code == 1
    assert "as 0" not in shown
    assert "Traceback" not in done.err


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_targets_are_cleaned_up_inside(pybuild, busybox, sandbox):
    """S-C06, S-C11: a stub's parent swapped for a link to the host costs the host nothing."""
    outside = _canary(pybuild)
    (outside / "empty").write_text("")
    (outside / "directory").mkdir()
    pybuild.own(outside)
    text = f"""\
FROM {busybox}
RUN --mount=type=tmpfs,target=/p/directory mv /p /old; ln -s {outside} /p; true
RUN --mount=type=secret,id=s,target=/q/empty mv /q /old2; ln -s {outside} /q; true
RUN mkdir -p /usr/deep && touch -d '2001-01-01 00:00:00' /usr/deep
RUN --mount=type=cache,target=/usr/deep/cache echo data > /usr/deep/cache/f
RUN ls -A /usr/deep; echo time $(stat -c %Y /usr/deep)
"""
    context = pybuild.context("targets", text, {"s": "hidden"})
    done, shown = _run(pybuild, sandbox, context, "--secret", f"id=s,src={context}/s")
    assert done.code == 0, done.err
    assert sorted(path.name for path in outside.iterdir()) == ["directory", "empty", "secret"]
    assert "time 978307200" in shown


ABUSES = [
    "sleep 1000 & echo over",
    "(setsid sh -c 'sleep 1000 </dev/null >/dev/null 2>&1 &' &) ; echo over",
    "trap '' HUP TERM INT; nohup sleep 1000 >/dev/null 2>&1 & echo over",
    "sh -c 'kill -STOP $$' & echo over",
    "mkfifo /f; cat /f & cat /f & echo over",
    "i=0; while [ $i -lt 500 ]; do (exec true) & i=$((i+1)); done; echo over",
    "kill -STOP 1; kill -9 1; kill -9 $PPID; echo over",
    'exec 3<&0; i=4; while [ $i -lt 1500 ]; do eval "exec $i</dev/null"; i=$((i+1)); done; echo over',
]


@pytest.mark.parametrize("sandbox", SANDBOXES)
@pytest.mark.parametrize("pybuild", ["user"], indirect=True)
@pytest.mark.parametrize("number", range(len(ABUSES)))
def test_a_step_ends_with_its_program(pybuild, busybox, sandbox, number):
    """S-D23: whatever it left running, stopped or waiting; nobody outlives it, nobody else is hurt."""
    mark = f"MARK=abuse-{sandbox}-{number}"
    text = f"FROM {busybox}\nENV {mark}\nRUN {ABUSES[number]}\nRUN echo next\n"
    done, shown = _run(pybuild, sandbox, pybuild.context("abuse", text))
    assert done.code == 0, done.err
    assert "over" in shown
    assert "next" in shown
    assert not _processes_with(mark)


def _processes_with(mark):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(entry.name)
    return found


@pytest.mark.parametrize("sandbox", SANDBOXES)
@pytest.mark.parametrize("pybuild", ["user"], indirect=True)
def test_others_keep_their_priority_and_processors(pybuild, busybox, sandbox):
    """S-D06: a step changes how its own processes are scheduled, and nobody else's of its user."""
    other = subprocess.Popen(pybuild.as_account(["sleep", "60"]))
    try:
        time.sleep(0.5)
        text = f"""\
FROM {busybox}
ARG OTHER
RUN for p in $OTHER; do renice -n 7 -p $p; taskset -p 1 $p; kill $p; done; \\
    renice -n 7 -u 0; sleep 5 & renice -n 3 -p $! && echo nice $(cut -d' ' -f19 /proc/$!/stat)
"""
        flags = ("--build-arg", f"OTHER={other.pid}")
        done, shown = _run(pybuild, sandbox, pybuild.context("nice", text), *flags)
        assert done.code == 0, done.err
        assert "nice 3" in shown
        assert other.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, other.pid) == os.getpriority(os.PRIO_PROCESS, 0)
        assert os.sched_getaffinity(other.pid) == os.sched_getaffinity(0)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("sandbox", SANDBOXES)
@pytest.mark.parametrize("pybuild", ["user"], indirect=True)
def test_changes_of_a_bind_stay_in_its_step(pybuild, busybox, sandbox):
    """S-C09, S-J17: neither the context, nor a stage, nor a base becomes another for later steps."""
    text = f"""\
FROM {busybox} AS a
RUN mkdir /s && echo kept > /s/f && echo kept > /s/g
FROM {busybox} AS changing
RUN --mount=from=a,source=/s,target=/m,rw echo HACK >> /m/f && rm /m/g && touch /m/n && ls /m
RUN --mount=target=/m,rw echo HACK > /m/file && rm /m/Dockerfile && cat /m/file
RUN --mount=from={busybox},target=/m,rw echo HACK >> /m/etc/passwd
RUN --mount=from=a,source=/s,target=/m cat /m/f /m/g > /o && ! ls /m/n
RUN --mount=target=/m cat /m/file >> /o && ls /m/Dockerfile && ! grep HACK /o
FROM a AS after
RUN ! grep HACK /s/f && ls /s/g && ! ls /s/n
FROM {busybox} AS base
RUN ! grep HACK /etc/passwd
"""
    context = pybuild.context("binds", text, {"file": "kept"})
    for target in ("changing", "after", "base"):
        done, _ = _run(pybuild, sandbox, context, "--target", target)
        assert done.code == 0, done.err
    assert (context / "file").read_text() == "kept"
    assert (context / "Dockerfile").read_text() == text
