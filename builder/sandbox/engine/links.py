"""Which links of a step's tree may lead to a place: what the kernel would follow into nothing.

Keeps names, not paths: a call whose path has none of them among its parts cannot meet such a
link, which is told in no time. Too many names cost time, one too few would be wrong.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Link = tuple[bytes, bytes]  # absolute guest path, text


class Links:
    """Names of links that may lead to the places of one step; `..` is always among them.

    `hot` are these and every part of the places' own paths.
    """

    def __init__(self, places: Sequence[bytes], links: Iterable[Link]) -> None:
        """Find those of a tree's links; `places` are guest paths."""
        self.places = tuple(places)
        self._parts = {part for place in places for part in place.split(b"/") if part}
        self.names = {b".."}
        self.hot = self.names | self._parts
        rest = [(path, _target(path, text)) for path, text in links]
        while True:  # links to links
            found = {path for path, target in rest if self._leads(target)}
            if not found:
                return
            for path in found:
                self._add(path)
            rest = [pair for pair in rest if pair[0] not in found]

    def made(self, path: bytes, text: bytes) -> None:
        """A link is made at a path, which may be relative to anywhere."""
        relative = not (path.startswith(b"/") or text.startswith(b"/"))
        if self._leads(_target(path, text)) or (
            relative and not self.hot.isdisjoint(text.split(b"/"))
        ):
            self._add(path)

    def named(self, old: bytes, new: bytes) -> None:
        """What had one name gets another."""
        if posixpath.basename(old.rstrip(b"/")) in self.names:
            self._add(new)

    def _add(self, path: bytes) -> None:
        name = posixpath.basename(path.rstrip(b"/"))
        self.names.add(name)
        self.hot.add(name)

    def _leads(self, target: bytes) -> bool:
        if not self.names.isdisjoint(target.split(b"/")):
            return True
        below = target if target.endswith(b"/") else target + b"/"
        return any(
            place.startswith(below) or place == target or target.startswith(place + b"/")
            for place in self.places
        )


def _target(path: bytes, text: bytes) -> bytes:
    """Where a link leads, as far as its text tells."""
    name = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
    return name[1:] if name.startswith(b"//") else name
