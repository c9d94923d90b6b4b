"""What crosses between builder, launcher and init: a step's specification and init's report.

JSON both ways; text may hold lone surrogates (undecodable bytes of names), which JSON escapes.
"""

from __future__ import annotations

import binascii
import json
from typing import Any

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox.spec import (
    Bind,
    BindOverlay,
    MemoryFile,
    NetworkMode,
    Overlay,
    Process,
    SandboxSpec,
    StepMount,
    Tmpfs,
)
from cache.value import value

_MOUNTS: dict[str, type[StepMount]] = {
    "bind": Bind,
    "overlay": BindOverlay,
    "tmpfs": Tmpfs,
    "file": MemoryFile,
}
_NAMES = {kind: name for name, kind in _MOUNTS.items()}


def _text(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def _fields(value: Any) -> dict[str, Any]:
    found = {name: getattr(value, name) for name in value.__slots__}
    return {name: _text(v) if isinstance(v, bytes) else v for name, v in found.items()}


def encode_spec(spec: SandboxSpec) -> bytes:
    """A specification as JSON."""
    document = _fields(spec) | {
        "root": _fields(spec.root),
        "process": _fields(spec.process),
        "mounts": [{"kind": _NAMES[type(m)], **_fields(m)} for m in spec.mounts],
    }
    return json.dumps(document).encode("ascii")


def _mount(document: dict[str, Any]) -> StepMount:
    kind = document.pop("kind")
    if "data" in document:
        document["data"] = binascii.a2b_base64(document["data"])
    if "lowers" in document:
        document["lowers"] = tuple(document["lowers"])
    return _MOUNTS[kind](**document)


def decode_spec(data: bytes) -> SandboxSpec:
    """The inverse of encode_spec(); the bytes come from our own builder only."""
    document = json.loads(data)
    root, process = document.pop("root"), document.pop("process")
    return SandboxSpec(
        root=Overlay(root["base"], tuple(root["lowers"]), root["upper"], root["work"]),
        process=Process(
            tuple(process["argv"]),
            tuple((name, value) for name, value in process["env"]),
            process["cwd"],
            process["user"],
        ),
        mounts=tuple(_mount(m) for m in document.pop("mounts")),
        network=NetworkMode(document.pop("network")),
        resolv_conf=binascii.a2b_base64(document.pop("resolv_conf")),
        hosts=binascii.a2b_base64(document.pop("hosts")),
        ulimits=tuple((name, soft, hard) for name, soft, hard in document.pop("ulimits")),
        **document,
    )


@value
class Report:
    """What init says once: the stubs it made, or why there is no step."""

    stubs: tuple[tuple[str, int], ...] = ()
    error: SandboxError | HostUnsupportedError | None = None


def encode_report(report: Report) -> bytes:
    """A report as JSON."""
    if report.error is None:
        return json.dumps({"stubs": report.stubs}).encode("ascii")
    host = isinstance(report.error, HostUnsupportedError)
    document = {"error": report.error.message, "hint": report.error.hint, "host": host}
    return json.dumps(document).encode("ascii")


def decode_report(data: bytes) -> Report | None:
    """The report, or None when init ended before it could write one."""
    if not data:
        return None
    document = json.loads(data)
    if "error" in document:
        kind = HostUnsupportedError if document["host"] else SandboxError
        return Report(error=kind(document["error"], hint=document["hint"]))
    return Report(stubs=tuple((path, mtime) for path, mtime in document["stubs"]))
