"""Extended attributes of context files that belong into an image.

Owns the choice (K01, A17, A19); must not know trees or archives.
"""

from __future__ import annotations

import os

_CAPABILITY = "security.capability"
_OVERLAY = "user.overlay."  # bookkeeping of rootless overlay mounts
_VERSION_3 = 0x03000000  # a capability bound to one user namespace: 20 bytes and a root uid
_VERSION_2 = 0x02000000
_SIZE_2 = 20

Xattrs = tuple[tuple[str, bytes], ...]


def read_xattrs(directory: int, name: str) -> Xattrs:
    """Read `user.*` and the file capability of a name in an open directory, links not followed.

    What cannot be read is left out, as the reference does (C11).
    """
    path = f"/proc/self/fd/{directory}/{name}".encode("utf-8", "surrogateescape")
    try:
        names = os.listxattr(path, follow_symlinks=not name)
    except OSError:
        return ()
    if not names:
        return ()
    pairs = []
    for key in sorted(names):
        if key == _CAPABILITY or (key.startswith("user.") and not key.startswith(_OVERLAY)):
            try:
                value = os.getxattr(path, key, follow_symlinks=not name)
            except OSError:
                continue
            pairs.append((key, _portable(value) if key == _CAPABILITY else value))
    return tuple(pairs)


def _portable(value: bytes) -> bytes:
    """Reduce a capability bound to a namespace to one that is not."""
    magic = int.from_bytes(value[:4], "little")
    if magic & 0xFF000000 != _VERSION_3:
        return value
    flags = magic & 0x00FFFFFF
    return (_VERSION_2 | flags).to_bytes(4, "little") + value[4:_SIZE_2]
