"""`pybuild logout`: forget a registry's credential."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from builder.arguments import parser
from builder.remote import Network
from cache.spec.reference import DEFAULT_REGISTRY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Log out; not having been logged in is no error."""
    options = parser("logout", with_state=False)
    options.add_argument("registry", nargs="?", default=DEFAULT_REGISTRY)
    registry = options.parse_args(list(argv)).registry
    known = Network(environ).client.logout(registry)
    said = f"logged out of {registry}" if known else f"not logged in to {registry}"
    sys.stdout.write(f"{said}\n")
    return 0
