"""The same work by bare commands, with no builder around it: what no builder can be faster than.

floors.py pack gzip|zstd    # used as a filter: a tar comes in, digests are computed on the way
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
_PIECE = 1 << 18


def timed(script: str) -> float:
    """The seconds of a shell script that must succeed."""
    start = time.perf_counter()
    subprocess.run(("sh", "-ec", script), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def inside(root: Path, script: str) -> str:
    """A command below a root in namespaces of its own."""
    user = "" if os.geteuid() == 0 else "--user --map-root-user "
    return (
        f"unshare {user}--mount --pid --fork chroot {shlex.quote(str(root))} "
        f"/bin/sh -c {shlex.quote(script)}"
    )


def walk(context: Path) -> str:
    """Python started and everything looked at."""
    place = shlex.quote(str(context))
    return f"{sys.executable} -I -S -c pass; find {place} -printf '%s %T@ %i' | sha256sum"


def packed(directory: Path, to: Path, compression: str) -> str:
    """One tar, both digests, one compression."""
    filters = f"{sys.executable} {HERE} pack {compression}"
    return f"tar -C {shlex.quote(str(directory))} -cf - . | {filters} > {shlex.quote(str(to))}"


def _pack(compression: str) -> None:
    encoder = _encoder(compression)
    plain, packed_digest = hashlib.sha256(), hashlib.sha256()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while piece := source.read(_PIECE):
        plain.update(piece)
        out = encoder.compress(piece)
        packed_digest.update(out)
        sink.write(out)
    out = encoder.flush()
    packed_digest.update(out)
    sink.write(out)
    sys.stderr.write(f"{plain.hexdigest()} {packed_digest.hexdigest()}\n")


def _encoder(compression: str):  # noqa: ANN202 - of one of two libraries
    if compression == "zstd":
        import zstandard  # noqa: PLC0415 - one of two

        return zstandard.ZstdCompressor(3, threads=2).compressobj()
    from isal import isal_zlib  # noqa: PLC0415 - one of two

    return isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)


if __name__ == "__main__":
    _pack(sys.argv[2])
