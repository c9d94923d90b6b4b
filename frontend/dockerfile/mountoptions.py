"""The value of RUN --mount as options: comma-separated with quoting, known keys (M01).

Checks what can be checked without variables; which options go together is for `mounts`.
"""

from __future__ import annotations

import re

from frontend.dockerfile.problems import MistakeError, nearest
from frontend.dockerfile.syntax import MountOption

_FIELD = re.compile(r'"((?:[^"]++|"")*+)"(?=,|\Z)|([^,"]*+)(?=,|\Z)', re.DOTALL)
_KEYS = (
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "env",
)
_BARE = frozenset({"readonly", "ro", "readwrite", "rw", "required"})
_CHOICES = {
    "type": ("bind", "cache", "tmpfs", "secret", "ssh"),
    "sharing": ("shared", "private", "locked"),
}


def parse_mount(text: str) -> tuple[MountOption, ...]:
    """Read the options in order, keys in lower case.

    Raises:
        MistakeError: malformed quoting, an unknown key, type or sharing, a key without a value.
    """
    return tuple(_option(field, text) for field in split_fields(text))


def split_fields(text: str) -> tuple[str, ...]:
    """Split one line of comma-separated values (RFC 4180).

    Raises:
        MistakeError: a quote stands where none may.
    """
    fields: list[str] = []
    position = 0
    while True:
        match = _FIELD.match(text, position)
        if match is None:
            raise MistakeError(
                f'misplaced " in "{text[:128]}"', hint='quote a whole option, write "" for a quote'
            )
        fields.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if match.end() == len(text):
            return tuple(fields)
        position = match.end() + 1


def _option(field: str, text: str) -> MountOption:
    written, equals, value = field.partition("=")
    key = written.lower()
    if key not in _KEYS:
        raise MistakeError(
            f'unexpected key "{written[:64]}" in "{field[:128]}"',
            hint=nearest(key, _KEYS) or f"the keys of --mount are {', '.join(_KEYS)}",
        )
    if not equals:
        if key not in _BARE:
            raise MistakeError(f'invalid field "{field}" must be a key=value pair')
        return MountOption(key, None)
    if key in _CHOICES and "$" not in value and value.lower() not in _CHOICES[key]:
        what = "mount type" if key == "type" else "sharing value"
        raise MistakeError(
            f'unsupported {what} "{value[:64]}"',
            hint=nearest(value, _CHOICES[key]) or f"one of {', '.join(_CHOICES[key])}",
        )
    if key == "from" and "$" in value[:-1]:
        raise MistakeError(
            f'"{text[:128]}": from does not support variable expansion',
            hint="define an alias stage instead: FROM image AS name",
        )
    return MountOption(key, value)
