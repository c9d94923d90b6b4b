"""What a build is lent: secrets, read once before anything runs, and ssh keys (M13, M14, I05)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from builder.dockerfile_input import read_regular
from builder.errors import UsageError
from builder.request import MAX_SECRET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.request import SecretSource, SshSource

MAX_KEY = 100 * 1024  # bytes of a private key, as docker's limit
_OPEN_FILES = ("/dev/fd", "/proc/self/fd")


def read_secrets(sources: Iterable[SecretSource], environ: Mapping[str, str]) -> dict[str, bytes]:
    """Read every secret; without src and env, a variable named by the id, else a file of that name.

    A variable that is named and not set gives the empty value, as with docker.

    Raises:
        UsageError: a file is absent, or larger than 500 KiB.
    """
    return {source.id: _read(source, environ) for source in sources}


def unset_variables(
    sources: Iterable[SecretSource], environ: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Name the secrets that come out empty, each with the variable that is not set."""
    return tuple((s.id, s.env) for s in sources if s.env and s.env not in environ)


def check_agents(sources: Iterable[SshSource], environ: Mapping[str, str]) -> None:
    """Check what --ssh names: one socket, or key files, or $SSH_AUTH_SOCK.

    Raises:
        UsageError: nothing is there, sockets and keys are mixed, or a key is no small file.
    """
    for source in sources:
        paths = source.paths or (environ.get("SSH_AUTH_SOCK", ""),)
        if paths == ("",):
            msg = f"--ssh {source.id}: SSH_AUTH_SOCK is not set"
            raise UsageError(msg, hint=f"start ssh-agent, or write --ssh {source.id}=KEY")
        sockets = [path for path in paths if _is_socket(source.id, path)]
        if sockets and len(paths) > 1:
            mixed = len(sockets) < len(paths)
            what = "sockets and keys cannot be mixed" if mixed else "only one socket can be given"
            msg = f"--ssh {source.id}: {what}"
            raise UsageError(msg, hint="give each its own id: --ssh id=PATH")


def _is_socket(name: str, path: str) -> bool:
    """Say whether a path is a socket and no key."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"--ssh {name}: {path}: {reason}"
        raise UsageError(msg, hint="name the socket of an ssh agent, or key files") from error
    if not stat.S_ISSOCK(found.st_mode) and (
        not stat.S_ISREG(found.st_mode) or found.st_size > MAX_KEY
    ):
        msg = f"--ssh {name}: {path} is neither a socket nor a private key"
        raise UsageError(msg, hint="name the socket of an ssh agent, or key files")
    return stat.S_ISSOCK(found.st_mode)


def _read(source: SecretSource, environ: Mapping[str, str]) -> bytes:
    env, path = source.env, source.path
    if not env and not path:
        env, path = (source.id, "") if source.id in environ else ("", source.id)
    value = _file(source.id, path) if path else b""
    if env:
        value = environ.get(env, "").encode("utf-8", "surrogateescape")
    if len(value) > MAX_SECRET:
        msg = f"secret {source.id} is larger than {MAX_SECRET} bytes"
        raise UsageError(msg)
    return value


def _file(name: str, path: str) -> bytes:
    folder, _, number = path.replace("/dev/stdin", "/dev/fd/0").rpartition("/")
    if folder in _OPEN_FILES and number.isascii() and number.isdigit():
        return _open_file(name, path, number)
    data = read_regular(path, MAX_SECRET)
    if data is None:
        msg = f"secret {name}: {path} not found"
        raise UsageError(msg, hint="check src=PATH, or use env=NAME")
    return data


def _open_file(name: str, path: str, number: str) -> bytes:
    """Read what the caller opened for us, such as the pipe of a shell's <(command), to its end."""
    try:
        # Not by its path: a pipe that another user made could not be opened again.
        with open(os.dup(int(number)), "rb") as file:
            return file.read(MAX_SECRET + 1)
    except (OSError, OverflowError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such descriptor"
        msg = f"secret {name}: cannot read {path}: {reason}"
        raise UsageError(msg) from error
