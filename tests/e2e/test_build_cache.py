"""What a repeated build runs again and what it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import threading
import time

import pytest
from support.layout_files import Layout

EPOCH = 1_700_000_000
CHAIN = """\
FROM {base}
COPY a.txt /a
RUN cat /a > /from-a
COPY b.txt /b
RUN cat /b > /from-b
"""
FILES = {"a.txt": "one\n", "b.txt": "two\n"}


def _ids(pybuild, context, *flags):
    file = pybuild.home / "iid"
    done = pybuild.good("--iidfile", file, *flags, context)
    return file.read_text(), done


def test_touch_hits_and_one_byte_misses(pybuild, busybox):
    """Times do not count; one byte runs what depends on it and nothing before it (C01)."""
    context = pybuild.context("chain", CHAIN.format(base=busybox), FILES)
    first, done = _ids(pybuild, context)
    assert len(done.ending("DONE")) == 4
    for name in FILES:
        os.utime(context / name, (1_000_000_000, 1_000_000_000))
    touched, done = _ids(pybuild, context)
    assert touched == first
    assert done.ending("DONE") == []
    (context / "b.txt").write_text("twp\n")
    changed, done = _ids(pybuild, context)
    assert changed != first
    assert done.ending("DONE") == ["COPY b.txt /b", "RUN cat /b > /from-b"]
    (context / "b.txt").write_text("two\n")
    again, done = _ids(pybuild, context)
    assert done.ending("DONE") == []
    assert again == first


def test_mode_change_misses(pybuild, busybox):
    """A file's mode is part of what it is."""
    context = pybuild.context("mode", CHAIN.format(base=busybox), FILES)
    _ids(pybuild, context)
    (context / "a.txt").chmod(0o755)
    _, done = _ids(pybuild, context)
    assert "COPY a.txt /a" in done.ending("DONE")


def test_same_output_of_a_changed_stage_lets_children_hit(pybuild, busybox):
    """A rebuilt stage with the same files leaves what was copied from it cached."""
    text = """\
FROM {base} AS made
COPY input /input
RUN head -c 3 /input > /out
FROM {base}
COPY --from=made /out /out
RUN sleep 0.1; cat /out > /result
"""
    context = pybuild.context("same", text.format(base=busybox), {"input": "abcdef"})
    _ids(pybuild, context)
    (context / "input").write_text("abcxyz")
    _, done = _ids(pybuild, context)
    assert done.ending("DONE")[:2] == ["COPY input /input", "RUN head -c 3 /input > /out"]
    assert any(name.startswith("RUN sleep") for name in done.ending("CACHED"))


def test_no_cache_runs_everything(pybuild, busybox):
    """--no-cache runs each step though nothing changed."""
    context = pybuild.context("nocache", CHAIN.format(base=busybox), FILES)
    _ids(pybuild, context)
    _, done = _ids(pybuild, context, "--no-cache")
    assert len(done.ending("DONE")) == 4


def test_explain(pybuild, busybox):
    """--explain names what changed for a step that ran, and says so of new and of cached ones."""
    context = pybuild.context("explain", CHAIN.format(base=busybox), FILES)
    _, done = _ids(pybuild, context, "--explain")
    assert done.err.count("never built before") == 4
    (context / "b.txt").write_text("other\n")
    _, done = _ids(pybuild, context, "--explain")
    lines = done.err.splitlines()
    hits = [line.split("] ")[1] for line in lines if line.startswith("hit ") and "FROM" not in line]
    misses = [line.split("] ")[1] for line in lines if line.startswith("miss ")]
    assert hits == ["COPY a.txt /a", "RUN cat /a > /from-a"]
    assert misses == ["COPY b.txt /b", "RUN cat /b > /from-b"]
    after = lines[lines.index(next(line for line in lines if line.startswith("miss "))) + 1]
    assert after.endswith("changed")


def test_source_date_epoch_reproduces_a_manifest(pybuild, busybox):
    """With SOURCE_DATE_EPOCH two cold stores give the same manifest where steps set file times (O21)."""
    text = f"""\
FROM {busybox}
ARG SOURCE_DATE_EPOCH
WORKDIR /w
COPY Dockerfile .
RUN mkdir d && echo x > d/f && ln d/f g && touch -d @$SOURCE_DATE_EPOCH d/f d .
LABEL made=twice
"""
    context = pybuild.context("epoch", text)
    digests = []
    for number in range(2):
        layout = pybuild.home / f"layout-{number}"
        output = f"type=oci,dest={layout},tar=false,name=x:it"
        cold = pybuild.with_state(f"epoch-{number}")
        cold.good("--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", "-o", output, context)
        made = Layout(layout).check()
        assert made.config["created"] == "2023-11-14T22:13:20Z"
        assert {member.mtime for member in made.entries().values()} == {EPOCH}
        digests.append(made.digest)
        time.sleep(1.1)
    assert digests[0] == digests[1]


def test_source_date_epoch_reproduces_a_tar(pybuild, busybox):
    """Two cold stores write the same tar, whose files have the given time (O21)."""
    text = f"FROM {busybox} AS made\nRUN mkdir /d && echo x > /d/f\nFROM scratch\nCOPY --from=made /d /d\n"
    context = pybuild.context("epoch", text)
    for number in range(2):
        cold = pybuild.with_state(f"epoch-{number}")
        output = f"type=tar,dest={pybuild.home / f'{number}.tar'}"
        cold.good("-o", output, context, env={"SOURCE_DATE_EPOCH": str(EPOCH)})
        time.sleep(1.1)
    with tarfile.open(pybuild.home / "0.tar") as archive:
        assert {member.mtime for member in archive} == {EPOCH}
    assert (pybuild.home / "0.tar").read_bytes() == (pybuild.home / "1.tar").read_bytes()


def test_cache_mounts(pybuild, busybox):
    """A shared cache mount keeps its files over builds and never gets into the image."""
    text = f"""\
FROM {busybox}
ARG N
RUN --mount=type=cache,target=/c echo $N >> /c/log && cat /c/log > /seen
"""
    context = pybuild.context("mounts", text)
    for number in "12":
        pybuild.good("-t", "seen", "--build-arg", f"N={number}", context)
    assert pybuild.good("run", "seen", "cat", "/seen").out == "1\n2\n"
    assert pybuild.run("run", "seen", "ls", "/c").code == 1


@pytest.mark.parametrize("sharing", ["locked", "shared", "private"])
def test_cache_mount_sharing(pybuild, busybox, sharing):
    """Two builds at once: locked ones follow each other, shared ones meet, private ones do not."""
    text = f"""\
FROM {busybox}
ARG N
RUN --mount=type=cache,target=/c,id=it,sharing={sharing} \\
 echo in >> /c/log; i=0; while [ $i -lt 15 ] && [ $(wc -l < /c/log) -lt 2 ]; do sleep 0.1; i=$((i+1)); done; \\
 cp /c/log /seen; echo out >> /c/log
"""
    context = pybuild.context("sharing", text)
    pybuild.good("--target", "base", pybuild.context("warm", f"FROM {busybox} AS base\nRUN true\n"))

    def build(number):
        pybuild.good("-t", f"seen{number}", "--build-arg", f"N={number}", context)

    _together([lambda n=n: build(n) for n in (1, 2)])
    seen = sorted(pybuild.good("run", f"seen{n}", "cat", "/seen").out.split() for n in (1, 2))
    if sharing == "locked":
        assert seen == [["in"], ["in", "out", "in"]]
    elif sharing == "private":
        assert seen == [["in"], ["in"]]
    else:  # they met: both were in before either was out
        assert [words[:2] for words in seen] == [["in", "in"], ["in", "in"]]


def _together(calls):
    errors = []

    def guarded(call):
        try:
            call()
        except AssertionError as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def test_four_builds_on_one_store_agree(pybuild, busybox):
    """Four cold builds of one Dockerfile at once all succeed and a fifth hits everything."""
    context = pybuild.context("four", CHAIN.format(base=busybox), FILES)
    _together([lambda n=n: pybuild.good("-t", f"four:{n}", context) for n in range(4)])
    _, done = _ids(pybuild, context)
    assert done.ending("DONE") == []
    outputs = {pybuild.good("run", f"four:{n}", "cat", "/from-a", "/from-b").out for n in range(4)}
    assert outputs == {"one\ntwo\n"}


def _processes_of(marker):
    """Ids of processes whose command line has the marker."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if marker.encode() in file.read():
                        found.append(int(name))
            except OSError:
                continue
    return found


def _wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything(pybuild, busybox, signal_number):
    """An interrupted build leaves no process, exits with 128 + the signal, and can be repeated."""
    marker = f"{7000 + os.getpid()}.{pybuild.uid % 1000}{int(signal_number)}"
    slow = f"FROM {busybox}\nRUN echo ready && sleep {marker} & sleep {marker}; wait\n"
    context = pybuild.context("slow", slow)
    process = pybuild.start("-t", "slow", context)
    assert _wait_for(lambda: len(_processes_of(f"sleep\0{marker}")) >= 2)
    process.send_signal(signal_number)  # setpriv became pybuild
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + signal_number, out
    assert b"interrupted" in out
    assert b"Traceback" not in out
    assert _processes_of(f"sleep\0{marker}") == []
    (context / "Dockerfile").write_text(f"FROM {busybox}\nRUN true\n")
    pybuild.good("-t", "slow", context)


def test_killed_build_leaves_a_good_store(pybuild, busybox):
    """After kill -9 in the middle of a step the next build is right and no process stays."""
    marker = f"{8000 + os.getpid()}.{pybuild.uid % 1000}"
    text = f"FROM {busybox}\nRUN echo kept > /kept\nRUN echo half > /half; [ -e /go ] || sleep {marker}\n"
    context = pybuild.context("killed", text)
    process = pybuild.start("-t", "killed", context)
    assert _wait_for(lambda: _processes_of(f"sleep\0{marker}"))
    process.kill()
    process.communicate(timeout=30)
    assert _wait_for(lambda: not _processes_of(f"sleep\0{marker}"), 10)
    (context / "Dockerfile").write_text(
        text.replace(f"[ -e /go ] || sleep {marker}", "cat /half /kept > /all")
    )
    done = pybuild.good("-t", "killed", context)
    assert done.ending("CACHED") == ["RUN echo kept > /kept"]
    assert pybuild.good("run", "killed", "cat", "/all").out == "half\nkept\n"
    pybuild.good("prune", "--all")
    leftovers = subprocess.run(
        ["find", pybuild.state / "tmp", "-mindepth", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert leftovers.stdout == ""


def test_several_targets_are_built_and_the_last_is_the_result(pybuild, busybox):
    """A test stage beside the one that ships: both run, one of them failing fails the build."""
    text = f"""\
FROM {busybox} AS base
RUN echo base > /base
FROM base AS test
ARG RESULT=true
RUN $RESULT && echo tested > /tested
FROM base AS ship
RUN echo shipped > /shipped
FROM base AS other
RUN false
"""
    context = pybuild.context("targets", text)
    output = pybuild.home / "targets.tar"
    flags = ("--target", "test", "--target", "ship", "-o", f"type=tar,dest={output}")
    done = pybuild.good(*flags, context)
    assert len(done.ending("DONE")) == 3
    with tarfile.open(output) as tar:
        assert {"base", "shipped"} <= set(tar.getnames())
        assert "tested" not in tar.getnames()
    done = pybuild.run(*flags, "--build-arg", "RESULT=false", context)
    assert done.code == 1
    assert "Dockerfile:5" in done.err
    done = pybuild.run("--target", "nowhere", "--target", "ship", context)
    assert done.code == 2
    assert 'target stage "nowhere" could not be found' in done.err
