"""What modules of a cached build need of `typing`, which takes longer to load than ten of them.

A type checker sees `typing` itself. At run time annotations are text, protocols are ordinary
classes, and the rest does nothing. Must not hold anything that decides at run time.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import (
        Any,
        BinaryIO,
        NewType,
        Protocol,
        Self,
        assert_never,
        cast,
        dataclass_transform,
    )
else:
    Any = BinaryIO = Self = Protocol = object

    def NewType(name: str, kind: type) -> type:  # noqa: N802 - the name type checkers know
        """The type itself."""
        del name
        return kind

    def assert_never(value: object) -> object:
        """Fail: a type checker was to prove that this is never reached."""
        msg = f"unexpected {value!r}"
        raise AssertionError(msg)

    def cast(kind: object, value: object) -> object:
        """The value as it is."""
        del kind
        return value

    def dataclass_transform(**_: object) -> object:
        """A decorator that leaves its function as it is."""
        return lambda function: function


__all__ = [
    "TYPE_CHECKING",
    "Any",
    "BinaryIO",
    "NewType",
    "Protocol",
    "Self",
    "assert_never",
    "cast",
    "dataclass_transform",
]
