"""Running sandbox expressions in a child, as root or as an ordinary user."""

from __future__ import annotations

import ast
import contextlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import busybox_root, ordinary_user

DRIVER = Path(__file__).with_name("sandbox_driver.py")


@dataclass(frozen=True, slots=True)
class Bench:
    """An account with a state directory."""

    account: ordinary_user.Account
    state: Path
    forked: bool = False  # every step has a process 1 in Python

    @property
    def base(self):
        """Where committed trees lie."""
        return self.state / "base"

    def command(self, expression):
        """The driver's command line."""
        return self.account.command([str(DRIVER), str(self.state), expression])

    def evaluate(self, expression, prefix=(), **variables):
        """The value of an expression of sandbox_driver.py, its command line after `prefix`."""
        done = subprocess.run(
            [*prefix, *self.command(expression)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
            env=self.account.environment(**variables, **({"FORKED": "1"} if self.forked else {})),
        )
        assert done.returncode == 0, done.stderr
        return ast.literal_eval(done.stdout)

    def tree(self, name, files=(), links=(), directories=()):
        """A further committed tree, owned by the account; its name."""
        root = self.base / name
        root.mkdir()
        for path in directories:
            (root / path).mkdir(parents=True)
        for path, text in dict(files).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
            (root / path).chmod(0o755)
        for path, target in dict(links).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(target)
        for parent, names, leaves in os.walk(root):
            for leaf in [".", *names, *leaves]:
                owner = (self.account.uid, self.account.gid)
                os.chown(Path(parent) / leaf, *owner, follow_symlinks=False)
        return name


@contextlib.contextmanager
def bench(kind):
    """A bench for "root", "forked" (as root, too) or "ordinary"; skips where it cannot be had.

    Not under pytest's own directory: each pytest that starts closes that to others.
    """
    if not busybox_root.available():
        pytest.skip("needs busybox-static")
    if not ordinary_user.can_make_users():
        pytest.skip("needs root and uidmap to make accounts")
    with tempfile.TemporaryDirectory(prefix="pybuild-tests-") as directory:
        Path(directory).chmod(0o755)
        with _account(kind, Path(directory) / kind) as account:
            state = account.directory("state")
            busybox_root.make_state(state, (account.uid, account.gid))
            yield Bench(account, state, kind == "forked")


def _account(kind, home):
    if kind != "ordinary":
        home.mkdir()
        return contextlib.nullcontext(ordinary_user.root_account(home))
    return ordinary_user.ordinary_user(home)


def processes(needle):
    """Command lines, by pid, of living processes that contain `needle`."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{name}/cmdline").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
            if needle.encode() in text and state != "Z":
                found[int(name)] = text
    return found
