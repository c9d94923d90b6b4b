"""`pybuild doctor`: what this host allows a RUN, why not more, and what would change that."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from builder.arguments import parser
from builder.diagnosis import show
from builder.diagnosis.diagnose import diagnose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the diagnosis; 0 when RUN works here, else 3."""
    options = parser("doctor")
    options.add_argument("--json", action="store_true")
    chosen = options.parse_args(list(argv))
    found = diagnose(environ, root=chosen.root)
    colour = show.wants_colour(environ, sys.stdout.isatty())
    sys.stdout.write(show.as_json(found) if chosen.json else show.as_text(found, colour=colour))
    return 0 if found.tier else 3
