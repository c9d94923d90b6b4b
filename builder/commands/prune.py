"""`pybuild prune`: free what no named image and no recent record needs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from builder import state as states
from builder.arguments import parser
from builder.progress.text import human_size
from builder.pruning import prune

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Prune; `--all` also drops every record, cache mount and damaged blob. Prints what was freed."""
    options = parser("prune")
    options.add_argument("-a", "--all", action="store_true")
    options.add_argument("-f", "--force", action="store_true", help="accepted: nothing is asked")
    chosen = options.parse_args(list(argv))
    everything, root = chosen.all, states.locate(environ, chosen.root)
    with states.opened(root, exclusive=True, repair=everything) as state:
        freed = prune(state, everything=everything)
    sys.stdout.write(f"freed {human_size(freed)}\n")
    return 0
