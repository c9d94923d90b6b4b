"""`pybuild rmi`: take a name from an image; without names left the image goes too."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from builder import state as states
from builder.arguments import parser
from builder.errors import UsageError
from builder.local_image import find
from cache.errors import PybuildError
from cache.spec.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Remove; content is freed by `prune`."""
    options = parser("rmi")
    options.add_argument("image", nargs="+")
    chosen = options.parse_args(list(argv))
    with states.opened(states.locate(environ, chosen.root)) as state:
        for name in chosen.image:
            for line in _remove(state, name):
                sys.stdout.write(f"{line}\n")
    return 0


def _remove(state: states.State, text: str) -> list[str]:
    stored = find(state, text)
    lines = []
    reference = _reference(text)
    if reference is not None and state.images.untag(reference):
        lines.append(f"untagged {reference.familiar}")
        left = next(
            (n for n in state.images.list() if n.manifest.digest == stored.root.digest), None
        )
        if left is not None and left.names:
            return lines
    if all(named.manifest.digest != stored.root.digest for named in state.images.list()):
        msg = f"{text[:100]} is an index's image of one platform"
        raise UsageError(msg, hint="remove the index, whose ID `pybuild images` shows")
    state.images.remove(stored.root.digest)
    return [*lines, f"removed {stored.id}"]


def _reference(text: str) -> Reference | None:
    try:
        return Reference.parse(text)
    except PybuildError:
        return None
