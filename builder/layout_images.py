"""Base images from OCI layouts on disk: `oci-layout://directory[:tag][@digest]` (S07, T92).

Takes an image into the store, every document and layer verified, so that what the layout says
tomorrow does not matter. Which names mean which layout is not known here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from builder.errors import ExportError, UsageError
from builder.export.blobsource import DirectorySource
from builder.export.importer import read_document, take_image
from builder.export.layout import FULL_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME
from builder.registry.platforms import is_image, rank, shown
from cache.errors import ContentNotFoundError, InvalidDocumentError
from cache.spec import oci
from cache.spec.digest import Digest
from cache.spec.manifest import Index
from cache.spec.oci import Descriptor
from cache.value import value
from frontend.dockerfile.contexts import LAYOUT

if TYPE_CHECKING:
    from cache.content import ContentStore
    from cache.spec.manifest import Image
    from cache.spec.oci import Platform

_DEFAULT_TAG = "latest"
_MAX_NESTING = 4  # indexes within indexes
_MAX_LISTED = 8  # names in a hint


@value
class LayoutReference:
    """A layout's directory and which of its images; `tag` is "" where none was written."""

    path: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> LayoutReference:
        """Read `oci-layout://directory[:tag][@digest]`.

        Raises:
            UsageError: no directory, or no digest after the @.
        """
        place, at, digest = text.removeprefix(LAYOUT).partition("@")
        path, _, tag = place.partition(":")
        if not path:
            msg = f"invalid OCI layout {text[:100]!r}: it names no directory"
            raise UsageError(msg, hint=f"write {LAYOUT}DIRECTORY[:TAG][@DIGEST]")
        return cls(path, tag, Digest.parse(digest) if at else None)


def layout_image(text: str, platform: Platform, content: ContentStore) -> Image:
    """Take the image of a layout that fits a platform into the store.

    Raises:
        ExportError: the directory is no layout; ContentNotFoundError: it has no such image.
        PybuildError: a document, digest or size is not what it must be.
    """
    reference = LayoutReference.parse(text)
    try:
        directory = os.open(reference.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        msg = f"cannot read the OCI layout {reference.path!r}: {(error.strerror or '').lower()}"
        raise ExportError(msg, hint="look at --build-context") from error
    try:
        source = DirectorySource(directory, reference.path)
        index = _index(source, reference.path)
        entry = _by_digest(source, index, reference) or _by_tag(index, reference)
        manifest = _for_platform(source, content, entry, platform, reference)
        image = take_image(source, content, manifest)
    finally:
        os.close(directory)
    if image is None:
        msg = f"{reference.path!r}: {entry.digest} is no image"
        raise ContentNotFoundError(msg)
    return image


def _index(source: DirectorySource, path: str) -> Index:
    data = source.document(INDEX_FILE)
    if data is None or source.document(LAYOUT_FILE) is None:
        msg = f"{path!r} is not an OCI layout: it has no {LAYOUT_FILE} or no {INDEX_FILE}"
        raise ExportError(msg, hint="make one with -o type=oci,tar=false,dest=DIRECTORY")
    return Index.from_json(data)


def _by_digest(
    source: DirectorySource, index: Index, reference: LayoutReference
) -> Descriptor | None:
    """Find the entry of a digest; it need not be in the index."""
    digest = reference.digest
    if digest is None:
        return None
    known = next((entry for entry in index.manifests if entry.digest == digest), None)
    if known is not None:
        return known
    path = f"blobs/{digest.algorithm}/{digest.hex}"
    data = source.document(path)
    if data is None:
        msg = f"{reference.path!r} has no image {digest}"
        raise ContentNotFoundError(msg, hint=_named(index))
    kind = oci.load_object(data, path).get("mediaType")
    media_type = kind if isinstance(kind, str) else oci.OCI_MANIFEST
    return Descriptor(media_type, digest, len(data))


def _by_tag(index: Index, reference: LayoutReference) -> Descriptor:
    """Find the entry of a tag, by full name or by reference name, else the only one there is."""
    tag = reference.tag or _DEFAULT_TAG
    for annotation in (FULL_NAME, REF_NAME):
        for entry in index.manifests:
            if entry.annotations.get(annotation) == tag:
                return entry
    if len(index.manifests) == 1:
        return index.manifests[0]
    msg = f"OCI layout {reference.path!r} has no image with the tag {tag[:100]!r}"
    raise ContentNotFoundError(msg, hint=_named(index))


def _named(index: Index) -> str:
    names = [entry.annotations.get(REF_NAME, "") for entry in index.manifests]
    known = ", ".join(dict.fromkeys(name[:60] for name in names[:_MAX_LISTED] if name))
    return f"its tags are {known}" if known else "none of its images has a tag; give @sha256:…"


def _for_platform(
    source: DirectorySource,
    content: ContentStore,
    entry: Descriptor,
    platform: Platform,
    reference: LayoutReference,
) -> Descriptor:
    """Follow indexes to the manifest that fits best."""
    for _ in range(_MAX_NESTING):
        if entry.media_type not in oci.INDEX_TYPES:
            return entry
        index = Index.from_json(read_document(source, content, entry), entry.media_type)
        nested = [below for below in index.manifests if below.media_type in oci.INDEX_TYPES]
        images = [below for below in index.manifests if is_image(below)]
        ranked = [
            (n, below) for below in images if (n := rank(below.platform, platform)) is not None
        ]
        if not ranked and len(nested) == 1 and not images:
            entry = nested[0]
            continue
        if not ranked:
            offered = ", ".join(shown(below.platform) for below in images[:_MAX_LISTED])
            msg = f"OCI layout {reference.path!r}: no match for platform {platform}"
            raise ContentNotFoundError(msg, hint=f"it has {offered or 'no images'}")
        entry = min(ranked, key=lambda pair: pair[0])[1]
    msg = f"{reference.path!r}: index nests deeper than {_MAX_NESTING}"
    raise InvalidDocumentError(msg)
