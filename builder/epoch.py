"""Which SOURCE_DATE_EPOCH a build has: the command line's, or else the Dockerfile's (O20)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.request import parse_epoch

if TYPE_CHECKING:
    from builder.request import BuildRequest
    from frontend.dockerfile.syntax import Parsed

_NAME = "SOURCE_DATE_EPOCH"


def epoch_of(request: BuildRequest, text: str, parsed: Parsed) -> int | None:
    """The epoch in seconds for a Dockerfile of this text; a build argument that is empty unsets what the Dockerfile says.

    Raises:
        UsageError: the Dockerfile's default is no time.
    """
    given = dict(request.build_args)
    if request.source_date_epoch is not None or _NAME in given:
        return request.source_date_epoch
    if _NAME not in text:
        return None
    from frontend.dockerfile.epoch import declared_epoch  # noqa: PLC0415 - rarely declared

    return parse_epoch(declared_epoch(parsed, given))
