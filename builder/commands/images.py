"""`pybuild images`: what the local store holds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from builder import state as states
from builder.arguments import parser
from builder.progress.text import harmless, human_size
from cache.errors import PybuildError
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache.images import Named

_SECOND = 1_000_000_000
_HEAD = ("NAME", "TAG", "IMAGE ID", "CREATED", "SIZE")
_SHORT = 12
_AGES = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print one line for each name; with -q the image IDs only."""
    options = parser("images")
    options.add_argument("-q", "--quiet", action="store_true")
    chosen = options.parse_args(list(argv))
    with states.opened(states.locate(environ, chosen.root)) as state:
        rows = [row for named in state.images.list() for row in _rows(state, named)]
    if chosen.quiet:
        sys.stdout.write("".join(f"{row[2]}\n" for row in dict.fromkeys(rows)))
        return 0
    table = [_HEAD, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("   ".join(cells).rstrip() + "\n")
    return 0


def _rows(state: states.State, named: Named) -> list[tuple[str, ...]]:
    try:
        stored = state.images.load(named.manifest)
    except PybuildError:
        return []  # its documents are gone or damaged: `prune` drops it
    blobs = {layer.blob.digest: layer.blob for image in stored.images for layer in image.layers}
    size = sum(blob.size for blob in blobs.values())
    tail = (stored.id.hex[:_SHORT], _age(named.created), human_size(size))
    names = [Reference.parse(name) for name in named.names]
    shown = [(name.familiar.rpartition(":")[0], name.tag or "") for name in names]
    return [(harmless(name), tag, *tail) for name, tag in shown or [("<none>", "<none>")]]


def _age(created: int) -> str:
    seconds = max(0, (time.time_ns() - created) // _SECOND)
    for length, unit in _AGES:
        count = seconds // length
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
