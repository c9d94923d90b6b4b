"""The library that answers a step's frequent and simple calls, and hands over the others.

Binds `answers.c`, which decides as the handlers would where it is certain. What it must know of a
step is told by a mirror, anew after everything that Python did.
"""

from __future__ import annotations

import ctypes
import enum
import struct
from typing import TYPE_CHECKING, NamedTuple

from builder.sandbox import syscalls
from builder.sandbox.engine import abi, kernel
from builder.sandbox.engine.incoming import drain
from cache import native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from builder.sandbox.engine.identities import Identities
    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.records import Records

_REVISION = 5
_CALL, _HAPPENED = 0, 1
_COUNTS = frozenset({"answers_call", "answers_wait", "answers_changes"})
_MOST_CHANGES = 256
_CHANGE = struct.Struct("=3Q3q")
_STRUCT_CALL = struct.Struct("=B6bxI")
_NOTICE_SIZE = 80  # struct seccomp_notif


class Kind(enum.IntEnum):
    """What is done with a call, as in answers_step.h."""

    LIMITS = 1
    ONE_LIMIT = 2
    RIGHTS = 3
    SINGLE_STATUS = 4
    SINGLE_MAKE = 5
    SINGLE_OPEN = 6
    SINGLE_REMOVE = 7
    SINGLE_RENAME = 8
    SINGLE_LINK = 9
    SINGLE_OWN = 10
    SINGLE_EXECUTE = 11
    CHROOT_LOOK = 12
    CHROOT_RECORD = 13
    CHROOT_PAIR = 14
    CHROOT_LIMITS = 15
    EMULATE_LIMITS = 16
    EMULATE_STATUS = 17
    EMULATE_ACCESS = 18
    EMULATE_OPEN = 19
    EMULATE_CREATE = 20
    EMULATE_MKDIR = 21
    EMULATE_SYMLINK = 22
    EMULATE_LINK = 23
    EMULATE_REMOVE = 24
    EMULATE_RENAME = 25
    EMULATE_MODE = 26
    EMULATE_OWN = 27
    EMULATE_TIMES = 28


class Texts(enum.IntEnum):
    """Sets of texts, as in answers.c."""

    SEEDS = 0
    LINKS = 1
    HOT = 2


class Changed(enum.IntEnum):
    """What is to be done to a record, as in answers_step.h."""

    FORGET = 0
    OWN = 1
    MODE = 2


class Change(NamedTuple):
    """A change of a record; ids are -1 where they stay."""

    kind: Changed
    key: tuple[int, int]
    uid: int
    gid: int
    mode: int


class Call(NamedTuple):
    """How a call is looked at: positions of arguments, -1 for none; `fixed` flags it always has."""

    kind: Kind
    directory: int = -1
    path: int = -1
    flags: int = -1
    other_directory: int = -1
    other_path: int = -1
    at: int = -1
    fixed: int = 0


class Facts(NamedTuple):
    """What may change with everything that Python does; struct facts says what it means."""

    restricted: bool = False
    roots_differ: bool = False
    unsure: bool = False
    has_links: bool = False
    can_return: bool = False
    gives_groups: bool = False
    is_bound: bool = False
    has_records: bool = False
    roams: bool = False


def load() -> ctypes.CDLL | None:
    """The library, where it was compiled."""
    library = native.library(__file__, "answers", _REVISION)
    if library is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    wide = ctypes.c_uint64
    library.answers_new.argtypes, library.answers_new.restype = (number, number), pointer
    for name, arguments in {
        "answers_call": (number, ctypes.c_char_p),
        "answers_tree": (number, wide, ctypes.c_int64),
        "answers_identity": (wide, *(ctypes.c_uint32,) * 4, number),
        "answers_changes": (pointer,),
        "answers_own": (ctypes.c_uint32, ctypes.c_uint32),
        "answers_record": (wide, wide, *(ctypes.c_int64,) * 3, wide),
        "answers_forget": (wide, wide),
        "answers_text": (number, ctypes.c_char_p, ctypes.c_size_t),
        "answers_root": (ctypes.c_char_p,),
        "answers_place": (ctypes.c_char_p,),
        "answers_wait": (pointer,),
        "answers_free": (),
    }.items():
        function = getattr(library, name)  # which is kept; that of library[name] is not
        function.argtypes = (pointer, *arguments)
        function.restype = number if name in _COUNTS else None
    return library


class Answers:
    """What the library knows of one step."""

    def __init__(self, library: ctypes.CDLL, listener: int, signals: int) -> None:
        """Know nothing: every call is handed over."""
        self._library = library
        self._step = library.answers_new(listener, signals)
        if not self._step:
            raise MemoryError
        self._facts = (ctypes.c_uint32 * len(Facts._fields)).from_address(self._step)
        self._identities = 0  # told
        self._notice = bytearray(_NOTICE_SIZE)
        self._place = ctypes.addressof((ctypes.c_char * _NOTICE_SIZE).from_buffer(self._notice))
        self._wait = library.answers_wait
        self._changes = bytearray(_MOST_CHANGES * _CHANGE.size)
        self._changes_at = ctypes.addressof(
            (ctypes.c_char * len(self._changes)).from_buffer(self._changes)
        )

    def close(self) -> None:
        """Give everything back; nothing may be asked any more."""
        self._library.answers_free(self._step)

    def calls(self, known: Mapping[str, Call]) -> None:
        """How calls are looked at, by name; those that this machine has not are left out."""
        numbers = abi.abi_of(syscalls.MACHINE).numbers
        for name, how in known.items():
            if name in numbers:
                self._library.answers_call(self._step, numbers[name], _STRUCT_CALL.pack(*how))

    def tell(self, facts: Facts) -> None:
        """What holds now."""
        self._facts[:] = list(facts)

    def tree(self, root: int, device: int, started: int) -> None:
        """The tree that names are looked up in; nothing in its lowers changed after `started`."""
        self._library.answers_tree(self._step, root, device, started)

    def texts(self, which: Texts, texts: Iterable[bytes]) -> None:
        """Add to a set."""
        for text in texts:
            self._library.answers_text(self._step, which, text, len(text))

    def names(self, root: bytes, guests: Iterable[bytes]) -> None:
        """What the kernel calls the root, and the paths of places; before calls are looked at."""
        self._library.answers_root(self._step, root)
        for guest in guests:
            self._library.answers_place(self._step, guest)

    def records(self, records: Records, changed: set[tuple[int, int]]) -> None:
        """Take over what is recorded of inodes that changed, which are forgotten."""
        for key in changed:
            known = records.get(key)
            if known is None:
                self._library.answers_forget(self._step, *key)
            else:
                shown = (known.uid, known.gid, known.mode, known.device)
                self._library.answers_record(self._step, *key, *shown)
        changed.clear()

    def own(self, uid: int, gid: int) -> None:
        """Our own ids, which are shown as root's."""
        self._library.answers_own(self._step, uid, gid)

    def identities(self, identities: Identities) -> None:
        """Take over who there is; it is checked for what is new only."""
        known = identities.known
        while self._identities < len(known):
            who = known[self._identities]
            settled = who == who._replace(suid=who.euid, sgid=who.egid, keeps=False, capable=False)
            numbers = (who.ruid, who.euid, who.egid, who.umask)
            self._library.answers_identity(self._step, identities.base, *numbers, int(settled))
            self._identities += 1

    def changes(self) -> Iterator[Change]:
        """What was done to records since the last time, in order."""
        count = self._library.answers_changes(self._step, self._changes_at)
        for at in range(0, count * _CHANGE.size, _CHANGE.size):
            kind, device, inode, *rest = _CHANGE.unpack_from(self._changes, at)
            yield Change(Changed(kind), (device, inode), *rest)

    def wait(self) -> tuple[int, bytearray]:
        """Wait until something is left to Python; what, and a notification if that is a call."""
        return self._wait(self._step, self._place), self._notice


class Sifted:
    """The calls that the library leaves to Python (implements Incoming)."""

    def __init__(
        self,
        answers: Answers,
        records: Records,
        signals: int,
        mirror: Callable[[Answers], Callable[[], None]],
    ) -> None:
        """`mirror` tells the library of the step; what it returns does so again."""
        self._answers = answers
        self._records = records
        self._signals = signals
        self._refresh = mirror(answers)

    def next(self) -> Request | None:
        """Wait for a call; None when something happened to tasks instead."""
        self._refresh()
        while True:
            what, notice = self._answers.wait()
            for change in self._answers.changes():
                self._take_over(change)
            if what == _CALL:
                return kernel.request_of(notice)
            if what == _HAPPENED:
                drain(self._signals)
                return None

    def _take_over(self, change: Change) -> None:
        match change.kind:
            case Changed.FORGET:
                self._records.forget(change.key)
            case Changed.OWN:
                self._records.own(change.key, change.uid, change.gid)
            case Changed.MODE:
                self._records.make(change.key).mode = change.mode
