"""Build arguments that nothing asks for."""

from __future__ import annotations

from frontend.dockerfile.instructions import parse_dockerfile
from frontend.dockerfile.unconsumed import unconsumed
from frontend.source import SourceFile


def test_only_names_that_nothing_declares_are_left() -> None:
    """V36: ARGs of any stage count, and ONBUILD ones of bases and stages; predefined names need none (V40-V44)."""
    text = "ARG GLOBAL\nFROM a AS unused\nARG ELSEWHERE=1\nFROM b\nARG X Y\n"
    text += "ONBUILD ARG LATER=2\nFROM c\n"
    parsed = parse_dockerfile(SourceFile("Dockerfile", text))
    names = [
        "GLOBAL",
        "ELSEWHERE",
        "X",
        "Y",
        "TRIGGERED",
        "LATER",
        "http_proxy",
        "NO_PROXY",
        "TARGETARCH",
    ]
    names += ["SOURCE_DATE_EPOCH", "BUILDKIT_SYNTAX", "x", "ELSEWEHRE"]
    triggers = ["ARG TRIGGERED=1", "RUN x", "not an instruction"]
    assert unconsumed(parsed, triggers, names) == ("x", "ELSEWEHRE")
