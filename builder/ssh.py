"""The ssh agents of --ssh: which there are, and how a step reaches one (M14).

A step never holds the user's socket: it gets one of its own, which passes on requests to list
keys and to sign, and refuses everything that would change the agent. Knows no sandbox.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import threading
from typing import TYPE_CHECKING

from builder import agentproxy
from builder.dockerfile_input import read_regular
from builder.errors import SandboxError, UsageError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from builder.request import SshSource
    from frontend.graph import SshMount

_VARIABLE = "SSH_AUTH_SOCK"
_MAX_KEY = 100 * 1024  # bytes of a key file, as docker's limit
_TIMEOUT = 30  # seconds for ssh-add
_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# Its process id is told to us, and cat holds it until our end of the pipe closes.
_HOLD = 'echo "$SSH_AGENT_PID"; exec cat'


@value
class _Keys:
    """Private keys by file name."""

    files: tuple[tuple[str, bytes], ...]


class SshAgents:
    """The agents of a build by id, under `directory`; close it when the last step ended."""

    def __init__(
        self, sources: Iterable[SshSource], environ: Mapping[str, str], directory: str
    ) -> None:
        """Look at what was asked for; nothing is started.

        Raises:
            UsageError: an id twice, or something that is neither a socket nor keys.
        """
        self._directory = directory
        self._agents: dict[str, str | _Keys] = {}
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._made = 0
        for source in sources:
            if source.id in self._agents:
                msg = f'duplicate agent ID "{source.id}"'
                raise UsageError(msg, hint="give all keys of an id at once: --ssh id=KEY,KEY")
            self._agents[source.id] = _agent(source, environ)

    def socket(self, mount: SshMount) -> contextlib.AbstractContextManager[str] | None:
        """Give the path of a socket that reaches an agent while it is held; None for no such id.

        Raises:
            SandboxError: an agent for keys cannot be started.
        """
        return self._socket(mount) if mount.id in self._agents else None

    def close(self) -> None:
        """End the agents that were started."""
        self._stack.close()

    @contextlib.contextmanager
    def _socket(self, mount: SshMount) -> Iterator[str]:
        with self._lock:
            agent = self._agents[mount.id]
            name = self._fresh("step")
            if isinstance(agent, _Keys):
                agent = self._started(agent)
                self._agents[mount.id] = agent
        directory = os.open(self._directory, _FLAGS)
        listener = socket.socket(socket.AF_UNIX)
        try:
            # By way of the directory's fd: the path may be longer than an address can be.
            listener.bind(f"/proc/self/fd/{directory}/{name}")
            with contextlib.suppress(PermissionError):  # without ids to give, ours will do
                os.chown(name, mount.uid, mount.gid, dir_fd=directory)
            os.chmod(name, mount.mode, dir_fd=directory)
            listener.listen()
            with agentproxy.serving(listener, agent):
                yield f"{self._directory}/{name}"
        finally:
            listener.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            os.close(directory)

    def _fresh(self, kind: str) -> str:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._made += 1
        return f"{kind}.{os.getpid()}.{self._made}"

    def _started(self, keys: _Keys) -> str:
        """Start an agent with keys in it; gives the path of its socket."""
        name = self._fresh("agent")
        self._stack.callback(_unlink, f"{self._directory}/{name}")
        try:
            held = subprocess.Popen(
                ["ssh-agent", "-a", name, "/bin/sh", "-c", _HOLD],
                cwd=self._directory,
                env={"PATH": os.environ.get("PATH", os.defpath)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            msg = "--ssh with key files needs ssh-agent, which is not installed"
            raise SandboxError(
                msg, hint="install openssh-client, or give the socket of a running agent"
            ) from error
        self._stack.callback(_end, held)
        if held.stdout is None or not (told := held.stdout.readline().strip()):
            msg = "ssh-agent did not start"
            raise SandboxError(msg, hint="give the socket of a running agent: --ssh ID=SOCKET")
        self._stack.callback(_kill, int(told))
        for path, data in keys.files:
            self._add(name, path, data)
        return f"{self._directory}/{name}"

    def _add(self, name: str, path: str, data: bytes) -> None:
        refuse = {"SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force"}
        try:
            done = subprocess.run(
                ["ssh-add", "-q", "-"],
                cwd=self._directory,
                env={"PATH": os.environ.get("PATH", os.defpath), _VARIABLE: name, **refuse},
                input=data,
                capture_output=True,
                timeout=_TIMEOUT,
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            msg = f"failed to add {path} to an ssh agent"
            raise SandboxError(msg, hint="install openssh-client") from error
        if done.returncode:
            msg = f"failed to add {path} to an ssh agent: not a private key without a passphrase"
            raise SandboxError(msg, hint="add the key to your own agent and use --ssh ID=SOCKET")


def _agent(source: SshSource, environ: Mapping[str, str]) -> str | _Keys:
    """The path of an agent's socket, or keys for one."""
    paths = source.paths if any(source.paths) else (environ.get(_VARIABLE, ""),)
    sockets = [path for path in paths if _is_socket(path)]
    if sockets and len(paths) > 1:
        msg = f"--ssh {source.id}: sockets and keys cannot be mixed"
        raise UsageError(msg, hint="give each its own id: --ssh id=PATH")
    if sockets:
        return os.path.abspath(sockets[0])
    return _Keys(tuple((path, _read_key(path)) for path in paths))


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _read_key(path: str) -> bytes:
    data = read_regular(path, _MAX_KEY)
    if data is None:
        msg = f"ssh key or socket {path} not found"
        raise UsageError(msg)
    return data


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 15)


def _end(held: subprocess.Popen[bytes]) -> None:
    for stream in (held.stdin, held.stdout):
        if stream is not None:
            stream.close()
    held.wait()
