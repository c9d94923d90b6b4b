"""The value of RUN --mount as options: comma-separated with quoting (M01).

What the options mean is for `mounts`, once variables have values: like the reference, nothing
else is wrong with a RUN whose stage is not built.
"""

from __future__ import annotations

import re

from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.syntax import MountOption

_FIELD = r'"((?:[^"]++|"")*+)"(?=,|\Z)|([^,"]*+)(?=,|\Z)'


def parse_mount(text: str) -> tuple[MountOption, ...]:
    """Read the options in order, keys in lower case.

    Raises:
        MistakeError: nothing at all, malformed quoting, or a variable in `from`.
    """
    if not text:
        raise MistakeError("--mount has no options", hint="write --mount=type=…,target=/some/path")
    return tuple(_option(field) for field in split_fields(text))


def split_fields(text: str) -> tuple[str, ...]:
    """Split one line of comma-separated values (RFC 4180).

    Raises:
        MistakeError: a quote stands where none may.
    """
    fields: list[str] = []
    position = 0
    pattern = re.compile(_FIELD, re.DOTALL)
    while True:
        match = pattern.match(text, position)
        if match is None:
            raise MistakeError(
                f'misplaced " in "{text[:128]}"', hint='quote a whole option, write "" for a quote'
            )
        fields.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if match.end() == len(text):
            return tuple(fields)
        position = match.end() + 1


def _option(field: str) -> MountOption:
    written, equals, value = field.partition("=")
    key = written.lower()
    if not equals:
        return MountOption(key, None)
    if key == "from" and "$" in value[:-1]:
        raise MistakeError(
            "'from' doesn't support variable expansion, define alias stage instead",
            hint="write FROM image AS name, and from=name",
        )
    return MountOption(key, value)
