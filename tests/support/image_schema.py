"""JSON schemas of an image's documents, written from the OCI image specification 1.1."""

from __future__ import annotations

import functools

import jsonschema

DIGEST = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}
STRINGS = {"type": "array", "items": {"type": "string"}}
STRING_MAP = {"type": "object", "additionalProperties": {"type": "string"}}
EMPTY_OBJECTS = {"type": "object", "additionalProperties": {"type": "object", "maxProperties": 0}}
MEDIA_TYPE = {"type": "string", "pattern": r"^[A-Za-z0-9][\w!#$&^.+-]*/[A-Za-z0-9][\w!#$&^.+-]*$"}
DATE = {
    "type": "string",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$",
}
PLATFORM = {
    "type": "object",
    "required": ["architecture", "os"],
    "properties": {
        "architecture": {"type": "string", "minLength": 1},
        "os": {"type": "string", "minLength": 1},
        "os.version": {"type": "string"},
        "os.features": STRINGS,
        "variant": {"type": "string", "minLength": 1},
    },
}


def _descriptor(*media_types):
    kind = {"enum": list(media_types)} if media_types else MEDIA_TYPE
    return {
        "type": "object",
        "required": ["mediaType", "digest", "size"],
        "properties": {
            "mediaType": kind,
            "digest": DIGEST,
            "size": {"type": "integer", "minimum": 0},
            "urls": STRINGS,
            "annotations": STRING_MAP,
            "data": {"type": "string"},
            "artifactType": MEDIA_TYPE,
            "platform": PLATFORM,
        },
    }


_OCI = "application/vnd.oci.image"
_LAYER = f"{_OCI}.layer.v1.tar"
MANIFEST = {
    "type": "object",
    "required": ["schemaVersion", "mediaType", "config", "layers"],
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": f"{_OCI}.manifest.v1+json"},
        "config": _descriptor(f"{_OCI}.config.v1+json"),
        "layers": {
            "type": "array",
            "items": _descriptor(_LAYER, f"{_LAYER}+gzip", f"{_LAYER}+zstd"),
        },
        "annotations": STRING_MAP,
    },
    "additionalProperties": False,
}
INDEX = {
    "type": "object",
    "required": ["schemaVersion", "manifests"],
    "properties": {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": f"{_OCI}.index.v1+json"},
        "manifests": {
            "type": "array",
            "items": _descriptor(f"{_OCI}.manifest.v1+json", f"{_OCI}.index.v1+json"),
        },
        "annotations": STRING_MAP,
    },
    "additionalProperties": False,
}
LAYOUT = {
    "type": "object",
    "required": ["imageLayoutVersion"],
    "properties": {"imageLayoutVersion": {"const": "1.0.0"}},
}
HISTORY = {
    "type": "object",
    "properties": {
        "created": DATE,
        "created_by": {"type": "string"},
        "author": {"type": "string"},
        "comment": {"type": "string"},
        "empty_layer": {"type": "boolean"},
    },
    "additionalProperties": False,
}
PROCESS = {
    "type": "object",
    "properties": {
        "User": {"type": "string"},
        "ExposedPorts": {
            **EMPTY_OBJECTS,
            "propertyNames": {"pattern": r"^\d{1,5}(/(tcp|udp|sctp))?$"},
        },
        "Env": {"type": "array", "items": {"type": "string", "pattern": r"(?s)^[^=]+=.*$"}},
        "Entrypoint": {**STRINGS, "type": ["array", "null"]},
        "Cmd": {**STRINGS, "type": ["array", "null"]},
        "Volumes": EMPTY_OBJECTS,
        "WorkingDir": {"type": "string"},
        "Labels": STRING_MAP,
        "StopSignal": {"type": "string", "pattern": r"^(SIG[A-Z0-9+-]+|\d+)$"},
        "ArgsEscaped": {"type": "boolean"},
        "Healthcheck": {
            "type": "object",
            "properties": {
                "Test": STRINGS,
                "Interval": {"type": "integer"},
                "Timeout": {"type": "integer"},
                "StartPeriod": {"type": "integer"},
                "StartInterval": {"type": "integer"},
                "Retries": {"type": "integer"},
            },
        },
        "OnBuild": STRINGS,
        "Shell": STRINGS,
    },
}
CONFIG = {
    "type": "object",
    "required": ["architecture", "os", "rootfs"],
    "properties": {
        "created": DATE,
        "author": {"type": "string"},
        "architecture": {"type": "string", "minLength": 1},
        "os": {"type": "string", "minLength": 1},
        "os.version": {"type": "string"},
        "os.features": STRINGS,
        "variant": {"type": "string", "minLength": 1},
        "config": PROCESS,
        "rootfs": {
            "type": "object",
            "required": ["type", "diff_ids"],
            "properties": {
                "type": {"const": "layers"},
                "diff_ids": {"type": "array", "items": DIGEST},
            },
            "additionalProperties": False,
        },
        "history": {"type": "array", "items": HISTORY},
    },
}


@functools.cache
def _validator(name):
    schema = {"manifest": MANIFEST, "index": INDEX, "config": CONFIG, "layout": LAYOUT}[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check(name, document):
    """Require that a document is a manifest, index, config or layout of the specification."""
    errors = [
        f"{error.json_path}: {error.message}" for error in _validator(name).iter_errors(document)
    ]
    assert not errors, f"not a valid {name}: {errors}\n{document}"
