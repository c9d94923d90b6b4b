"""Typed access to decoded JSON: every mistake names the document and the field."""

from __future__ import annotations

from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Mapping


@value
class Fields:
    """A JSON object and where it stands; null and absent fields read as the default."""

    value: Mapping[str, object]
    where: str

    def _wrong(self, name: str, want: str) -> InvalidDocumentError:
        return InvalidDocumentError(f"{self.where}: field {name!r} is not {want}")

    def text(self, name: str, default: str = "") -> str:
        """Read a string."""
        value = self.value.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._wrong(name, "a string")
        return value

    def integer(self, name: str, default: int = 0) -> int:
        """Read a non-negative 63-bit integer; booleans and floats are refused."""
        value = self.value.get(name)
        if value is None:
            return default
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise self._wrong(name, "an integer from 0 to 2^63-1")
        return value

    def flag(self, name: str) -> bool:
        """Read a boolean."""
        value = self.value.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self._wrong(name, "a boolean")
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Read a list of strings; None when absent or null."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(name, "a list of strings")
        return tuple(value)

    def text_map(self, name: str) -> dict[str, str]:
        """Read an object of strings."""
        value = self.value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            raise self._wrong(name, "an object of strings")
        return dict(value)

    def names(self, name: str) -> tuple[str, ...]:
        """Read the keys of an object, sorted (ExposedPorts, Volumes)."""
        value = self.value.get(name)
        if value is None:
            return ()
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return tuple(sorted(value))

    def child(self, name: str) -> Fields | None:
        """Read an object; None when absent or null."""
        value = self.value.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return Fields(value, f"{self.where}.{name}")

    def children(self, name: str) -> tuple[Fields, ...]:
        """Read a list of objects."""
        value = self.value.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(name, "a list of objects")
        return tuple(Fields(item, f"{self.where}.{name}[{i}]") for i, item in enumerate(value))
