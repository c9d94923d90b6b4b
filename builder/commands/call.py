"""--call: say something about a Dockerfile instead of building it (O77, O78).

Prints what `frontend` finds out, for people or as the reference's JSON for tools.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from builder import pipeline
from builder.errors import UsageError
from cache.value import value

if TYPE_CHECKING:
    from builder.pipeline import Caller, Examined
    from builder.request import BuildRequest
    from frontend.dockerfile.check import Checked
    from frontend.source import SourceFile


@value
class Answer:
    """What is printed and kept: JSON and text, and the exit status; `complaint` is for errors."""

    json: str
    text: str
    status: int | None = None  # None for calls that have none
    complaint: str = ""


def answer(request: BuildRequest, caller: Caller) -> int:
    """Answer a call; gives the exit status."""
    if request.call == "graph":
        sys.stdout.write(pipeline.graph(request, caller))
        return 0
    if request.metadata_file:
        from builder.export.resultfile import remove_stale  # noqa: PLC0415 - only when asked

        remove_stale(request.metadata_file)
    try:
        found = _answer(request, caller)
    finally:
        caller.reporter.close()
    sys.stdout.write(f"{found.json}\n" if request.call_format == "json" else found.text)
    if request.metadata_file:
        _keep(request.metadata_file, found)
    if found.complaint:
        sys.stdout.flush()
        sys.stderr.write(found.complaint)
        return 1
    return 0 if request.call_ignore_status else found.status or 0


def _answer(request: BuildRequest, caller: Caller) -> Answer:
    from builder import callresult  # noqa: PLC0415 - only when asked

    if request.call == "subrequests.describe":
        return Answer(callresult.described_json(), callresult.described_text())
    with contextlib.ExitStack() as stack:
        given = pipeline.examined(request, caller, stack)
        source = given.given.source
        if request.call == "check":
            from frontend.dockerfile.check import check  # noqa: PLC0415 - only when asked

            _advise(request, given)
            return _checked(source, check(source, given.request, given.images, given.ignore))
        from frontend.dockerfile.instructions import parse_dockerfile  # noqa: PLC0415 - the same

        parsed = parse_dockerfile(source)
        if request.call == "targets":
            from frontend.dockerfile.targets import list_targets  # noqa: PLC0415 - the same

            targets = list_targets(parsed)
            return Answer(
                callresult.targets_json(source, targets), callresult.targets_text(targets)
            )
        if request.call == "outline":
            from frontend.dockerfile.outline import outline  # noqa: PLC0415 - the same

            found = outline(source, parsed, given.request, given.images)
            return Answer(callresult.outline_json(source, found), callresult.outline_text(found))
    msg = f"unknown --call {request.call!r}"
    raise UsageError(msg)


def _advise(request: BuildRequest, given: Examined) -> None:
    """Say what looks like a misunderstanding in the ignore file; no warning, so no failure."""
    if request.progress in {"quiet", "rawjson"} or not os.path.isdir(request.context):
        return
    from builder.ignoreadvice import advise  # noqa: PLC0415 - only when asked

    patterns = given.ignore()
    for advice in advise(request.context, patterns) if patterns else ():
        sys.stderr.write(f"note: {given.ignore_name()}:{advice.line}: {advice}\n")


def _checked(source: SourceFile, found: Checked) -> Answer:
    from builder import callresult  # noqa: PLC0415 - only when asked

    return Answer(
        callresult.check_json(source, found),
        callresult.check_text(source, found),
        1 if found.warnings or found.errors else 0,
        callresult.check_complaint(source, found),
    )


def _keep(path: str, found: Answer) -> None:
    """Write the result where scripts look for it (O70)."""
    import json  # noqa: PLC0415 - only when asked

    from builder.callresult import VERSION  # noqa: PLC0415 - the same
    from builder.export.resultfile import write_result  # noqa: PLC0415 - the same

    document = {"result.json": found.json, "result.txt": found.text, "version": VERSION}
    if found.status is not None:
        document["result.statuscode"] = str(found.status)
    write_result(path, json.dumps(document, indent=2, sort_keys=True).encode())
