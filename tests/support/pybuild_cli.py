"""pybuild as a user starts it: a process of its own, as root or as an ordinary user.

An ordinary user gets a copy of the package and of what it needs, for the checkout and the
virtual environment of whoever runs the tests may be closed to them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("builder", "frontend", "cache")
_NAMED = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_STEP = re.compile(r"^#(\d+) (\[.*|FROM .*)$", re.MULTILINE)
_END = re.compile(r"^#(\d+) (CACHED|DONE|ERROR|CANCELED)", re.MULTILINE)
_DIGEST = re.compile(r"^  manifest (sha256:[0-9a-f]{64})$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended."""

    code: int
    out: str
    err: str

    @property
    def manifest(self):
        """The digest of the manifest that was built."""
        return _DIGEST.search(self.err)[1]

    @property
    def steps(self):
        """Each step's name and how it ended: CACHED, DONE, ERROR or CANCELED."""
        names = dict(_STEP.findall(self.err))
        return {names[number]: end for number, end in _END.findall(self.err) if number in names}

    def ending(self, end):
        """The names of the steps that ended so, without their `[2/3] ` prefix; FROM left out."""
        return [
            name.partition("] ")[2]
            for name, how in self.steps.items()
            if how == end and "] FROM " not in name
        ]


@dataclass(frozen=True, slots=True)
class Pybuild:
    """pybuild for one account, with one state directory."""

    home: Path
    state: Path
    python: str
    path: str  # PYTHONPATH
    uid: int = 0
    gid: int = 0
    variables: dict = field(default_factory=dict)

    @property
    def other(self):
        """Whether the account is another than the one that runs the tests."""
        return self.uid != os.geteuid()

    def environ(self, env=None):
        """The whole environment of the process: nothing of the caller's but PATH."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONPATH": self.path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYBUILD_ROOT": str(self.state),
            **self.variables,
            **(env or {}),
        }

    def with_state(self, name):
        """The same account with another, new state directory."""
        return self._with(state=self.home / f"state-{name}")

    def with_environ(self, **variables):
        """The same with more environment variables."""
        return self._with(variables={**self.variables, **variables})

    def _with(self, **changed):
        values = {name: getattr(self, name) for name in self.__slots__}
        return Pybuild(**{**values, **changed})

    def as_account(self, command):
        """A command line that runs `command` as this account."""
        command = [str(word) for word in command]
        if not self.other:
            return command
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}"]
        # env: the first program setpriv starts is still found with root's rights.
        return ["setpriv", *ids, "--init-groups", "env", *command]

    def command(self, *arguments):
        """The command line of pybuild with these arguments."""
        return self.as_account([self.python, "-P", "-m", "builder", *arguments])

    def own(self, directory):
        """Give a directory and all in it to the account."""
        if self.other:
            for parent, directories, files in os.walk(os.fsencode(directory)):
                for name in (b".", *directories, *files):
                    os.chown(os.path.join(parent, name), self.uid, self.gid, follow_symlinks=False)
        return directory

    def run(self, *arguments, env=None, cwd=None, stdin=None, timeout=240):
        """Run to the end; text is decoded, broken bytes kept as escapes."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environ(env),
            cwd=cwd or self.home,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        out, err = (data.decode("utf-8", "backslashreplace") for data in (done.stdout, done.stderr))
        return Finished(done.returncode, out, err)

    def good(self, *arguments, **options):
        """Run and require success."""
        done = self.run(*arguments, **options)
        assert done.code == 0, f"pybuild {arguments} ended with {done.code}:\n{done.out}{done.err}"
        return done

    def start(self, *arguments, env=None):
        """Start in a session of its own; the caller waits and ends it."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environ(env),
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def context(self, name, dockerfile, files=None):
        """A new build context of this account's with a Dockerfile and files."""
        directory = self.home / name
        directory.mkdir(parents=True)
        for path, data in {"Dockerfile": dockerfile, **(files or {})}.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data.encode() if isinstance(data, str) else data)
        return self.own(directory)


def end(process):
    """Kill a process's session and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def caller(home):
    """Pybuild for the account that runs the tests."""
    home.mkdir(parents=True, exist_ok=True)
    return Pybuild(
        home, home / "state", sys.executable, str(REPOSITORY), os.geteuid(), os.getegid()
    )


def for_account(account):
    """Pybuild for an ordinary user's account, with a copy of the package in their home."""
    python = _system_python(account)
    package = account.home / "pybuild"
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, package / name, ignore=ignored)
    _copy_requirements(package)
    made = Pybuild(
        account.home, account.home / "state", python, str(package), account.uid, account.gid
    )
    made.own(package)
    return made


def _system_python(account):
    """An interpreter of this very version that the account may start."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        ids = [f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
        tried = subprocess.run(
            ["setpriv", *ids, "env", python, "-c", "import ssl, sqlite3"],
            capture_output=True,
            check=False,
            cwd="/",
        )
        if tried.returncode == 0:
            return python
    msg = f"no {version} an ordinary user may start: run the tests with /usr/bin/python3.11's venv"
    raise RuntimeError(msg)


def _copy_requirements(package):
    for name in _NAMED.findall((REPOSITORY / "requirements.txt").read_text()):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        for file in distribution.files or ():
            if ".." in file.parts or "__pycache__" in file.parts:
                continue
            target = package / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), target)
