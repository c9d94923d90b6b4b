"""Landlock around a step without namespaces: only its tree, no signals or sockets to others.

Kernels without it, or with less of it, give what they have: the calls the engine answers are
confined anyway, this is for those the step makes itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every machine
_VERSION = 1
_PATH_BENEATH = 1
_ALL = (1 << 16) - 1
# Access rights of each version of the interface; later ones add bits.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: _ALL}
_EXECUTE_AND_READ = 0b1101  # execute, read file, read directory
_FILE_ONLY = 0b1_0000_0000_0000_0111 | 1 << 14 | 1 << 15  # rights that make sense for a file
_MOVES = 2  # the version that knows moves between directories
_SCOPED = 6  # the version with scopes: abstract sockets and signals

_SYSCALL = ctypes.CDLL(None, use_errno=True).syscall
_SYSCALL.restype = ctypes.c_long


def _call(number: int, *arguments: Any) -> int:
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return int(_SYSCALL(ctypes.c_long(number), *wide))


def ruleset(writable: Sequence[bytes], readable: Sequence[bytes]) -> int | None:
    """An fd of rules that confine who takes them on; None where the kernel has none."""
    version = _call(_CREATE, None, 0, _VERSION)
    if version < 1:
        return None
    rights = _RIGHTS.get(min(version, 5), _ALL)
    attributes = struct.pack("=QQQ", rights, 0, 0b11 if version >= _SCOPED else 0)
    size = 24 if version >= _SCOPED else 16 if version >= 4 else 8  # noqa: PLR2004 - fields per version
    rules = _call(_CREATE, attributes, size, 0)
    if rules < 0:
        return None
    for paths, allowed in ((writable, rights), (readable, rights & _EXECUTE_AND_READ)):
        for path in paths:
            _allow(rules, path, allowed)
    return rules


def ruleset_for_all(paths: Sequence[bytes]) -> int | None:
    """The same for paths which may be used in every way.

    For who makes all calls on files itself: none where moving files between directories could not
    be allowed, as before the second version.
    """
    if _call(_CREATE, None, 0, _VERSION) < _MOVES:
        return None
    return ruleset(paths, ())


def restrict(rules: int | None) -> bool:
    """Confine this thread and its children; whether the kernel could. Closes the fd.

    Needs no_new_privs or the right to do without.
    """
    if rules is None:
        return False
    try:
        return _call(_RESTRICT, rules, 0) == 0
    finally:
        os.close(rules)


def _allow(ruleset: int, path: bytes, rights: int) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.path.isdir(f"/proc/self/fd/{fd}"):
                rights &= _FILE_ONLY
            _call(_ADD, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
        finally:
            os.close(fd)
