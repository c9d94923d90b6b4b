"""Where the program of an OCI runtime is. Must not know how it is used."""

from __future__ import annotations

import os

from builder.errors import HostUnsupportedError

_PACKAGE = "crun"


def find(name: str) -> str:
    """The path of a runtime, given its name or path.

    Raises:
        HostUnsupportedError: there is none.
    """
    paths = [name] if "/" in name else [f"{place}/{name}" for place in os.get_exec_path()]
    path = next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), "")
    if not path:
        raise HostUnsupportedError(
            f'the OCI runtime "{name[:100]}" is not installed',
            hint=f"install it, such as apt install {_PACKAGE}, or leave out --runtime",
        )
    return os.path.abspath(path)
