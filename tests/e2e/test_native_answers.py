"""Steps whose calls the compiled library answers: as Python alone does, call by call (C5, F2-F5, I08)."""

from __future__ import annotations

import os
import re

import pytest
from support.emulated_steps import compiled, outcome
from support.pybuild_cli import REPOSITORY
from support.twins import compile_twins

from builder.sandbox.engine import answered

PROGRAMS = REPOSITORY / "testdata" / "engine"
RANDOM = """\
FROM {base}
COPY --chmod=755 hostile /hostile
RUN mkdir -p /w/a/b && chown 3:4 /w/a && mkdir -m 2770 /w/g && chgrp 5 /w/g && mknod /w/n c 1 3 \\
 && echo x > /w/h && chown 7 /w/h && ln /w/h /w/c
RUN /hostile {seed} > /log 2>&1
"""
LIMITED = """\
FROM {base}
COPY --chmod=755 wide /wide
RUN /wide > /log 2>&1
"""
WIDE = r"""
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
  struct rlimit limit = {1, 1};
  long wide = 1L << 32 | RLIMIT_MSGQUEUE;
  if (setgid(7) || setuid(8)) return 1;
  syscall(SYS_prlimit64, 0, wide, &limit, 0);
  printf("%d\n", geteuid());
#ifdef SYS_setrlimit
  syscall(SYS_setrlimit, wide, &limit);
#endif
  printf("%d %d\n", geteuid(), setuid(0));
  return 0;
}
"""
OWN_TREE = re.compile(r"/plain/\w+/")  # a build's, in what the kernel calls unreachable
KINDS = [
    pytest.param("single", id="single"),
    pytest.param("emulate", id="emulate"),
    pytest.param(
        "chroot",
        id="chroot",
        marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root"),
    ),
]


@pytest.fixture(autouse=True, scope="module")
def library():
    """What this is about."""
    compile_twins()
    assert answered.load() is not None


def account(request, kind):
    """Who can build so."""
    return request.getfixturevalue("root_pybuild" if kind == "chroot" else "user_pybuild")


def both(pybuild, context, kind):
    """The log and the layer with the library, and without it."""
    found = [
        outcome(pybuild.with_environ(PYBUILD_NATIVE=value), context, kind) for value in ("1", "0")
    ]
    return [(log, layers[-1]) for layers, log in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_and_hostile_calls_answer_alike(request, busybox, tmp_path, kind, seed):
    """Bad pointers, texts without end, huge numbers, thousands of calls: errnos, owners, modes, layers."""
    pybuild = account(request, kind)
    program = compiled(tmp_path, "hostile", (PROGRAMS / "hostile.c").read_text(), "-w")
    text = RANDOM.format(base=busybox, seed=seed)
    context = pybuild.context(f"hostile-{kind}-{seed}", text, {"hostile": program})
    (log, layer), (expected, reference) = both(pybuild, context, kind)
    assert len(expected) > 9000
    assert log == expected
    assert layer.keys() == reference.keys()
    for name, entry in reference.items():
        assert layer[name][:4] == entry[:4], name


@pytest.mark.parametrize("kind", KINDS[:2])
def test_nobody_gets_roots_identity_by_a_wide_number(request, busybox, tmp_path, kind):
    """The kernel reads half of a register where it takes an int: so is the limit of identities told."""
    pybuild = account(request, kind)
    program = compiled(tmp_path, "wide", WIDE)
    context = pybuild.context(f"wide-{kind}", LIMITED.format(base=busybox), {"wide": program})
    for log, _ in both(pybuild, context, kind):
        assert log == ["8", "8 -1"]


@pytest.mark.parametrize("kind", KINDS)
def test_known_calls_answer_alike(request, busybox, tmp_path, kind):
    """Some three hundred that programs make: links of /proc, FIFOs, O_TMPFILE, attributes, chroot (C5)."""
    pybuild = account(request, kind)
    program = compiled(tmp_path, "answers", (PROGRAMS / "answers.c").read_text(), "-w")
    text = f"FROM {busybox}\nCOPY --chmod=755 answers /answers\nRUN /answers > /log 2>&1\n"
    context = pybuild.context(f"known-{kind}", text, {"answers": program})
    (log, layer), (expected, reference) = both(pybuild, context, kind)
    assert len(expected) > 240
    assert [OWN_TREE.sub("", line) for line in log] == [OWN_TREE.sub("", line) for line in expected]
    assert layer.keys() == reference.keys()
    for name, entry in reference.items():
        assert layer[name][:4] == entry[:4], name
