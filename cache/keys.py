"""Cache keys: an allow-list of named parts, framed and versioned, whose misses can be explained."""

from __future__ import annotations

import json

from cache.errors import CorruptRecordError
from cache.hints import Self
from cache.spec.digest import Digest, framed
from cache.value import value

_DOMAIN = "pybuild.cachekey.v1"


@value
class KeyPart:
    """One input of a step: what it is called and its value as text (never a secret)."""

    name: str
    value: str


@value
class CacheKey:
    """The identity of a step: ordered parts, the first of which names the operation."""

    parts: tuple[KeyPart, ...]

    @classmethod
    def of(cls, *parts: tuple[str, str]) -> Self:
        """Build from (name, value) pairs."""
        return cls(tuple(KeyPart(name, value) for name, value in parts))

    @property
    def digest(self) -> Digest:
        """The key itself; equal only for equal part lists."""
        texts = (text for part in self.parts for text in (part.name, part.value))
        return framed(_DOMAIN, (text.encode("utf-8", "surrogateescape") for text in texts))

    def to_json(self) -> str:
        """Encode for storage beside the record."""
        return json.dumps([[part.name, part.value] for part in self.parts])

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Decode.

        Raises:
            CorruptRecordError: not a list of pairs of texts.
        """
        try:
            return cls(tuple(KeyPart(str(name), str(value)) for name, value in json.loads(text)))
        except (ValueError, TypeError) as error:
            msg = "cache record with a malformed key"
            raise CorruptRecordError(msg) from error


@value
class Difference:
    """The first input in which two keys differ; an absent side is the empty text."""

    name: str
    old: str
    new: str


def difference(old: CacheKey, new: CacheKey) -> Difference | None:
    """Find why `new` is not `old`: the first part that changed, came or went."""
    before = {part.name: part.value for part in old.parts}
    after = {part.name: part.value for part in new.parts}
    for part in new.parts:
        if before.get(part.name) != part.value:
            return Difference(part.name, before.get(part.name, ""), part.value)
    gone = next((part for part in old.parts if part.name not in after), None)
    return Difference(gone.name, gone.value, "") if gone is not None else None
