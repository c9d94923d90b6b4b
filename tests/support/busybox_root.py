"""A state directory with one committed snapshot of busybox, as the sandbox expects them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

BUSYBOX = "/bin/busybox"
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
bob:x:1000:1000:Bob:/home/bob:/bin/sh
broken
nobody:x:65534:65534::/:/bin/false
"""
GROUP = "root:x:0:\nwheel:x:10:root,bob\nextra:x:20:bob\nbob:x:1000:\nnogroup:x:65534:\n"


def available():
    """Whether there is a static busybox."""
    return Path(BUSYBOX).exists()


def _write(tree, files):
    for path, text in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o755 if text.startswith("#!") else 0o644)


def make_state(directory, owner=(0, 0)):
    """Fill `directory` with base/{busybox,empty,stage}, scratch; return it."""
    tree = directory / "base" / "busybox"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin" / "busybox")
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for name in names.stdout.split():
        if name != "busybox":
            (tree / "bin" / name).symlink_to("busybox")
    for name in ("etc", "root", "tmp", "proc", "sys", "dev"):
        (tree / name).mkdir()
    (tree / "tmp").chmod(0o1777)
    _write(tree, {"etc/passwd": PASSWD, "etc/group": GROUP})
    _write(directory / "base" / "stage", {"srv/data": "stage data\n"})
    (directory / "base" / "stage" / "rootdir").symlink_to("/")
    (directory / "base" / "empty").mkdir()
    (directory / "scratch").mkdir()
    for parent, directories, files in os.walk(directory):
        for name in [".", *directories, *files]:
            os.chown(Path(parent) / name, *owner, follow_symlinks=False)
    return directory
