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
    PlainRoot,
    Process,
    Recorded,
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
        "recorded": [_recorded_row(r) for r in spec.recorded],
        "root": _fields(spec.root),
        "process": _fields(spec.process),
        "mounts": [_mount_fields(m) for m in spec.mounts],
    }
    return json.dumps(document).encode("ascii")


def _mount_fields(mount: StepMount) -> dict[str, Any]:
    document = {"kind": _NAMES[type(mount)], **_fields(mount)}
    if isinstance(mount, BindOverlay):
        document["recorded"] = [_recorded_row(r) for r in mount.recorded]
    return document


def _recorded_row(recorded: Recorded) -> list[Any]:
    xattrs = [[name, _text(data)] for name, data in recorded.xattrs]
    return [
        recorded.name,
        recorded.uid,
        recorded.gid,
        recorded.mode,
        recorded.device,
        xattrs,
    ]


def _recorded(row: list[Any]) -> Recorded:
    name, uid, gid, mode, (major, minor), xattrs = row
    values = tuple((key, binascii.a2b_base64(data)) for key, data in xattrs)
    return Recorded(name, uid, gid, mode, (major, minor), values)


def _root(document: dict[str, Any]) -> Overlay | PlainRoot:
    if "path" in document:
        links = tuple((path, text) for path, text in document["links"])
        return PlainRoot(document["path"], links)
    lowers = tuple(document["lowers"])
    beneath = tuple(document["beneath"])
    return Overlay(document["base"], lowers, document["upper"], document["work"], beneath)


def _mount(document: dict[str, Any]) -> StepMount:
    kind = document.pop("kind")
    if "data" in document:
        document["data"] = binascii.a2b_base64(document["data"])
    if "lowers" in document:
        document["lowers"] = tuple(document["lowers"])
        document["recorded"] = tuple(_recorded(row) for row in document["recorded"])
    return _MOUNTS[kind](**document)


def decode_spec(data: bytes) -> SandboxSpec:
    """The inverse of encode_spec(); the bytes come from our own builder only."""
    document = json.loads(data)
    root, process = document.pop("root"), document.pop("process")
    return SandboxSpec(
        root=_root(root),
        recorded=tuple(_recorded(row) for row in document.pop("recorded")),
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
        cgroups=tuple(document.pop("cgroups")),
        processors=tuple(document.pop("processors")),
        **document,
    )


@value
class Report:
    """What is said of a step: the stubs made for it and what was recorded, or why there is none."""

    stubs: tuple[tuple[str, int], ...] = ()
    recorded: tuple[Recorded, ...] = ()
    error: SandboxError | HostUnsupportedError | None = None


def encode_report(report: Report) -> bytes:
    """A report as JSON."""
    if report.error is None:
        rows = [_recorded_row(recorded) for recorded in report.recorded]
        return json.dumps({"stubs": report.stubs, "recorded": rows}).encode("ascii")
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
    return Report(
        stubs=tuple((path, mtime) for path, mtime in document["stubs"]),
        recorded=tuple(_recorded(row) for row in document["recorded"]),
    )
