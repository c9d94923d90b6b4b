"""Heredocs as files: their bodies and the names they get (P54-P56)."""

from __future__ import annotations

import re

from cache.hints import TYPE_CHECKING
from frontend.dockerfile.problems import MistakeError

if TYPE_CHECKING:
    from frontend.dockerfile.syntax import Heredoc

_LONGEST_FILE_NAME = 255


def body_as_file(heredoc: Heredoc) -> str:
    """Give the body, leading tabs of each line stripped for `<<-` (P54)."""
    return re.sub(r"(?m)^\t+", "", heredoc.body) if heredoc.chomp else heredoc.body


def file_name(heredoc: Heredoc) -> str:
    """Give the name as a file name.

    Raises:
        MistakeError: it is a path or otherwise no name of a file.
    """
    name = heredoc.name
    too_long = len(name.encode(errors="surrogatepass")) > _LONGEST_FILE_NAME
    if name in {"", ".", ".."} or "/" in name or "\0" in name or too_long:
        raise MistakeError(
            f"heredoc name {name[:60]!r} can not be a file name",
            hint="use a plain word such as EOF",
        )
    return name
