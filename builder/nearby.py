"""What a Dockerfile that is missing may be called, or where it lies. Looks at names only."""

from __future__ import annotations

import os

_MAX_NAMES = 2000  # of a directory that are looked at
_MAX_SHOWN = 4
_USUAL = ("dockerfile", "containerfile")


def advice(context: str, name: str, path: str) -> str:
    """Say what to type instead of a `path` that is not there.

    `name` is what -f gave, empty when it gave nothing: then it is a path from here, not from the
    context.
    """
    if name and not os.path.isabs(name):
        within = os.path.join(context, name)
        if os.path.isfile(within):
            return f"-f is a path from the current directory: -f {os.path.normpath(within)}"
    close = _close(os.path.dirname(path), os.path.basename(path))
    if not close:
        return "name it with -f, or change to its directory"
    return f"did you mean -f {', or -f '.join(close)}?"


def _close(directory: str, wanted: str) -> list[str]:
    """Files of the directory whose names are Dockerfiles' or like the one wanted."""
    from difflib import get_close_matches  # noqa: PLC0415 - for this only

    try:
        with os.scandir(directory or ".") as listing:
            files = [
                entry.name
                for _, entry in zip(range(_MAX_NAMES), listing, strict=False)
                if entry.is_file()
            ]
    except OSError:
        return []
    near = get_close_matches(wanted, files, n=1, cutoff=0.8)
    usual = [name for name in sorted(files) if name.lower().startswith(_USUAL)]
    usual = [name for name in usual if not name.endswith(".dockerignore")]
    found = list(dict.fromkeys([*near, *usual]))
    return [os.path.join(directory, name) for name in found[:_MAX_SHOWN]]
