"""The grammar of `--output`: from option text to an OutputSpec; opens nothing and builds nothing."""

from __future__ import annotations

from builder.errors import UsageError
from builder.export.annotation import Annotation, AnnotationType, annotation_of
from builder.export.attribute import attributes_of, flag, level_of, names_of, split, suggestion
from builder.export.output import STDOUT, Compression, Naming, OutputSpec, OutputType, Times
from builder.request import parse_epoch
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_FORM = (
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    "rewrite-timestamp",
    "source-date-epoch",
    # What follows shapes attestations and non-distributable layers, which no result has.
    "oci-artifact",
    "attestation-inline",
    "prefer-nondist-layers",
)
_IMAGE = (
    "name",
    "push",
    "push-by-digest",
    "registry.insecure",
    "name-canonical",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "store",
    "unpack",
    *_FORM,
)
_TREE = ("dest", "platform-split", "source-date-epoch", "attestation-prefix")
_KEYS: Mapping[OutputType, tuple[str, ...]] = {
    OutputType.IMAGE: _IMAGE,
    OutputType.REGISTRY: _IMAGE,
    OutputType.OCI: ("dest", "name", "tar", *_FORM),
    OutputType.DOCKER: ("dest", "name", "tar", *_FORM),
    OutputType.LOCAL: ("mode", *_TREE),
    OutputType.TAR: _TREE,
    OutputType.CACHEONLY: (),
}
_KNOWN = frozenset({"type", *(key for keys in _KEYS.values() for key in keys)})
_REFUSED: Mapping[str, str] = {
    "context": "there is no daemon to load the image into; give dest=FILE",
    "buildinfo": "build information is no longer written by any builder",
    "buildinfo-attrs": "build information is no longer written by any builder",
}
_MAX_LEVEL = {Compression.GZIP: 9, Compression.ZSTD: 22, Compression.UNCOMPRESSED: 22}


def parse_output(text: str) -> OutputSpec:
    """Read one `--output` value: RFC 4180 fields of key=value, a bare path, or "-".

    A bare path is `type=local,dest=PATH`; "-" is `type=tar,dest=-`.

    Raises:
        UsageError: malformed, an unknown type or key, or options that contradict each other.
    """
    fields = split(text)
    if len(fields) == 1 and fields[0] == text and not _is_attribute(text):
        if text == STDOUT:
            return OutputSpec(OutputType.TAR, STDOUT)
        return OutputSpec(OutputType.LOCAL, text)
    attributes = attributes_of(text, fields)
    type_ = _type(attributes.pop("type", ""), text)
    annotations = _annotations(attributes)
    for key in attributes:
        _check_key(type_, key)
    return _spec(type_, attributes, annotations)


def _is_attribute(text: str) -> bool:
    key, equals, _ = text.partition("=")
    key = key.strip().lower()
    return bool(equals) and (key in _KNOWN or key in _REFUSED or key.startswith("annotation"))


def _annotations(attributes: dict[str, str]) -> tuple[Annotation, ...]:
    """Take the annotations out of the attributes."""
    found: list[Annotation] = []
    for key in [key for key in attributes if key.startswith("annotation")]:
        annotation = annotation_of(key, attributes[key])
        if annotation is None:
            msg = f"unknown output option {key[:40]!r}"
            raise UsageError(msg, hint="write annotation.KEY=VALUE or annotation-index.KEY=VALUE")
        found.append(annotation)
        del attributes[key]
    return tuple(found)


def _type(value: str, text: str) -> OutputType:
    if not value:
        msg = f"output {text[:100]!r} has no type"
        raise UsageError(msg, hint=f"add type= one of {', '.join(OutputType)}")
    if value not in tuple(OutputType):
        msg = f"unknown output type {value[:40]!r}"
        raise UsageError(msg, hint=suggestion(value, tuple(OutputType)))
    return OutputType(value)


def _check_key(type_: OutputType, key: str) -> None:
    allowed = _KEYS[type_]
    if key in allowed:
        return
    if key in _REFUSED:
        msg = f"output option {key!r} is not supported"
        raise UsageError(msg, hint=_REFUSED[key])
    if key in _KNOWN:
        msg = f"output type {str(type_)!r} has no option {key!r}"
    else:
        msg = f"unknown output option {key[:40]!r}"
    raise UsageError(msg, hint=suggestion(key, ("type", *allowed)))


def _spec(
    type_: OutputType, attributes: Mapping[str, str], annotations: tuple[Annotation, ...]
) -> OutputSpec:
    tar = flag(attributes, "tar", default=True)
    compression = _compression(attributes.get("compression", Compression.GZIP))
    push = flag(attributes, "push", default=type_ is OutputType.REGISTRY)
    if type_ is OutputType.REGISTRY and not push:
        msg = "output type 'registry' always pushes"
        raise UsageError(msg, hint="use type=image,push=false")
    level = level_of(attributes.get("compression-level", ""), _MAX_LEVEL[compression])
    return OutputSpec(
        type=type_,
        dest=_dest(type_, attributes.get("dest", ""), tar=tar),
        names=names_of(attributes.get("name", "")),
        push=push,
        tar=tar,
        oci_mediatypes=_oci_types(attributes, annotations),
        compression=compression,
        compression_level=level,
        force_compression=flag(attributes, "force-compression", default=False),
        annotations=annotations,
        times=_times(attributes),
        naming=_naming(attributes, push=push),
        delete=_deletes(attributes.get("mode", "")),
        platform_split=(
            flag(attributes, "platform-split", default=False)
            if "platform-split" in attributes
            else None
        ),
    )


def _oci_types(attributes: Mapping[str, str], annotations: Sequence[Annotation]) -> bool:
    oci_types = flag(attributes, "oci-mediatypes", default=True)
    artifact = flag(attributes, "oci-artifact", default=False)
    for key in ("attestation-inline", "prefer-nondist-layers"):
        flag(attributes, key, default=False)
    if artifact and not oci_types:
        msg = 'exporter option "oci-artifact=true" conflicts with "oci-mediatypes=false"'
        raise UsageError(msg, hint="leave one of them out")
    if not oci_types and any(one.type is not AnnotationType.MANIFEST for one in annotations):
        msg = 'cannot export annotations with "oci-mediatypes=false"'
        raise UsageError(msg, hint="leave oci-mediatypes out, or annotate the manifest only")
    return oci_types


def _times(attributes: Mapping[str, str]) -> Times:
    given = attributes.get("source-date-epoch")
    rewrite = flag(attributes, "rewrite-timestamp", default=False)
    if rewrite and flag(attributes, "unpack", default=False):
        msg = 'exporter option "rewrite-timestamp" conflicts with "unpack"'
        raise UsageError(msg, hint="leave one of them out")
    return Times(given is not None, parse_epoch(given), rewrite)


def _naming(attributes: Mapping[str, str], *, push: bool) -> Naming:
    by_digest = flag(attributes, "push-by-digest", default=False)
    if by_digest and push:
        _check_untagged(attributes.get("name", ""))
    return Naming(
        by_digest=by_digest,
        canonical=flag(attributes, "name-canonical", default=False),
        insecure=flag(attributes, "registry.insecure", default=False),
        store=flag(attributes, "store", default=True),
        unpack=flag(attributes, "unpack", default=False),
        dangling=attributes.get("dangling-name-prefix", ""),
        dangling_only_empty=flag(attributes, "danging-name-empty-only", default=False),
    )


def _check_untagged(names: str) -> None:
    for name in names.split(","):
        if ":" in name.rpartition("/")[2]:
            msg = f"can't push tagged ref {name.strip()[:100]} by digest"
            raise UsageError(msg, hint="leave the tag out of name=, or leave out push-by-digest")


def _deletes(text: str) -> bool:
    mode = text.strip().lower()
    if mode not in {"", "copy", "delete"}:
        msg = f"invalid local exporter mode {text[:40]!r}"
        raise UsageError(msg, hint="write mode=copy or mode=delete")
    return mode == "delete"


def _dest(type_: OutputType, dest: str, *, tar: bool) -> str:
    if "\0" in dest:
        msg = "output dest holds a NUL byte"
        raise UsageError(msg)
    if type_ in {OutputType.IMAGE, OutputType.REGISTRY, OutputType.CACHEONLY}:
        return ""
    if type_ is OutputType.DOCKER and tar and not dest:
        return ""  # loaded: into the local store
    directory = type_ is OutputType.LOCAL or not tar
    if directory and not dest:
        msg = f"output type {str(type_)!r} needs a directory"
        raise UsageError(msg, hint="add dest=DIRECTORY")
    if directory and dest == STDOUT:
        msg = f"output type {str(type_)!r} to a directory cannot go to standard output"
        raise UsageError(msg, hint="use type=tar,dest=-, or type=oci with tar=true")
    return dest or STDOUT


def _compression(value: str) -> Compression:
    if value in {"estargz", "nydus"}:
        msg = f"compression {value!r} is not supported"
        raise UsageError(msg, hint=f"use one of {', '.join(Compression)}")
    if value not in tuple(Compression):
        msg = f"unknown compression {value[:40]!r}"
        raise UsageError(msg, hint=suggestion(value, tuple(Compression)))
    return Compression(value)
