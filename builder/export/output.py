"""What `--output` asks for, as a value: the option grammar and the rules between options.

Knows option text only; opens nothing and builds nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from builder.errors import UsageError
from cache.errors import InvalidDocumentError
from cache.spec.reference import Reference
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

STDOUT = "-"


class OutputType(StrEnum):
    """Where a result goes. IMAGE stays in the store unless pushed; REGISTRY is a pushed IMAGE."""

    IMAGE = "image"
    REGISTRY = "registry"
    OCI = "oci"
    DOCKER = "docker"
    LOCAL = "local"
    TAR = "tar"
    CACHEONLY = "cacheonly"


class Compression(StrEnum):
    """How newly made layer blobs are stored (O34)."""

    GZIP = "gzip"
    ZSTD = "zstd"
    UNCOMPRESSED = "uncompressed"


@value
class OutputSpec:
    """One `--output`.

    dest: a path, "-" for standard output, "" for outputs without one.
    compression_level: None means the compression's own default.
    """

    type: OutputType
    dest: str = ""
    names: tuple[Reference, ...] = ()
    push: bool = False
    tar: bool = True
    oci_mediatypes: bool = True
    compression: Compression = Compression.GZIP
    compression_level: int | None = None
    force_compression: bool = False

    @property
    def to_stdout(self) -> bool:
        """Whether this output takes standard output."""
        return self.dest == STDOUT


_COMPRESSION = ("oci-mediatypes", "compression", "compression-level", "force-compression")
_KEYS: Mapping[OutputType, tuple[str, ...]] = {
    OutputType.IMAGE: ("name", "push", *_COMPRESSION),
    OutputType.REGISTRY: ("name", "push", *_COMPRESSION),
    OutputType.OCI: ("dest", "name", "tar", *_COMPRESSION),
    OutputType.DOCKER: ("dest", "name", "tar", *_COMPRESSION),
    OutputType.LOCAL: ("dest",),
    OutputType.TAR: ("dest",),
    OutputType.CACHEONLY: (),
}
_KNOWN = frozenset({"type", *(key for keys in _KEYS.values() for key in keys)})
_NOT_YET = frozenset(
    [
        "attestation-inline",
        "attestation-prefix",
        "context",
        "dangling-name-prefix",
        "danging-name-empty-only",
        "mode",
        "name-canonical",
        "oci-artifact",
        "platform-split",
        "prefer-nondist-layers",
        "push-by-digest",
        "registry.insecure",
        "rewrite-timestamp",
        "source-date-epoch",
        "store",
        "unpack",
    ]
)
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_MAX_LEVEL = {Compression.GZIP: 9, Compression.ZSTD: 22, Compression.UNCOMPRESSED: 0}


def parse_output(text: str) -> OutputSpec:
    """Read one `--output` value: RFC 4180 fields of key=value, a bare path, or "-".

    A bare path is `type=local,dest=PATH`; "-" is `type=tar,dest=-`.

    Raises:
        UsageError: malformed, an unknown type or key, or options that contradict each other.
    """
    fields = _split(text)
    if len(fields) == 1 and fields[0] == text and not _is_attribute(text):
        if text == STDOUT:
            return OutputSpec(OutputType.TAR, STDOUT)
        return OutputSpec(OutputType.LOCAL, text)
    attributes = _attributes(text, fields)
    type_ = _type(attributes.pop("type", ""), text)
    for key in attributes:
        _check_key(type_, key)
    return _spec(type_, attributes)


def check_outputs(outputs: Sequence[OutputSpec]) -> None:
    """Refuse outputs that would write over each other (O43).

    Raises:
        UsageError: two outputs share standard output or a destination.
    """
    seen: set[str] = set()
    for output in outputs:
        if not output.dest:
            continue
        if output.dest in seen:
            where = "standard output" if output.to_stdout else repr(output.dest)
            msg = f"only one output can be written to {where}"
            raise UsageError(msg, hint="give each output its own dest=")
        seen.add(output.dest)


def _split(text: str) -> list[str]:
    import csv  # noqa: PLC0415 - only needed when outputs are given

    if not text:
        msg = "empty output"
        raise UsageError(msg, hint="write a directory, or type=oci,dest=FILE")
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        msg = f"invalid output {text[:100]!r}: {error}"
        raise UsageError(msg, hint='quote a field holding a comma: "name=a,b"') from error
    return rows[0]


def _is_attribute(text: str) -> bool:
    key, equals, _ = text.partition("=")
    return bool(equals) and key.strip().lower() in _KNOWN | _NOT_YET


def _attributes(text: str, fields: Iterable[str]) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals or not key:
            msg = f"invalid output {text[:100]!r}: field {field[:60]!r} is not key=value"
            raise UsageError(msg)
        if key in attributes:
            msg = f"invalid output {text[:100]!r}: {key!r} is given twice"
            raise UsageError(msg)
        attributes[key] = value
    return attributes


def _type(value: str, text: str) -> OutputType:
    if not value:
        msg = f"output {text[:100]!r} has no type"
        raise UsageError(msg, hint=f"add type= one of {', '.join(OutputType)}")
    if value not in tuple(OutputType):
        msg = f"unknown output type {value[:40]!r}"
        raise UsageError(msg, hint=_suggestion(value, tuple(OutputType)))
    return OutputType(value)


def _check_key(type_: OutputType, key: str) -> None:
    allowed = _KEYS[type_]
    if key in allowed:
        return
    if key in _NOT_YET or key.startswith("annotation"):
        msg = f"output option {key[:40]!r} is not supported yet"
        raise UsageError(msg)
    if key in _KNOWN:
        msg = f"output type {str(type_)!r} has no option {key!r}"
    else:
        msg = f"unknown output option {key[:40]!r}"
    raise UsageError(msg, hint=_suggestion(key, ("type", *allowed)))


def _suggestion(word: str, choices: Sequence[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - for the error path only

    close = get_close_matches(word, choices, n=1)
    if close:
        return f"did you mean {str(close[0])!r}?"
    return f"known here: {', '.join(choices)}"


def _spec(type_: OutputType, attributes: Mapping[str, str]) -> OutputSpec:
    tar = _flag(attributes, "tar", default=True)
    compression = _compression(attributes.get("compression", Compression.GZIP))
    push = _flag(attributes, "push", default=type_ is OutputType.REGISTRY)
    if type_ is OutputType.REGISTRY and not push:
        msg = "output type 'registry' always pushes"
        raise UsageError(msg, hint="use type=image,push=false")
    names = _names(attributes.get("name", ""))
    return OutputSpec(
        type=type_,
        dest=_dest(type_, attributes.get("dest", ""), tar=tar),
        names=names,
        push=push,
        tar=tar,
        oci_mediatypes=_flag(attributes, "oci-mediatypes", default=True),
        compression=compression,
        compression_level=_level(attributes.get("compression-level", ""), compression),
        force_compression=_flag(attributes, "force-compression", default=False),
    )


def _dest(type_: OutputType, dest: str, *, tar: bool) -> str:
    if "\0" in dest:
        msg = "output dest holds a NUL byte"
        raise UsageError(msg)
    if type_ in {OutputType.IMAGE, OutputType.REGISTRY, OutputType.CACHEONLY}:
        return ""
    directory = type_ is OutputType.LOCAL or not tar
    if directory and not dest:
        msg = f"output type {str(type_)!r} needs a directory"
        raise UsageError(msg, hint="add dest=DIRECTORY")
    if directory and dest == STDOUT:
        msg = f"output type {str(type_)!r} to a directory cannot go to standard output"
        raise UsageError(msg, hint="use type=tar,dest=-, or type=oci with tar=true")
    return dest or STDOUT


def _names(value: str) -> tuple[Reference, ...]:
    names: list[Reference] = []
    for text in value.split(",") if value else ():
        try:
            name = Reference.parse(text.strip())
        except InvalidDocumentError as error:
            raise UsageError(error.message, hint=error.hint) from error
        if name.digest is not None:
            msg = f"output name {text.strip()[:100]!r} cannot hold a digest"
            raise UsageError(msg, hint="the digest is a result; give a tag")
        if name not in names:
            names.append(name)
    return tuple(names)


def _flag(attributes: Mapping[str, str], key: str, *, default: bool) -> bool:
    value = attributes.get(key)
    if value is None:
        return default
    if value not in _TRUE | _FALSE:
        msg = f"output option {key!r} is not true or false: {value[:40]!r}"
        raise UsageError(msg)
    return value in _TRUE


def _compression(value: str) -> Compression:
    if value not in tuple(Compression):
        msg = f"unknown compression {value[:40]!r}"
        raise UsageError(msg, hint=_suggestion(value, tuple(Compression)))
    return Compression(value)


def _level(value: str, compression: Compression) -> int | None:
    if not value:
        return None
    top = _MAX_LEVEL[compression]
    if not (value.isascii() and value.isdigit() and len(value) <= 2 and int(value) <= top):  # noqa: PLR2004 - two digits
        msg = f"compression-level {value[:20]!r} is not a number from 0 to {top} for {compression}"
        raise UsageError(msg)
    return int(value)
