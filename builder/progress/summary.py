"""What is said when a build is over: names, digest, size, counts. Renders text; prints nothing."""

from __future__ import annotations

import threading

from builder.progress import events
from builder.progress.text import harmless, human_seconds, human_size
from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.progress.events import Event, Reporter
    from cache.spec.digest import Digest
    from cache.spec.manifest import Image
    from frontend.source import Diagnostic, SourceFile


@value
class Counts:
    """How many steps ran, were cached, failed."""

    run: int = 0
    cached: int = 0
    failed: int = 0


class CountingReporter:
    """A Reporter that counts the ends of steps and passes every event on."""

    def __init__(self, inner: Reporter) -> None:
        """Wrap a reporter, which is closed with this one."""
        self._inner = inner
        self._lock = threading.Lock()
        self._run = self._cached = self._failed = 0

    def emit(self, event: Event, /) -> None:
        """Count and pass on."""
        with self._lock:
            match event:
                case events.VertexDone():
                    self._run += 1
                case events.VertexCached():
                    self._cached += 1
                case events.VertexFailed():
                    self._failed += 1
                case _:
                    pass
        self._inner.emit(event)

    def close(self) -> None:
        """Close the wrapped reporter."""
        self._inner.close()

    @property
    def counts(self) -> Counts:
        """The counts so far."""
        with self._lock:
            return Counts(self._run, self._cached, self._failed)


@value
class Summary:
    """A finished build. `size` is the bytes of the distinct blobs; `written` names destinations.

    `pushed` names what registries have now.
    """

    names: tuple[str, ...]
    manifest: Digest | None
    size: int
    layers: int
    counts: Counts
    seconds: float
    written: tuple[str, ...] = ()
    pushed: tuple[str, ...] = ()


def image_size(image: Image) -> int:
    """Bytes of an image's distinct blobs, manifest and config included."""
    blobs = (image.manifest, image.config_blob, *(layer.blob for layer in image.layers))
    return sum({blob.digest: blob.size for blob in blobs}.values())


def summary_text(summary: Summary) -> str:
    """The closing lines, without a final newline."""
    head = f"built {harmless(summary.names[0])}" if summary.names else "built"
    counts = f"{_count(summary.counts.run, 'step')} run, {summary.counts.cached} cached"
    lines = [f"{head} in {human_seconds(summary.seconds)} ({counts})"]
    lines += [f"  also     {harmless(name)}" for name in summary.names[1:]]
    if summary.manifest is not None:
        lines.append(f"  manifest {summary.manifest}")
        size = f"{human_size(summary.size)} in {_count(summary.layers, 'layer')}"
        lines.append(f"  size     {size}")
    lines += [f"  written  {harmless(path)}" for path in summary.written]
    lines += [f"  pushed   {harmless(name)}" for name in summary.pushed]
    return "\n".join(lines)


def warnings_text(source: SourceFile, warnings: Sequence[Diagnostic], *, at_length: bool) -> str:
    """What the lint found (O76), with lines: one each, or with the rule, its page and the excerpt."""
    if not warnings:
        return ""
    expand = "" if at_length else " (use --debug to expand)"
    lines = [f" {_count(len(warnings), 'warning')} found{expand}:"]
    for warning in warnings:
        lines.append(f" - {warning.rule}: {harmless(warning.message)} (line {warning.span.start})")
        if at_length:
            from frontend.dockerfile.rules import rule  # noqa: PLC0415 - only when asked

            described = rule(warning.rule)
            more = [f"More info: {described.url}"] if described.url else []
            lines += [described.description, *more, source.excerpt(warning.span), ""]
    return "".join(f"{line}\n" for line in lines)


def failure_text(name: str, log_tail: Sequence[str]) -> str:
    """The block that repeats a failed step's last lines (O73), without a final newline."""
    lines = [harmless(line) for line in log_tail]
    return "\n".join(["------", f" > {harmless(name)}:", *lines, "------"])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
