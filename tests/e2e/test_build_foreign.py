"""RUN for other machines through an emulator of the host's, and without one (issue 4)."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from support import bases
from support.foreign_programs import GREETING, arm64_program

EMULATOR = Path("/usr/bin/qemu-aarch64-static")
DOCKERFILE = 'FROM scratch\nCOPY --chmod=755 hello /hello\nRUN ["/hello"]\n'

needs_emulator = pytest.mark.skipif(
    not EMULATOR.exists() or os.uname().machine == "aarch64", reason="needs qemu-user-static"
)


@pytest.fixture
def context(pybuild):
    """A context with a program for arm64."""
    where = pybuild.home / "context"
    where.mkdir()
    (where / "hello").write_bytes(arm64_program())
    (where / "Dockerfile").write_text(DOCKERFILE)
    return where


def names_of(archive):
    """Every path in the layers of an OCI archive, and the architecture of its image."""
    with tarfile.open(archive) as outer:
        read = lambda digest: outer.extractfile(f"blobs/sha256/{digest[7:]}")  # noqa: E731 - local
        index = json.load(outer.extractfile("index.json"))
        manifest = json.load(read(index["manifests"][0]["digest"]))
        names = []
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=read(layer["digest"])) as inner:
                names += inner.getnames()
        return names, json.load(read(manifest["config"]["digest"]))["architecture"]


@needs_emulator
@pytest.mark.parametrize("sandbox", ["auto", "emulate"])
def test_a_foreign_program_runs_without_traces(pybuild, context, sandbox):
    """Issue 4: RUN for linux/arm64 without set-up of the host, as root and as anybody."""
    archive = pybuild.home / "out.tar"
    flags = ("--sandbox", sandbox, "--platform=linux/arm64", "-o", f"type=oci,dest={archive}")
    result = pybuild.good(*flags, context)
    assert GREETING.decode().strip() in result.err
    names, architecture = names_of(archive)
    assert architecture == "arm64"
    assert {"hello", "made"} <= set(names)
    assert not [name for name in names if "qemu" in name]


@needs_emulator
def test_both_platforms_in_one_build(pybuild, context):
    """Issue 4: a stage of the build platform beside one of the target's."""
    text = f"{DOCKERFILE}FROM --platform=linux/arm64 scratch\nCOPY --from=0 /made /made\n"
    (context / "Dockerfile").write_text(text)
    pybuild.good("--platform=linux/arm64,linux/riscv64", context)


def test_what_runs_nothing_needs_no_emulator(pybuild, context):
    """Issue 4: other platforms without RUN build anywhere."""
    (context / "Dockerfile").write_text('FROM scratch\nCOPY hello /\nENTRYPOINT ["/hello"]\n')
    pybuild.good("--platform=linux/s390x", context)


def test_without_an_emulator_the_error_names_step_package_and_way_out(pybuild, context):
    """Issue 4: exec format error, explained."""
    program = bytearray(arm64_program())
    program[18:20] = b"\xe7\x03"  # a machine that no emulator is for
    (context / "hello").write_bytes(program)
    result = pybuild.run("--platform=linux/arm64", context)
    assert result.code == 1
    assert 'RUN ["/hello"]' in result.err
    assert "qemu-user-static" in result.err
    assert "FROM --platform=$BUILDPLATFORM" in result.err


def test_a_step_for_another_machine_is_another_step(pybuild):
    """K10, S08: the platform is part of what a RUN is, so nothing of ours answers for it."""
    where = bases.busybox_context(pybuild.home / "native")
    (where / "Dockerfile").write_text(
        'FROM scratch\nCOPY . /\nRUN ["/busybox","true"]\n', encoding="utf-8"
    )
    pybuild.good(where)
    assert "2 cached" in pybuild.good(where).err
    other = "arm64" if os.uname().machine == "x86_64" else "amd64"
    assert "1 cached" in pybuild.good(f"--platform=linux/{other}", where).err
    result = pybuild.run("--platform=linux/amd65", where)
    assert result.code == 3
    assert "RUN for linux/amd65: no machine of that kind is known" in result.err
    assert "check --platform" in result.err
