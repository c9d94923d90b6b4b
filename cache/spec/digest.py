"""Content digests and the framed hashing that identities are built from."""

from __future__ import annotations

from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING, Self
from cache.spec import hashes
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = "0123456789abcdef"


@value
class Digest:
    """A content digest (image-spec descriptor.md, "Digests"); an invalid one cannot be made."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        """Refuse anything but lower-case hex of the algorithm's length.

        Raises:
            InvalidDocumentError: the text is no digest we accept.
        """
        if len(self.hex) != _LENGTHS.get(self.algorithm) or self.hex.strip(_HEX):
            text = f"{self.algorithm}:{self.hex}"[:100]
            msg = f"invalid digest {text!r}"
            raise InvalidDocumentError(msg)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `algorithm:hex`."""
        algorithm, _, hex_ = text.partition(":")
        return cls(algorithm, hex_)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Digest bytes with sha256."""
        return cls("sha256", hashes.Sha256(data).hexdigest())

    def __lt__(self, other: Digest) -> bool:
        """Order by algorithm, then by hex."""
        return (self.algorithm, self.hex) < (other.algorithm, other.hex)

    def __str__(self) -> str:
        """Render as `algorithm:hex`."""
        return f"{self.algorithm}:{self.hex}"


def frame(data: bytes) -> bytes:
    """Prefix data with its length (8 bytes, big endian), so that joins are injective."""
    return len(data).to_bytes(8, "big") + data


def framed(domain: str, parts: Iterable[bytes]) -> Digest:
    """Digest a sequence of byte strings under a domain tag; equal only for equal sequences."""
    state = hashes.Sha256(frame(domain.encode()))
    for part in parts:
        state.update(frame(part))
    return Digest("sha256", state.hexdigest())
