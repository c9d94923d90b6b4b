"""Libraries compiled from the C sources beside their Python twins, where they were compiled.

Who asks gets None where there is none, and does the work in Python. Knows nothing of what they do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_OFF = "PYBUILD_NATIVE"  # "0": as if nothing had been compiled


def library(beside: str, name: str, revision: int) -> ctypes.CDLL | None:
    """The library `name` in the directory of the module file `beside`.

    `revision` is what its function `revision()` must return: a library that was left from another
    state of the source is not used.
    """
    path = os.path.join(os.path.dirname(beside), f"{name}.so")
    if os.environ.get(_OFF) == "0" or not os.path.exists(path):
        return None
    import ctypes  # noqa: PLC0415 - not on the path of a cached build

    try:
        found = ctypes.CDLL(path, use_errno=True)
        return found if found.revision() == revision else None
    except (OSError, AttributeError):
        return None
