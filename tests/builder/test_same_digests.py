"""A fixed set of builds gives the digests it has always given, however fast they are made.

The digests are of image configs, which name those of every layer's tar. A change here means
that users' caches and reproducible builds change: never a side effect of making things faster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
EPOCH = "1700000000"
NANOSECOND = 10**9

BUILDS = {
    "files": (
        "FROM scratch\nCOPY tree /tree\n",
        "3d30e367151e4f32602266661a925e3acb94525474975e3566b226a95298b1ef",
    ),
    "owners": (
        "FROM scratch\nCOPY --chown=7:8 --chmod=640 tree/d1 /a/b/\nWORKDIR /w\n",
        "5c15827bb6aa75ddb3238752b084f1b0320126433399f893684c231ecca67045",
    ),
    "stages": (
        "FROM scratch AS one\nCOPY tree/d0 /x\nFROM scratch\nCOPY --from=one /x/f1.txt /y\nCOPY --parents tree/d*/f0.txt /p/\nENV A=b\nLABEL c=d\n",
        "8fd6cd24b79a472069ac36e2e612fb7cc372a17b11eb12d93a03771c211602a0",
    ),
    "heredoc": (
        "FROM scratch\nCOPY <<one <<two /h/\nfirst\none\nsecond\ntwo\nCOPY tree/link /l/\n",
        "074db2b171f8a7d59308edfe8d646dc973c3d4baf3e7fe1674b64b7379426ff6",
    ),
}


@pytest.fixture
def context(tmp_path):
    """Files with times in nanoseconds and in seconds, long names, links, and modes."""
    where = tmp_path / "context"
    for d in range(3):
        (where / "tree" / f"d{d}").mkdir(parents=True)
        for f in range(5):
            path = where / "tree" / f"d{d}" / f"f{f}.txt"
            path.write_bytes(f"{d} {f}\n".encode() * (f * 300))
            path.chmod(0o600 + f)
    (where / "tree" / ("n" * 120)).write_text("a long name\n")
    (where / "tree" / "link").symlink_to("d1/f1.txt")
    (where / "tree" / "link2").symlink_to("/absent")
    for n, path in enumerate(sorted((where / "tree").rglob("*"))):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o644)
        time = (1_600_000_000 + n) * NANOSECOND + (n % 3) * 123_456_700
        os.utime(path, ns=(time, time), follow_symlinks=False)
    for path in [*(where / "tree").glob("d?"), where / "tree"]:
        path.chmod(0o755)
        os.utime(path, ns=(1_600_000_000 * NANOSECOND,) * 2)
    return where


def built(tmp_path, context, *options):
    """The id of the image that a build in the state below `tmp_path` gives."""
    environ = {
        **os.environ,
        "PYBUILD_ROOT": str(tmp_path / "state"),
        "SOURCE_DATE_EPOCH": EPOCH,
        "PYTHONPATH": str(REPOSITORY),
    }
    command = [sys.executable, "-m", "builder", "build", "-q", "--platform", "linux/amd64"]
    return subprocess.run(
        [*command, *options, str(context)],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout.strip()


@pytest.mark.parametrize("name", sorted(BUILDS))
def test_a_build_gives_the_digest_it_always_gave(tmp_path, context, name):
    """First, from the cache, and anew with an archive beside: the recorded digest."""
    dockerfile, digest = BUILDS[name]
    (context / "Dockerfile").write_text(dockerfile)
    archive = f"type=oci,dest={tmp_path}/a.tar,compression=gzip"
    first = built(tmp_path, context)
    assert first == f"sha256:{digest}"
    assert built(tmp_path, context) == first
    assert built(tmp_path, context, "--no-cache", "-o", archive) == first
