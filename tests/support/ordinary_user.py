"""An ordinary user with subordinate ids, and a way to run Python as them.

Used where a test must not be root: `with ordinary_user() as user: user.run_python([...])`.
Needs root to make the user; the caller skips otherwise.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Account:
    """Who to run as. `home` is a directory they own."""

    name: str
    uid: int
    gid: int
    home: Path
    python: str

    @property
    def is_root(self):
        return self.uid == 0

    def command(self, arguments):
        """The command line that runs Python with `arguments` as this account."""
        if self.is_root:
            return [self.python, *arguments]
        prefix = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups"]
        return [*prefix, self.python, *arguments]

    def environment(self, **extra):
        """A small environment in which the repository can be imported."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            **extra,
        }

    def directory(self, name):
        """A fresh directory of theirs."""
        path = self.home / name
        path.mkdir()
        os.chown(path, self.uid, self.gid)
        return path


def root_account(home):
    """The account that runs the tests, when it is root."""
    return Account("root", 0, 0, home, sys.executable)


def can_make_users():
    """Whether ordinary_user() will work here."""
    tools = ("useradd", "userdel", "usermod", "setpriv", "newuidmap")
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in tools)


def _python(uid, gid):
    for python in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run(
            ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", python, "-c", ""],
            capture_output=True,
            check=False,
            cwd="/",
        )
        if done.returncode == 0:
            return python
    raise RuntimeError("no Python an ordinary user may run")


def _next_free(path):
    ends = [300000]
    for line in Path(path).read_text().splitlines():
        _, start, count = line.split(":")
        ends.append(int(start) + int(count))
    return max(ends)


@contextlib.contextmanager
def ordinary_user(home):
    """Make a user with 65536 subordinate ids whose home is the new directory `home`.

    `home` must be reachable for others, so not under tmp_path.
    """
    name = f"pbt{os.getpid()}"
    home.mkdir()
    subprocess.run(["useradd", "-M", "-d", str(home), "-s", "/bin/sh", name], check=True)
    try:
        for option, path in (("--add-subuids", "/etc/subuid"), ("--add-subgids", "/etc/subgid")):
            if f"{name}:" not in Path(path).read_text():
                start = _next_free(path)
                subprocess.run(["usermod", option, f"{start}-{start + 65535}", name], check=True)
        entry = pwd.getpwnam(name)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        yield Account(name, entry.pw_uid, entry.pw_gid, home, _python(entry.pw_uid, entry.pw_gid))
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)
