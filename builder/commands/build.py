"""`pybuild build`: run the pipeline, then say what came of it."""

from __future__ import annotations

import sys
import time

from builder import interrupt, pipeline
from builder.flags import TRUE
from builder.options import build_request, read
from builder.progress.deferred import DeferredReporter
from builder.proxies import configured
from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from builder.pipeline import Built, Caller
    from builder.progress.events import Reporter
    from builder.request import BuildRequest
    from frontend.source import Diagnostic, SourceFile


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Build; returns the exit status 0, every failure is raised."""
    words = read(argv)
    if words.switch("help"):
        from builder.usage import HELP  # noqa: PLC0415 - rarely asked

        sys.stdout.write(HELP)
        return 0
    request = _with_proxies(build_request(words, environ), environ)
    started = time.monotonic()
    found: list[tuple[SourceFile, tuple[Diagnostic, ...]]] = []

    def warned(source: SourceFile, warnings: tuple[Diagnostic, ...]) -> None:
        found.append((source, warnings))
        if request.progress == "rawjson":
            _emit(caller.reporter, warnings)

    caller = _caller(request, environ, warned)
    for text in (*request.warnings, *_empty_secrets(request, environ)):
        caller.notice(f"warning: {text}")
    if request.call != "build":
        from builder.commands.call import answer  # noqa: PLC0415 - rarely asked

        return answer(request, caller)
    for path in filter(None, (request.iidfile, request.metadata_file)):
        _remove_stale(path)
    try:
        with interrupt.raised(interrupt.PATIENCE):
            built = pipeline.build(request, caller)
    except PybuildError:
        caller.reporter.close()
        for source, warnings in found:
            caller.notice(_warnings(request, source, warnings))
        raise
    finally:
        caller.reporter.close()
    if request.iidfile or request.metadata_file:
        _write_results(request, built, environ)
    _report(request, built, time.monotonic() - started)
    return 0


def _with_proxies(request: BuildRequest, environ: Mapping[str, str]) -> BuildRequest:
    """Add the proxies that docker's config.json has for builds."""
    given = dict(request.build_args)
    more = configured(environ, given)
    return replace(request, build_args=(*request.build_args, *more)) if more else request


def _empty_secrets(request: BuildRequest, environ: Mapping[str, str]) -> list[str]:
    if not request.secrets:
        return []
    from builder.secrets import unset_variables  # noqa: PLC0415 - only when asked

    return [
        f"secret {name} is empty: environment variable {variable} is not set"
        for name, variable in unset_variables(request.secrets, environ)
    ]


def _emit(reporter: Reporter, warnings: tuple[Diagnostic, ...]) -> None:
    """Put warnings among the events, for those who read nothing else (O74)."""
    from builder.progress.events import Warned  # noqa: PLC0415 - only for programs

    for warning in dict.fromkeys(warnings):
        reporter.emit(Warned(f"{warning.rule}: {warning.message} (line {warning.span.start})"))


def _warnings(request: BuildRequest, source: SourceFile, warnings: tuple[Diagnostic, ...]) -> str:
    """Word the warnings of a build that failed all the same (T14)."""
    from builder.progress.summary import warnings_text  # noqa: PLC0415 - only when it failed

    once = tuple(dict.fromkeys(warnings))
    return warnings_text(source, once, at_length=request.debug).removesuffix("\n")


def _caller(
    request: BuildRequest,
    environ: Mapping[str, str],
    warned: Callable[[SourceFile, tuple[Diagnostic, ...]], None],
) -> Caller:
    from builder.progress.choose import make_reporter  # noqa: PLC0415 - after parsing

    quiet = request.progress in {"quiet", "none", "rawjson"}

    def cheap() -> Reporter:
        kind = request.progress if quiet else "plain"
        return make_reporter(kind, sys.stderr, environ)

    def notice(text: str) -> None:
        if text and not quiet:
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - the terminal renderer is not up yet

    return pipeline.Caller(
        environ,
        DeferredReporter(lambda: make_reporter(request.progress, sys.stderr, environ), cheap),
        notice,
        stdout_is_terminal=sys.stdout.isatty(),
        warned=warned,
    )


def _remove_stale(path: str) -> None:
    from builder.export.resultfile import remove_stale  # noqa: PLC0415 - only when asked

    remove_stale(path)


def _report(request: BuildRequest, built: Built, seconds: float) -> None:
    if request.progress == "quiet":
        sys.stdout.write(f"{built.finished.id}\n")
        return
    if request.progress not in {"none", "rawjson"}:
        sys.stderr.write(_summary(request, built, seconds))


def _write_results(request: BuildRequest, built: Built, environ: Mapping[str, str]) -> None:
    from builder.export.resultfile import metadata, warnings_json, write_result  # noqa: PLC0415

    finished = built.finished
    made = finished.made
    if request.iidfile:
        write_result(request.iidfile, finished.id.encode())
    if request.metadata_file:
        more: dict[str, object] = {}
        if built.warnings and environ.get("BUILDX_METADATA_WARNINGS", "") in TRUE:
            more["buildx.build.warnings"] = warnings_json(built.source, built.warnings)
        data = metadata(made.images, finished.names, index=made.index, more=more)
        write_result(request.metadata_file, data)


def _summary(request: BuildRequest, built: Built, seconds: float) -> str:
    from builder.progress.summary import (  # noqa: PLC0415 - after the build
        Counts,
        Summary,
        image_size,
        summary_text,
        warnings_text,
    )

    finished = built.finished
    summary = Summary(
        names=tuple(name.familiar for name in finished.names),
        manifest=finished.made.root.digest,
        size=image_size(finished.image),
        layers=len(finished.image.layers),
        counts=Counts(built.steps_run, built.steps_cached),
        seconds=seconds,
        written=finished.written,
        pushed=tuple(str(name) for name in finished.pushed),
    )
    parts = [_explanation(built)] if request.explain else []
    parts += [
        warnings_text(built.source, built.warnings, at_length=request.debug),
        _unconsumed(built),
        summary_text(summary) + "\n",
    ]
    return "".join(parts)


def _unconsumed(built: Built) -> str:
    """One line about --build-arg names that nothing asked for (V36)."""
    if not built.unconsumed:
        return ""
    from frontend.source import printable  # noqa: PLC0415 - only when needed

    names = ", ".join(printable(name)[:100] for name in built.unconsumed)
    return f"warning: no ARG takes --build-arg {names}\n"


def _explanation(built: Built) -> str:
    lines = []
    for step in built.explained:
        if step.hit:
            lines.append(f"hit   {step.name}\n")
            continue
        lines.append(f"miss  {step.name}\n")
        change = step.difference
        if change is None:
            lines.append("      never built before\n")
        else:
            lines.append(f"      {change.name} changed\n")
            lines += [
                f"        old: {_short(change.old)}\n",
                f"        new: {_short(change.new)}\n",
            ]
    return "".join(lines)


def _short(value: str, limit: int = 200) -> str:
    from frontend.source import printable  # noqa: PLC0415 - only when asked

    shown = printable(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}…"
