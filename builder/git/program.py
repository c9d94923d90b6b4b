"""The git program: started without any configuration of the host, bounded, killed on demand.

Knows processes and their environment; no repository and no reference.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from typing import TYPE_CHECKING

from builder.errors import HostUnsupportedError
from cache.errors import PybuildError
from cache.value import value

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence

    Settings = Sequence[tuple[str, str]]

TIMEOUT = 3600.0  # seconds of one command that fetches
MAX_OUTPUT = 256 * 1024**2  # bytes: the listing of a tree of a million files
MAX_FILE = 16 * 1024**3  # bytes of any file that git writes, such as a pack
_MAX_ERRORS = 64 * 1024  # bytes kept of standard error: its end says what went wrong
_PIECE = 64 * 1024
_BLOCK = 512  # bytes that `ulimit -f` counts in
# The limit has to be in place before git starts its children, and only a shell can do that
# without running Python code between fork and exec of a process with threads.
_SHELL = ("/bin/sh", "-c", 'ulimit -f "$0" 2>/dev/null; exec "$@"', str(MAX_FILE // _BLOCK))
_PASSED = (
    "PATH", "TMPDIR", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
)  # fmt: skip
_FIXED = {
    "LC_ALL": "C",
    "HOME": os.devnull,  # no .netrc, no .gitconfig
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
    "GIT_HTTP_LOW_SPEED_LIMIT": "1",
    "GIT_HTTP_LOW_SPEED_TIME": "60",
}
_SETTINGS = (
    ("core.hooksPath", os.devnull),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", os.devnull),
    ("core.excludesFile", os.devnull),
    ("core.alternateRefsCommand", ""),
    ("credential.helper", ""),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("submodule.recurse", "false"),
    ("transfer.bundleURI", "false"),
    ("safe.directory", "*"),
    ("advice.detachedHead", "false"),
    ("init.defaultBranch", "master"),
)


class GitError(PybuildError):
    """Git failed, or a repository is not what it should be."""


class GitFailedError(GitError):
    """The git program ended with an error; `stderr` is what it said, at most its end."""

    def __init__(self, message: str, stderr: str) -> None:
        """Keep the words."""
        super().__init__(message)
        self.stderr = stderr


@value
class Agent:
    """How ssh proves who the user is and knows the host: an agent's socket or key files."""

    socket: str = ""
    keys: tuple[str, ...] = ()
    known_hosts: str = ""

    def __bool__(self) -> bool:
        """Whether there is anything to prove it with."""
        return bool(self.socket or self.keys)


class GitProgram:
    """Starts git; one for a build, used by all its threads."""

    def __init__(self, environ: Mapping[str, str], agent: Agent | None = None) -> None:
        """Remember the environment; nothing is looked for yet."""
        self._environ = environ
        self._agent = agent or Agent()
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self.cancelled = False

    def cancel(self) -> None:
        """Kill what runs, and start nothing more."""
        with self._lock:
            self.cancelled = True
            for pid in self._running:
                _kill_group(pid)

    def run(
        self,
        *args: str,
        settings: Settings = (),
        extra: Mapping[str, str] | None = None,
        data: bytes = b"",
        cwd: str = "/",
        timeout: float = TIMEOUT,
    ) -> bytes:
        """Run a command to its end and give what it prints.

        Raises:
            GitFailedError: it failed. GitError: too slow, too much output, or cancelled.
        """
        with self.started(*args, settings=settings, extra=extra, cwd=cwd, errors=True) as process:
            output, stderr = _converse(process, data, time.monotonic() + timeout, args[0])
            status = process.wait()
        if self.cancelled:
            raise GitError("cancelled")
        if status:
            raise GitFailedError(f"git {args[0]} failed: {_last_line(stderr)}", stderr)
        return output

    @contextlib.contextmanager
    def started(
        self,
        *args: str,
        settings: Settings = (),
        extra: Mapping[str, str] | None = None,
        cwd: str = "/",
        errors: bool = False,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command with pipes; whatever happens, it is gone when the block is left."""
        import subprocess  # noqa: PLC0415 - slow to import, and few builds use git

        program = self._program()
        with self._lock:
            if self.cancelled:
                raise GitError("cancelled")
            process = subprocess.Popen(
                [*_SHELL, program, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if errors else subprocess.DEVNULL,
                env=self._environment(settings, extra or {}),
                cwd=cwd,
                start_new_session=True,
            )
            self._running.add(process.pid)
        try:
            with process:
                try:
                    yield process
                except BaseException:
                    _kill_group(process.pid)
                    raise
        finally:
            with self._lock:
                self._running.discard(process.pid)

    def _program(self) -> str:
        for folder in self._environ.get("PATH", os.defpath).split(os.pathsep):
            path = os.path.join(folder, "git")
            if os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        msg = "git sources need the git program, and there is none in PATH"
        raise HostUnsupportedError(msg, hint="install git, such as with: apt-get install git")

    def _environment(self, settings: Settings, extra: Mapping[str, str]) -> dict[str, str]:
        """What git sees; settings go through variables, as arguments are public."""
        environ = {name: self._environ[name] for name in _PASSED if name in self._environ}
        environ |= _FIXED
        environ["GIT_SSH_COMMAND"] = self._ssh()
        environ["GIT_SSH_VARIANT"] = "ssh"
        if self._agent.socket:
            environ["SSH_AUTH_SOCK"] = self._agent.socket
        pairs = [*_SETTINGS, *settings]
        environ["GIT_CONFIG_COUNT"] = str(len(pairs))
        for number, (name, text) in enumerate(pairs):
            environ[f"GIT_CONFIG_KEY_{number}"] = name
            environ[f"GIT_CONFIG_VALUE_{number}"] = text
        return environ | dict(extra)

    def _ssh(self) -> str:
        import shlex  # noqa: PLC0415 - start-up time

        words = ["ssh", "-F", os.devnull, "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"]
        if self._agent.known_hosts:
            hosts = self._agent.known_hosts.replace("%", "%%")  # ssh expands tokens in it
            words += ["-o", f'UserKnownHostsFile="{hosts}"']
        for key in self._agent.keys:
            words += ["-o", "IdentitiesOnly=yes", "-i", key]
        return shlex.join(words)


def _converse(
    process: subprocess.Popen[bytes], data: bytes, deadline: float, command: str
) -> tuple[bytes, str]:
    """Write the input and read both outputs, without ever waiting on one of them alone."""
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    if stdin is None or stdout is None or stderr is None:
        raise GitError("git was started without pipes")
    output, errors = bytearray(), bytearray()
    rest = memoryview(data)
    with selectors.DefaultSelector() as ready:
        ready.register(stdout, selectors.EVENT_READ, output)
        ready.register(stderr, selectors.EVENT_READ, errors)
        if data:
            os.set_blocking(stdin.fileno(), False)
            ready.register(stdin, selectors.EVENT_WRITE)
        else:
            stdin.close()
        while ready.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise GitError(f"git {command} took too long")
            for key, _ in ready.select(left):
                if key.fileobj is stdin:
                    rest = _write(stdin.fileno(), rest)
                    if not rest:
                        ready.unregister(stdin)
                        stdin.close()
                    continue
                piece = os.read(key.fd, _PIECE)
                if not piece:
                    ready.unregister(key.fileobj)
                key.data.extend(piece)
            if len(output) > MAX_OUTPUT:
                raise GitError(f"git {command} printed more than {MAX_OUTPUT} bytes")
            del errors[:-_MAX_ERRORS]
    return bytes(output), errors.decode("utf-8", "replace")


def _write(descriptor: int, data: memoryview) -> memoryview:
    try:
        return data[os.write(descriptor, data[:_PIECE]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]  # its status says what happened


def _last_line(stderr: str) -> str:
    """The line that says why: the first `fatal:`, else the last one."""
    lines = [line.strip() for line in stderr.replace("\r", "\n").split("\n") if line.strip()]
    fatal = [line for line in lines if line.startswith(("fatal: ", "ERROR: "))]
    return (fatal or lines or ["no message"])[0 if fatal else -1][:300]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
