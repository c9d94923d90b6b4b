"""Scripts for the interpreter: system calls by name, put together with the data they point to.

Must not know what the calls are for. Text of errors is the caller's; a script only knows which
of its entries stands at which address.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from builder.sandbox import interpreter
from cache.value import field, state, value

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORD = 0xFFFFFFFFFFFFFFFF
_FROM_SLOTS = 3  # how many of the arguments can come from slots


@value
class Slot:
    """An argument: what is in a slot."""

    offset: int


@value
class Label:
    """An argument: the address of a labelled entry."""

    name: str


@value
class Texts:
    """An argument: the address of a list of strings, as execve takes it."""

    items: tuple[bytes, ...]


@value
class Filter:
    """An argument: the address of a description of a seccomp filter's bytes."""

    code: bytes


Argument = int | bytes | Slot | Label | Texts | Filter

NEXT = "next"  # where an error leads that does not matter


@value
class _Entry:
    name: str
    arguments: tuple[Argument, ...]
    store: int
    on_error: str
    on_zero: str | int


@state
class Script:
    """Entries to be made into bytes once all are there."""

    entries: list[_Entry] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def call(
        self,
        name: str,
        *arguments: Argument,
        store: int = interpreter.NONE,
        on_error: str = "",
        on_zero: str | int = "",
    ) -> None:
        """Append a system call; bytes are passed by address. Errors are fatal by default.

        Elsewhere is a label, or for `on_zero` an address in another script.
        """
        self.entries.append(_Entry(name, arguments, store, on_error, on_zero))

    def label(self, name: str) -> None:
        """Name the next entry."""
        self.labels[name] = len(self.entries)

    def jump(self, label: str | Slot, left: Argument = 0, right: Argument = 0) -> None:
        """Go on elsewhere when two values are equal: at a label, or at an address in a slot."""
        self.call("jump", left, right, Label(label) if isinstance(label, str) else label)

    def store(self, slot: int, wanted: Argument) -> None:
        """Put a value into a slot."""
        self.call("store", wanted, store=slot)

    def name_at(self, base: int, address: int) -> str:
        """The call that stands at an address, "" for none of ours."""
        index = (address - base) // interpreter.ENTRY.size
        return self.entries[index].name if 0 <= index < len(self.entries) else ""

    def build(self, machine: str, base: int) -> bytes:
        """The bytes of the script for an address."""
        data = _Data(base + len(self.entries) * interpreter.ENTRY.size)
        addresses = {
            name: base + index * interpreter.ENTRY.size for name, index in self.labels.items()
        }
        parts = []
        for index, entry in enumerate(self.entries):
            following = base + (index + 1) * interpreter.ENTRY.size
            addresses[NEXT] = following
            parts.append(_packed(entry, machine, addresses, data))
        return b"".join(parts) + data.content


class _Data:
    """What arguments point to, behind the entries."""

    def __init__(self, base: int) -> None:
        self._base = base
        self.content = bytearray()

    def place(self, data: bytes) -> int:
        self.content += bytes(-len(self.content) % 8)
        address = self._base + len(self.content)
        self.content += data
        return address


def _packed(entry: _Entry, machine: str, addresses: Mapping[str, int], data: _Data) -> bytes:
    special = {"jump": interpreter.JUMP, "store": interpreter.STORE}
    number = special.get(entry.name)
    if number is None:
        number = interpreter.CALLS[entry.name][machine]
    marks, words = 0, [0] * 6
    for position, argument in enumerate(entry.arguments):
        words[position] = _word(argument, addresses, data) & _WORD
        if isinstance(argument, Slot):
            if position >= _FROM_SLOTS:
                raise ValueError(entry.name)
            marks |= 1 << position
    on_zero = entry.on_zero if isinstance(entry.on_zero, int) else _target(entry.on_zero, addresses)
    targets = (_target(entry.on_error, addresses), on_zero)
    return interpreter.ENTRY.pack(number, marks, entry.store, *targets, *words)


def _target(label: str, addresses: Mapping[str, int]) -> int:
    return addresses[label] if label else 0


def _word(argument: Argument, addresses: Mapping[str, int], data: _Data) -> int:
    match argument:
        case int():
            return argument
        case bytes():
            return data.place(argument)
        case Slot(offset):
            return offset
        case Label(name):
            return addresses[name]
        case Texts(items):
            pointers = [data.place(item + b"\0") for item in items]
            return data.place(struct.pack(f"={len(pointers) + 1}Q", *pointers, 0))
        case Filter(code):
            return data.place(struct.pack("=HxxxxxxQ", len(code) // 8, data.place(code)))
