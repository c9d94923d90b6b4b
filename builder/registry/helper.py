"""Credential helpers: the docker-credential-NAME programs.

Owns starting one, under a time and an output limit. What it prints is secret: it reaches no
message and no log, nor does its standard error.
"""

from __future__ import annotations

import os
import re
import select
import signal
import time

from builder.errors import RegistryError
from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING
from cache.spec.oci import canonical_json, load_object
from cache.value import field, value

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_MAX_OUTPUT = 256 * 1024  # bytes; identity tokens of cloud helpers run to a few thousand


@value
class Answer:
    """A user name and its secret; the user name `<token>` marks an identity token."""

    username: str
    secret: str = field(repr=False)


@value
class Helper:
    """One helper program, found in the PATH of the environment that was handed in."""

    name: str
    environ: Mapping[str, str] = field(repr=False)
    timeout: float = 5.0

    def __post_init__(self) -> None:
        """Refuse names that could lead anywhere else.

        Raises:
            RegistryError: not a plain name.
        """
        if _NAME.match(self.name) is None:
            msg = f"credential helper name {self.name[:40]!r} is refused"
            raise RegistryError(msg, hint="it may hold letters, digits, - and _ only")

    def fetch(self, server: str) -> Answer | None:
        """Ask for a server's credential; None when the helper has none.

        Raises:
            RegistryError: missing, too slow, too loud, or its output makes no sense.
        """
        code, output = self._run("get", server.encode())
        if code != 0:
            if b"credentials not found" in output[:1000]:
                return None
            raise self._failed(f"ended with status {code}")
        try:
            found = load_object(output, "answer")
        except InvalidDocumentError:
            raise self._failed("printed no JSON object") from None
        username, secret = found.get("Username"), found.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str):
            raise self._failed("printed no user name and secret")
        return Answer(username, secret) if secret else None

    def store(self, server: str, answer: Answer) -> None:
        """Hand a credential over for keeping; raises RegistryError as `fetch` does."""
        entry = {"ServerURL": server, "Username": answer.username, "Secret": answer.secret}
        code, _ = self._run("store", canonical_json(entry))
        if code != 0:
            raise self._failed(f"did not store the credential, status {code}")

    def erase(self, server: str) -> None:
        """Have a credential forgotten; that there is none is success."""
        code, output = self._run("erase", server.encode())
        if code != 0 and b"credentials not found" not in output[:1000]:
            raise self._failed(f"did not erase the credential, status {code}")

    def _failed(self, what: str) -> RegistryError:
        return RegistryError(f"credential helper docker-credential-{self.name} {what}")

    def _program(self) -> str:
        for folder in self.environ.get("PATH", "").split(os.pathsep):
            path = os.path.join(folder, f"docker-credential-{self.name}")
            if os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        raise self._failed("is not in PATH")

    def _run(self, verb: str, data: bytes) -> tuple[int, bytes]:
        import subprocess  # noqa: PLC0415 - slow to import

        program = self._program()
        try:
            process = subprocess.Popen(
                [program, verb],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(self.environ),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise self._failed(f"cannot be started: {error.strerror}") from error
        with process:
            try:
                return self._converse(process, data)
            except BaseException:
                # Its children may hold the pipe open; the session was made for this. After a
                # good end what it left running, such as an agent, stays.
                _kill_group(process.pid)
                raise

    def _converse(self, process: subprocess.Popen[bytes], data: bytes) -> tuple[int, bytes]:
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise self._failed("has no pipes")
        deadline = time.monotonic() + self.timeout
        os.set_blocking(stdin.fileno(), False)
        try:
            os.write(stdin.fileno(), data)  # far below a pipe's 64 KiB
            stdin.close()
        except OSError:
            pass  # it may answer without having read; the status decides
        output = b""
        poll = select.poll()
        poll.register(stdout, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if not poll.poll(left * 1000):
                continue
            piece = os.read(stdout.fileno(), 65536)
            output += piece
            if len(output) > _MAX_OUTPUT:
                raise self._failed(f"printed more than {_MAX_OUTPUT} bytes")
            if not piece:
                return self._status(process, deadline), output
        raise self._failed(f"took longer than {self.timeout:.0f} s")

    def _status(self, process: subprocess.Popen[bytes], deadline: float) -> int:
        import subprocess  # noqa: PLC0415 - slow to import

        try:
            return process.wait(max(0.05, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._failed(f"took longer than {self.timeout:.0f} s") from None


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
