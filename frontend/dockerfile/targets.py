"""What can be built: the stages of a file with their descriptions (--call targets)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.value import value
from frontend.dockerfile.syntax import From

if TYPE_CHECKING:
    from frontend.dockerfile.syntax import Parsed
    from frontend.source import Span


@value
class Target:
    """A stage: "" for what it has not."""

    name: str
    default: bool
    description: str
    base: str
    platform: str
    span: Span


def list_targets(parsed: Parsed) -> tuple[Target, ...]:
    """List the stages in order; the last one is built by default."""
    origins = [ins for ins in parsed.instructions if isinstance(ins, From)]
    return tuple(
        Target(
            name=origin.stage,
            default=origin is origins[-1],
            description=described(origin.node.comments, origin.stage),
            base=origin.image,
            platform=origin.platform,
            span=origin.node.span,
        )
        for origin in origins
    )


def described(comments: tuple[str, ...], name: str) -> str:
    """Find what the comments above an instruction say of a stage or an ARG: `# name text` (P27)."""
    if name:
        for comment in comments:
            if comment.startswith(f"{name} "):
                return comment.removeprefix(f"{name} ")
    return ""
