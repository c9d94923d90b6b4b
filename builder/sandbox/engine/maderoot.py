"""What a supervisor is told of a root that was made for its step, which it stays outside of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.sandbox.credentials import Credentials


@value
class MadeRoot:
    """A root by its fd; `owned` and `bound` are what init notes of files, `owner` who the step is."""

    fd: int
    owned: Sequence[tuple[int, int, int, int]]
    bound: Sequence[tuple[str, str, int, int]]
    stubs: tuple[tuple[str, int], ...]
    owner: Credentials
