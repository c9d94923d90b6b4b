"""What came back: a reply whose body is read raw and under a limit, and errors made of it.

Owns what callers see of a reply and the wording of refusals. Sends nothing.
"""

from __future__ import annotations

import re
from contextlib import contextmanager

from builder.errors import RegistryError
from builder.registry.retry import TEMPORARY, TemporaryError, retry_after
from builder.registry.wire import ProtocolError
from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING, Self
from cache.spec.oci import load_object
from cache.value import state, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.registry.connection import Incoming
    from builder.registry.location import Location, Origin

MAX_ERROR = 256 * 1024  # bytes of an error body that are read
_MAX_SHOWN = 400  # characters of a foreign message that are shown
_STEP = 64 * 1024
LOOK_AT = "check the name, the network, and HTTPS_PROXY if there is a proxy"
_UNAUTHORIZED = 401
_FORBIDDEN = 403


def printable(text: str, limit: int = _MAX_SHOWN) -> str:
    """Make foreign text safe for one line of a terminal or a CI log."""
    flat = re.sub(r"\s+", " ", text[: limit * 4])
    kept = "".join(c for c in flat if c.isprintable()).replace("::", ": :").strip()
    return kept if len(kept) <= limit else f"{kept[:limit]}…"


@contextmanager
def mapped(location: Location) -> Iterator[None]:
    """Turn what a connection raises into registry errors."""
    try:
        yield
    except (ProtocolError, OSError, ValueError) as error:
        raise _failure(location.origin, error) from error


def _failure(origin: Origin, error: Exception) -> RegistryError:
    detail = printable(str(error), 200) or type(error).__name__
    if isinstance(error, ProtocolError):
        return TemporaryError(f"{origin.authority}: no proper reply: {detail}")
    if isinstance(error, TimeoutError):
        return TemporaryError(f"{origin.authority}: timed out: {detail}")
    if type(error).__module__ == "ssl":
        return _tls_failure(origin.authority, detail)
    if isinstance(error, OSError):
        return TemporaryError(f"{origin.authority}: connection failed: {detail}")
    # A request that cannot be made, such as a header with a line end in it.
    return RegistryError(f"{origin.authority}: {detail}")


def _tls_failure(authority: str, detail: str) -> RegistryError:
    lower = detail.lower()
    if "wrong version number" in lower or "wrong_version_number" in lower:
        return RegistryError(
            f"{authority} does not speak https",
            hint=f"for a plain http registry say --insecure-registry {authority}",
        )
    if "certificate" in lower or "hostname" in lower:
        return RegistryError(
            f"certificate of {authority} was refused: {detail}",
            hint=f"put the issuer into SSL_CERT_FILE or /etc/docker/certs.d/{authority}/ca.crt",
        )
    return TemporaryError(f"{authority}: TLS failed: {detail}")


@state
class Reply:
    """A reply whose body has not been read; leaving its with-block ends it."""

    raw: Incoming
    location: Location

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.raw.head.status

    def header(self, name: str) -> str:
        """A header's value, empty when absent."""
        return self.raw.head.get(name)

    def headers(self, name: str) -> list[str]:
        """All lines of a header."""
        return self.raw.head.all(name)

    @property
    def length(self) -> int | None:
        """Content-Length, None when absent or senseless."""
        text = self.header("Content-Length")
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes as they arrive, undecoded; empty at the end.

        Raises:
            RegistryError: the connection broke or the body is shorter than announced.
        """
        with mapped(self.location):
            return self.raw.read(size)

    def body(self, limit: int) -> bytes:
        """Read the whole body, undecoded.

        Raises:
            RegistryError: longer than `limit`, or encoded although we asked for no encoding.
        """
        if self.header("Content-Encoding").lower() not in {"", "identity"}:
            msg = f"{self.location.origin.authority} sent an encoded body nobody asked for"
            raise RegistryError(msg)
        parts: list[bytes] = []
        total = 0
        while data := self.read(min(_STEP, limit + 1 - total)):
            parts.append(data)
            total += len(data)
            if total > limit or (self.length or 0) > limit:
                msg = f"{self.location.origin.authority} sent more than {limit} bytes"
                raise RegistryError(msg)
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back when the body was read, else close it."""
        self.raw.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@value
class Diagnosis:
    """What a registry said about a failure: its error codes and a message fit to print."""

    codes: tuple[str, ...]
    text: str


def diagnose(reply: Reply) -> Diagnosis:
    """Read an error body (distribution-spec, "Error Codes"); anything else gives its status."""
    try:
        data = reply.body(MAX_ERROR)
        entries = load_object(data, "error body").get("errors")
    except (RegistryError, InvalidDocumentError):
        return Diagnosis((), "")
    codes: list[str] = []
    texts: list[str] = []
    for entry in entries[:10] if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            code, message = entry.get("code"), entry.get("message")
            codes += [code] if isinstance(code, str) else []
            texts += [str(message or code or "")]
    return Diagnosis(tuple(codes), printable("; ".join(text for text in texts if text)))


class RefusedError(RegistryError):
    """A refusal whose error codes decide what to do next."""

    def __init__(
        self, message: str, *, status: int, codes: tuple[str, ...], hint: str | None
    ) -> None:
        """Keep the registry's error codes."""
        super().__init__(message, status=status, hint=hint)
        self.codes = codes


def refusal(reply: Reply, doing: str, hint: str | None = None) -> RegistryError:
    """Describe an unexpected status: `doing` names the action and its object."""
    said = diagnose(reply)
    tail = f": {said.text}" if said.text else ""
    status = reply.status
    message = f"{reply.location.origin.authority}: {doing} failed with status {status}{tail}"
    if status in TEMPORARY:
        wait = retry_after(reply.header("Retry-After"))
        note = f" (asked to wait {wait:.0f} s)" if wait else ""
        return TemporaryError(message + note, status=status, wait=wait)
    if status == 400 and reply.location.origin.scheme == "http":  # noqa: PLR2004 - bad request
        hint = hint or "the port may speak https: add the host to the TLS hosts"
    return RefusedError(message, status=status, codes=said.codes, hint=hint)
