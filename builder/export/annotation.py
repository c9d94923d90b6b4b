"""Annotations of manifests, indexes and their descriptors: both grammars, and who gets which (O33).

Knows texts and values only; documents are written elsewhere.
"""

from __future__ import annotations

import re
from enum import StrEnum

from builder.errors import UsageError
from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING
from cache.spec.oci import Platform
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ATTRIBUTE = r"annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)\Z"
_FLAG_TYPE = r"([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?\Z"
_HINT = "write [TYPE[,TYPE][[PLATFORM]]:]KEY=VALUE, such as index,manifest:org.example.team=a"


class AnnotationType(StrEnum):
    """Which document or descriptor an annotation is put on."""

    MANIFEST = "manifest"
    MANIFEST_DESCRIPTOR = "manifest-descriptor"
    INDEX = "index"
    INDEX_DESCRIPTOR = "index-descriptor"


@value
class Annotation:
    """One annotation; `platform` None is for every platform."""

    type: AnnotationType
    key: str
    text: str
    platform: Platform | None = None


def annotation_of(key: str, text: str) -> Annotation | None:
    """Read an output attribute `annotation[-type][[platform]].KEY`; None if it is no such one.

    Raises:
        UsageError: the type or the platform is unknown.
    """
    match = re.match(_ATTRIBUTE, key)
    if match is None:
        return None
    platform = _platform(match[2] or "", key)
    return Annotation(_type(match[1] or AnnotationType.MANIFEST, key), match[3], text, platform)


def parse_annotations(texts: Iterable[str]) -> tuple[Annotation, ...]:
    """Read --annotation values, `[type[,type][[platform]]:]key=value`.

    Raises:
        UsageError: no key, or an unknown type or platform.
    """
    found: list[Annotation] = []
    for text in texts:
        head, equals, content = text.partition("=")
        if not equals:
            msg = f"invalid annotation {text[:60]!r}, expected key=value"
            raise UsageError(msg, hint=_HINT)
        types, colon, key = head.partition(":")
        if not colon:
            types, key = str(AnnotationType.MANIFEST), head
        if not key.strip():
            msg = f"invalid annotation {text[:60]!r}: the key is empty"
            raise UsageError(msg, hint=_HINT)
        for part in types.split(","):
            match = re.match(_FLAG_TYPE, part)
            if match is None:
                msg = f"invalid annotation type {part[:40]!r}, expected a type and a platform in square brackets"
                raise UsageError(msg, hint=_HINT)
            platform = _platform(match[2] or "", text)
            found.append(Annotation(_type(match[1], text), key, content, platform))
    return tuple(found)


def texts_for(
    annotations: Sequence[Annotation], type_: AnnotationType, platform: Platform | None = None
) -> dict[str, str]:
    """What goes on one document: those of every platform, then those of this one."""
    ordered = sorted(annotations, key=lambda annotation: annotation.platform is not None)
    return {
        annotation.key: annotation.text
        for annotation in ordered
        if annotation.type is type_ and annotation.platform in {None, platform}
    }


def check_annotations(
    annotations: Sequence[Annotation],
    platforms: Sequence[Platform],
    *,
    has_index: bool,
    oci_types: bool,
) -> None:
    """Refuse annotations that nothing of the result could carry.

    Without an index, those of a platform that is not built are of no consequence (O33).

    Raises:
        UsageError: of an index where there is none, of a platform that is not built, or on
            what docker's media types have no room for.
    """
    of_index = {AnnotationType.INDEX, AnnotationType.INDEX_DESCRIPTOR}
    for annotation in annotations:
        unknown = annotation.platform is not None and annotation.platform not in platforms
        if unknown and has_index:
            msg = f"invalid annotation: no platform {annotation.platform} found in source"
            raise UsageError(msg, hint=f"built are {', '.join(map(str, platforms))}")
        if not oci_types and annotation.type is not AnnotationType.MANIFEST:
            msg = 'cannot export annotations with "oci-mediatypes=false"'
            raise UsageError(msg, hint="leave oci-mediatypes out, or annotate the manifest only")
        if not has_index and annotation.type in of_index:
            msg = "index annotations not supported for single platform export"
            raise UsageError(msg, hint="annotate the manifest, or build several platforms")


def _type(text: str, where: str) -> AnnotationType:
    if text not in tuple(AnnotationType):
        msg = f"unknown annotation type {text[:40]!r} in {where[:60]!r}"
        raise UsageError(msg, hint=f"known are {', '.join(AnnotationType)}")
    return AnnotationType(text)


def _platform(text: str, where: str) -> Platform | None:
    if not text:
        return None
    try:
        return Platform.parse(text)
    except InvalidDocumentError as error:
        msg = f"invalid annotation {where[:60]!r}: {error.message}"
        raise UsageError(msg, hint=error.hint) from error
