"""Attributes of `--output`: fields split, and texts read as flags, numbers and names.

Knows no type of output and no attribute's meaning.
"""

from __future__ import annotations

from builder.errors import UsageError
from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_MAX_DIGITS = 9  # more than any level has
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
# A bare `push=` means yes, as other exporters read it.
_TRUE_IF_EMPTY = frozenset(
    "tar push push-by-digest registry.insecure unpack store name-canonical danging-name-empty-only".split()  # noqa: SIM905 - a list of words
)


def split(text: str) -> list[str]:
    """Split RFC 4180 fields of one line.

    Raises:
        UsageError: nothing, or quotes that do not match.
    """
    import csv  # noqa: PLC0415 - only needed when outputs are given

    if not text:
        msg = "empty output"
        raise UsageError(msg, hint="write a directory, or type=oci,dest=FILE")
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        msg = f"invalid output {text[:100]!r}: {error}"
        raise UsageError(msg, hint='quote a field holding a comma: "name=a,b"') from error
    return rows[0]


def attributes_of(text: str, fields: Iterable[str]) -> dict[str, str]:
    """Read key=value fields; keys are case-insensitive.

    Raises:
        UsageError: a field without key, or one given twice.
    """
    attributes: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals or not key:
            msg = f"invalid output {text[:100]!r}: field {field[:60]!r} is not key=value"
            raise UsageError(msg)
        if key in attributes:
            msg = f"invalid output {text[:100]!r}: {key!r} is given twice"
            raise UsageError(msg)
        attributes[key] = value
    return attributes


def flag(attributes: Mapping[str, str], key: str, *, default: bool) -> bool:
    """Read true or false.

    Raises:
        UsageError: it is neither.
    """
    value = attributes.get(key)
    if value is None:
        return default
    if not value and key in _TRUE_IF_EMPTY:
        return True
    if value not in _TRUE | _FALSE:
        msg = f"output option {key!r} is not true or false: {value[:40]!r}"
        raise UsageError(msg)
    return value in _TRUE


def names_of(text: str) -> tuple[Reference, ...]:
    """Read a list of image names.

    Raises:
        UsageError: one is no name, or has a digest.
    """
    names: list[Reference] = []
    for part in text.split(",") if text else ():
        try:
            name = Reference.parse(part.strip())
        except InvalidDocumentError as error:
            raise UsageError(error.message, hint=error.hint) from error
        if name.digest is not None:
            msg = f"output name {part.strip()[:100]!r} cannot hold a digest"
            raise UsageError(msg, hint="the digest is a result; give a tag")
        if name not in names:
            names.append(name)
    return tuple(names)


def level_of(text: str, top: int) -> int | None:
    """Read a compression level; None for the default, which a negative one is too.

    Raises:
        UsageError: no whole number, or more than `top`.
    """
    if not text:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
        msg = f"non-integer value {text[:20]} specified for compression-level"
        raise UsageError(msg, hint=f"write a number from 0 to {top}")
    if digits != text:
        return None
    if int(digits) > top:
        msg = f"invalid compression level: {int(digits)}"
        raise UsageError(msg, hint=f"write a number from 0 to {top}")
    return int(digits)


def suggestion(word: str, choices: Sequence[str]) -> str:
    """Say what may have been meant."""
    from difflib import get_close_matches  # noqa: PLC0415 - for the error path only

    close = get_close_matches(word, choices, n=1)
    if close:
        return f"did you mean {str(close[0])!r}?"
    return f"known here: {', '.join(choices)}"
