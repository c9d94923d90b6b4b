"""Which of an index's images fits a platform best. Owns the order; does no I/O."""

from __future__ import annotations

from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING
from cache.spec import oci
from cache.spec.oci import Platform

if TYPE_CHECKING:
    from cache.spec.oci import Descriptor

# What a machine of a variant can run, best first (as containerd orders it).
_VARIANTS = {
    "arm": ("v8", "v7", "v6", "v5"),
    "amd64": ("v4", "v3", "v2", ""),
    "arm64": ("v9", ""),
}
_NO_PLATFORM = 100  # after every stated one
_ATTESTATION = "vnd.docker.reference.type"


def normal(platform: Platform) -> Platform | None:
    """A platform as our names have it; None for one that is not known."""
    try:
        known = Platform.parse(f"{platform.os}/{platform.architecture}")
        if platform.variant:
            known = Platform.parse(f"{platform.os}/{platform.architecture}/{platform.variant}")
    except InvalidDocumentError:
        return None
    return known


def rank(offered: Platform | None, wanted: Platform) -> int | None:
    """How well an image fits: 0 is exact, None is not at all."""
    if offered is None:
        return _NO_PLATFORM
    known, wanted = normal(offered), normal(wanted) or wanted
    if known is None or (known.os, known.architecture) != (wanted.os, wanted.architecture):
        return None
    if known.variant == wanted.variant:
        return 0
    order = _VARIANTS.get(wanted.architecture, ())
    if wanted.variant not in order or known.variant not in order:
        return None
    distance = order.index(known.variant) - order.index(wanted.variant)
    return distance if distance > 0 else None


def is_image(entry: Descriptor) -> bool:
    """Whether an index entry is an image: no nested index, no attestation, no artifact."""
    if entry.media_type not in oci.MANIFEST_TYPES or _ATTESTATION in entry.annotations:
        return False
    platform = entry.platform
    return platform is None or (platform.os, platform.architecture) != ("unknown", "unknown")


def shown(platform: Platform | None) -> str:
    """A platform of an index for a message."""
    known = normal(platform) if platform is not None else None
    return str(known) if known is not None else "an unknown platform"
