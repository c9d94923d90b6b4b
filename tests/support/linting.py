"""Check, outline and list the targets of one file of testdata/lint, as its options say."""

from __future__ import annotations

import json

from support.fake_resolver import FakeResolver

from cache.errors import PybuildError
from frontend.dockerfile.check import check
from frontend.dockerfile.instructions import parse_dockerfile
from frontend.dockerfile.outline import outline
from frontend.dockerfile.session import LowerRequest
from frontend.dockerfile.targets import list_targets
from frontend.ignore import parse_ignore
from frontend.source import SourceFile


def read(case):
    """The source and what is asked of it: request and ignore patterns."""
    path = case / "options.json"
    options = json.loads(path.read_text()) if path.exists() else {}
    request = LowerRequest(
        target=options.get("target", ""),
        build_args=tuple(options.get("build_args", {}).items()),
    )
    source = SourceFile("Dockerfile", (case / "Dockerfile").read_bytes().decode())
    return source, request, lambda: parse_ignore(options.get("ignore", ""), ".dockerignore")


def checked(case):
    """Everything `check` finds in a case."""
    source, request, ignore = read(case)
    return check(source, request, FakeResolver(), ignore)


def outlined(case):
    """The outline of a case, or the error instead."""
    source, request, _ = read(case)
    try:
        return outline(source, parse_dockerfile(source), request, FakeResolver())
    except PybuildError as error:
        return error


def targets(case):
    """The targets of a case, or the error instead."""
    source, *_ = read(case)
    try:
        return list_targets(parse_dockerfile(source))
    except PybuildError as error:
        return error
