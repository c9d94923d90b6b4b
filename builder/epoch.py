"""Which SOURCE_DATE_EPOCH a build has: the command line's, or else the Dockerfile's (O20)."""

from __future__ import annotations

from builder.request import CONTEXT_EPOCH, parse_epoch
from cache.hints import TYPE_CHECKING
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.dockerfile_input import BuildInput
    from builder.request import BuildRequest
    from frontend.dockerfile.syntax import Parsed
    from frontend.graph import GitOp, HttpOp

_NAME = "SOURCE_DATE_EPOCH"


def with_epoch(
    request: BuildRequest,
    given: BuildInput,
    parsed: Parsed,
    changed: Callable[[GitOp | HttpOp], int | None],
) -> BuildRequest:
    """Give the request the epoch it asks for, or else the Dockerfile.

    `context` is when the context was changed: a commit's time, a Last-Modified, the newest file
    of an archive; a directory has no such time. A name is that of a context or of a stage with one
    remote ADD, of which `changed` gives the time. The build argument gets the number, or nothing.

    Raises:
        UsageError: the number is no time.
        MistakeError: the name leads to nothing that has a time.
    """
    text = epoch_text(request, given.source.text, parsed)
    if not text or text.removeprefix("+").isdigit():
        return replace(request, source_date_epoch=parse_epoch(text))
    epoch = given.changed() if text == CONTEXT_EPOCH else _named(request, text, parsed, changed)
    arguments = {**dict(request.build_args), _NAME: "" if epoch is None else str(epoch)}
    return replace(request, source_date_epoch=epoch, build_args=tuple(arguments.items()))


def _named(
    request: BuildRequest,
    text: str,
    parsed: Parsed,
    changed: Callable[[GitOp | HttpOp], int | None],
) -> int | None:
    from frontend.dockerfile.contexts import Contexts  # noqa: PLC0415 - seldom a name
    from frontend.dockerfile.epoch import named_source  # noqa: PLC0415

    contexts = Contexts(request.contexts)
    op = named_source(parsed, text, contexts, dict(request.build_args), request.platform)
    return None if op is None else changed(op)


def epoch_text(request: BuildRequest, text: str, parsed: Parsed) -> str:
    """What says the epoch of a Dockerfile of this text; an empty build argument unsets what the Dockerfile says."""
    if request.source_date_epoch is not None:
        return str(request.source_date_epoch)
    given = dict(request.build_args)
    if _NAME in given:
        return given[_NAME]
    if _NAME not in text:
        return ""
    from frontend.dockerfile.epoch import declared_epoch  # noqa: PLC0415 - rarely declared

    return declared_epoch(parsed, given)
