"""--cache-from and --cache-to: texts to places, by the rules of docker's own. Reads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.flags import FALSE, TRUE
from builder.flagvalues import comma_fields
from builder.request import CachePlace
from cache.errors import PybuildError
from cache.spec.reference import Reference
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

_FROM, _TO = "--cache-from", "--cache-to"
_ELSEWHERE = {
    "inline": "type=registry,ref=NAME,mode=min keeps the image itself as it is",
    "gha": "write type=local,dest=DIRECTORY and keep that with the job's own cache step",
    "s3": "use type=registry, or type=local and copy the directory",
    "azblob": "use type=registry, or type=local and copy the directory",
}
_WRITING = frozenset(
    {"mode", "compression", "compression-level", "force-compression", "ignore-error",
     "oci-mediatypes", "image-manifest"}
)  # fmt: skip
_KEYS = {
    (_FROM, "registry"): frozenset({"ref"}),
    (_FROM, "local"): frozenset({"src", "tag", "digest"}),
    (_TO, "registry"): _WRITING | {"ref"},
    (_TO, "local"): _WRITING | {"dest", "tag"},
}
_COMPRESSIONS = ("gzip", "zstd", "uncompressed")
_MAX_LEVEL = 22  # zstd's


def parse_cache_from(text: str) -> tuple[CachePlace, ...]:
    """Read `NAME[,NAME...]`, `type=registry,ref=NAME` or `type=local,src=DIRECTORY[,tag=][,digest=]`.

    Raises:
        UsageError: not such a text, or a type that is not supported.
    """
    return _places(_FROM, text, "src")


def parse_cache_to(text: str) -> tuple[CachePlace, ...]:
    """Read `NAME`, `type=registry,ref=NAME` or `type=local,dest=DIRECTORY`, with `mode=min|max` and more.

    Raises:
        UsageError: not such a text, or a type that is not supported.
    """
    return _places(_TO, text, "dest")


def _places(flag: str, text: str, directory: str) -> tuple[CachePlace, ...]:
    fields = comma_fields(flag, text)
    if not any("=" in field for field in fields):
        return tuple(CachePlace(local=False, place=_name(flag, field)) for field in fields)
    given = _attributes(flag, text, fields)
    kind = given.pop("type", "")
    if kind in _ELSEWHERE:
        msg = f"{flag} type={kind} is not supported"
        raise UsageError(msg, hint=_ELSEWHERE[kind])
    allowed = _KEYS.get((flag, kind))
    if allowed is None:
        msg = f"invalid {flag} {text[:100]!r}: no type {kind[:40]!r}"
        raise UsageError(msg, hint="the types are registry and local")
    unknown = next((key for key in given if key not in allowed), "")
    if unknown:
        msg = f"invalid {flag} {text[:100]!r}: type={kind} has no {unknown[:40]!r}"
        raise UsageError(msg, hint=f"it has {', '.join(sorted(allowed))}")
    local = kind == "local"
    place = given.get(directory if local else "ref", "")
    if not place:
        msg = f"invalid {flag} {text[:100]!r}: no {directory if local else 'ref'}"
        raise UsageError(msg, hint=f"write {flag} type={kind},{directory if local else 'ref'}=…")
    tag = f"@{given['digest']}" if "digest" in given else given.get("tag", "")
    if not local:
        place = _name(flag, place)
    return (_formed(flag, CachePlace(local, place, tag), given),)


def _attributes(flag: str, text: str, fields: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            msg = f"invalid {flag} {text[:100]!r}: {field[:60]!r} is not key=value"
            raise UsageError(msg, hint=f"write {flag} type=registry,ref=NAME")
        given[key.lower()] = value
    return given


def _name(flag: str, text: str) -> str:
    try:
        return str(Reference.parse(text))
    except PybuildError as error:
        msg = f"invalid {flag} {text[:100]!r}: {error.message}"
        raise UsageError(msg, hint=error.hint) from error


def _formed(flag: str, place: CachePlace, given: Mapping[str, str]) -> CachePlace:
    """Say how what is written looks."""
    mode = given.get("mode") or "min"
    compression = given.get("compression") or "gzip"
    level = given.get("compression-level", "")
    if mode not in {"min", "max"}:
        msg = f"invalid {flag} mode {mode[:40]!r}"
        raise UsageError(
            msg, hint="mode=min keeps the result's layers, mode=max those of every step"
        )
    if compression not in _COMPRESSIONS:
        msg = f"invalid {flag} compression {compression[:40]!r}"
        raise UsageError(msg, hint=f"one of {', '.join(_COMPRESSIONS)}")
    if level and not (level.isascii() and level.isdigit() and int(level[:9]) <= _MAX_LEVEL):
        msg = f"invalid {flag} compression-level {level[:40]!r}"
        raise UsageError(msg, hint="write a small number, such as 3")
    if not _truth(flag, given, "image-manifest", default=True):
        msg = f"{flag} image-manifest=false: a cache is kept as an image here"
        raise UsageError(msg, hint="leave it out")
    return replace(
        place,
        everything=mode == "max",
        compression=compression,
        level=int(level) if level else None,
        force=_truth(flag, given, "force-compression"),
        oci_types=_truth(flag, given, "oci-mediatypes", default=True),
        ignore_error=_truth(flag, given, "ignore-error"),
    )


def _truth(flag: str, given: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    text = given.get(key)
    if text is None:
        return default
    if text not in TRUE | FALSE:
        msg = f"invalid {flag} {key}={text[:40]!r}"
        raise UsageError(msg, hint="write true or false")
    return text in TRUE
