"""`--iidfile` and `--metadata-file`: what a build resulted in, for scripts (O44, O70, O71).

A stale file is removed before the build, so that after a failure there is none (K08).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.export.destination import replacing, writing
from cache.spec.manifest import descriptor_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache.spec.manifest import Image
    from cache.spec.oci import Descriptor
    from cache.spec.reference import Reference
    from frontend.source import Diagnostic, SourceFile

_MODE = 0o644


def remove_stale(path: str) -> None:
    """Remove the file of an earlier build, and find out early when it cannot be written.

    Raises:
        UsageError: a directory stands there, or there is no directory to write in.
        ExportError: it cannot be removed.
    """
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or "."):
        msg = f"cannot write a result to {path!r}"
        raise UsageError(msg, hint="name a file in an existing directory")
    with writing(path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def write_result(path: str, data: bytes) -> None:
    """Write a result file whole or not at all.

    Raises:
        ExportError: it cannot be written.
    """
    parent, name = os.path.split(path)
    with writing(path):
        directory = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with replacing(directory, name, _MODE) as file:
                file.write(data)
        finally:
            os.close(directory)


def warnings_json(source: SourceFile, warnings: Sequence[Diagnostic]) -> list[object]:
    """Lint warnings as `buildx.build.warnings` has them: texts in base64, lines from 1."""
    from frontend.dockerfile.rules import rule  # noqa: PLC0415 - only when asked

    info = {"filename": source.name, "data": _base64(source.text), "language": "Dockerfile"}
    documents: list[object] = []
    for warning in warnings:
        described, span = rule(warning.rule), warning.span
        document: dict[str, object] = {
            "level": 1,
            "short": _base64(f"{warning.rule}: {warning.message} (line {span.start})"),
            "detail": [_base64(described.description)],
            "sourceInfo": info,
            "range": [{"start": {"line": span.start}, "end": {"line": span.end}}],
        }
        documents.append(document | ({"url": described.url} if described.url else {}))
    return documents


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()


def metadata(
    images: Sequence[Image],
    names: Sequence[Reference],
    *,
    index: Descriptor | None = None,
    more: Mapping[str, object] | None = None,
) -> bytes:
    """The document of `--metadata-file`; `more` are entries of other parts of the build."""
    root = index or images[0].manifest
    document: dict[str, object] = {
        **(more or {}),
        "containerimage.digest": str(root.digest),
        "containerimage.descriptor": descriptor_json(root),
    }
    if index is None:
        document["containerimage.config.digest"] = str(images[0].config_blob.digest)
    if names:
        document["image.name"] = ",".join(str(name) for name in names)
    return json.dumps(document, indent=2, sort_keys=True).encode()
