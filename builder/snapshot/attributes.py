"""Extended attributes as overlayfs keeps them on disk, and as a layer shows them.

Owns the bookkeeping names of overlayfs and the form of file capabilities. It must not know of
trees or of tar.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

from builder.errors import SandboxError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterable

Xattrs = tuple[tuple[str, bytes], ...]

_PREFIXES = ("user.overlay.", "trusted.overlay.")
_ESCAPED = "overlay."  # user.overlay.overlay.x on disk is user.overlay.x as the step set it
_INCOMPLETE = frozenset({"redirect", "metacopy"})  # content lies elsewhere; we never enable them
# Names that steer overlayfs. A step's own attributes of these names are left out, because a
# tool that unpacks the layer straight into an overlay directory would obey them (A17, A18).
_STEERING = frozenset(
    [
        "opaque",
        "redirect",
        "metacopy",
        "whiteout",
        "whiteouts",
        "origin",
        "impure",
        "upper",
        "nlink",
        "uuid",
        "protattr",
    ]
)
_ACLS = frozenset({"system.posix_acl_access", "system.posix_acl_default"})
_CAPABILITY = "security.capability"
_CAP_V3 = 0x03000000
_CAP_V2 = 0x02000000
_CAP_REVISION = 0xFF000000
_CAP_V2_SIZE = 20
_CAP_V3_SIZE = 24  # v2 and the host's id of the namespace's root, which must not leak


@value
class Attributes:
    """What a layer shows of a file's attributes, and whether overlayfs marked it opaque."""

    xattrs: Xattrs = ()
    opaque: bool = False


NONE = Attributes()


def read(target: int | bytes) -> Attributes:
    """Read the attributes of an open file, or of a path without following a last symlink.

    Raises:
        SandboxError: overlayfs keeps the file's content elsewhere (redirect, metacopy).
    """
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return NONE  # a file system without attributes
    if not names:
        return NONE
    return clean((name, os.getxattr(target, name, follow_symlinks=follow)) for name in names)


def clean(pairs: Iterable[tuple[str, bytes]]) -> Attributes:
    """Keep what belongs into a layer: user.*, file capabilities and ACLs.

    Labels (security.selinux and the like) are the host's and would differ from host to host.
    """
    kept: list[tuple[str, bytes]] = []
    opaque = False
    for name, data in pairs:
        prefix = next((p for p in _PREFIXES if name.startswith(p)), "")
        if prefix:
            rest = name[len(prefix) :]
            if rest in _INCOMPLETE:
                msg = f"overlay attribute {name} in an upper directory"
                raise SandboxError(msg, hint="turn redirect_dir and metacopy of overlayfs off")
            opaque = opaque or (rest == "opaque" and data == b"y")
            if not rest.startswith(_ESCAPED) or rest[len(_ESCAPED) :] in _STEERING:
                continue
            name = prefix + rest[len(_ESCAPED) :]  # noqa: PLW2901 - the name the step gave it
        if name == _CAPABILITY:
            kept.append((name, _capability(data)))
        elif name.startswith("user.") or name in _ACLS:
            kept.append((name, data))
    return Attributes(tuple(sorted(kept)), opaque)


def _capability(data: bytes) -> bytes:
    """Turn the namespaced form of file capabilities (v3) into the portable one (v2)."""
    if len(data) == _CAP_V3_SIZE:
        (magic,) = struct.unpack_from("<I", data)
        if magic & _CAP_REVISION == _CAP_V3:
            flags = magic & ~_CAP_REVISION
            return struct.pack("<I", _CAP_V2 | flags) + data[4:_CAP_V2_SIZE]
    return data
