"""Hashes, without loading OpenSSL for what is small.

Python's `hashlib` loads it when imported, which takes longer than all the hashing of a build that
finds everything cached. For large data it is six times faster than Python's own code, so it is
loaded when there is some. Must not know what is hashed.
"""

from __future__ import annotations

import sys

from cache.hints import TYPE_CHECKING, BinaryIO, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable

# Where Python keeps its own code: looking for the other name would cost a walk of the path.
_MODULE = "_sha2" if sys.version_info >= (3, 12) else "_sha256"

try:
    _own = __import__(_MODULE)
except ImportError:  # built without it
    import hashlib as _own


class Hash(Protocol):
    """A hash being computed."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add data."""

    def digest(self) -> bytes:
        """The hash of everything so far."""

    def hexdigest(self) -> str:
        """The same in hexadecimal."""


_small = cast("Callable[..., Hash]", _own.sha256)
_SMALL = 32 * 1024  # bytes; hashing more by Python's own code takes as long as loading OpenSSL's


_PIECE = 1 << 20


class Sha256:
    """SHA-256 of what is mostly little."""

    __slots__ = ("_held", "_large", "_size")

    def __init__(self, data: bytes = b"") -> None:
        """Begin with some data."""
        self._held: list[bytes] = []
        self._size = 0
        self._large: Hash | None = None
        self.update(data)

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add data."""
        if self._large is not None:
            self._large.update(data)
            return
        self._size += len(data)
        if self._size <= _SMALL:
            self._held.append(bytes(data))
            return
        self._large = sha256()
        for held in self._held:
            self._large.update(held)
        self._held.clear()
        self._large.update(data)

    def digest(self) -> bytes:
        """The hash of everything so far."""
        return self._state().digest()

    def hexdigest(self) -> str:
        """The same in hexadecimal."""
        return self._state().hexdigest()

    def _state(self) -> Hash:
        return self._large if self._large is not None else _small(b"".join(self._held))


def sha256(data: bytes | bytearray | memoryview = b"") -> Hash:
    """SHA-256 of any amount."""
    import hashlib  # noqa: PLC0415 - see above

    return hashlib.sha256(data)


def new(algorithm: str, data: bytes = b"") -> Hash:
    """A hash by its name in digests, such as sha512."""
    if algorithm == "sha256":
        return Sha256(data)
    import hashlib  # noqa: PLC0415 - see above

    return hashlib.new(algorithm, data)


def of_file(stream: BinaryIO, algorithm: str) -> str:
    """The hash of the rest of an open file in hexadecimal."""
    state = new(algorithm)
    while piece := stream.read(_PIECE):
        state.update(piece)
    return state.hexdigest()
