"""Errors of doing: a step that failed, a host that cannot, a registry that would not."""

from __future__ import annotations

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from frontend.graph import Vertex


class UsageError(PybuildError):
    """The command line asks for something that makes no sense (exit 2)."""


class HostUnsupportedError(PybuildError):
    """This host lacks what a step needs (exit 3); the hint says how to get it."""


class SandboxError(PybuildError):
    """The sandbox could not be set up or was lost."""


class ProcessFailedError(PybuildError):
    """A RUN process ended with a non-zero status (R02)."""

    def __init__(self, argv: tuple[str, ...], exit_code: int, *, hint: str | None = None) -> None:
        """Keep the status; 128+n for a signal n."""
        text = " ".join(argv)
        super().__init__(
            f'process "{text}" did not complete successfully: exit code: {exit_code}', hint=hint
        )
        self.exit_code = exit_code


class OutOfMemoryError(PybuildError):
    """A RUN was killed because it wanted more memory than it may have (C9)."""

    def __init__(self, limit: str) -> None:
        """`limit` is as flags have it, such as 64m."""
        super().__init__(
            f"RUN was killed: out of memory, limit {limit}", hint="raise the limit with --memory"
        )


class RegistryError(PybuildError):
    """A registry refused or broke; `temporary` says whether the same request may succeed later."""

    def __init__(
        self, message: str, *, status: int = 0, temporary: bool = False, hint: str | None = None
    ) -> None:
        """Keep the HTTP status, 0 when there was no response."""
        super().__init__(message, hint=hint)
        self.status = status
        self.temporary = temporary


class SolveError(PybuildError):
    """A vertex failed; the cause is chained and its log tail kept (last lines, oldest first)."""

    def __init__(self, vertex: Vertex, cause: PybuildError, log_tail: tuple[str, ...] = ()) -> None:
        """Wrap the cause once, with the vertex it happened in."""
        super().__init__(cause.message, hint=cause.hint)
        self.vertex = vertex
        self.cause = cause
        self.log_tail = log_tail
        self.excerpt = ""  # the Dockerfile lines, added where the source is known


class ExportError(PybuildError):
    """The result could not be written where it was asked to go, or an image could not be read."""


class CancelledBuildError(KeyboardInterrupt):
    """The build was interrupted by a signal; `signal` is its number.

    No PybuildError: whoever makes the best of an error must not go on after this one.
    """

    def __init__(self, signal: int) -> None:
        """Keep the signal for the exit status 128+n."""
        super().__init__("interrupted")
        self.signal = signal
