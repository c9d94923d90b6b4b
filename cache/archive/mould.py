"""Entries by the hundred thousand: a quick constructor for readers and writers of many.

Owns a trick and its reason; everything else builds an Entry the ordinary way.
"""

from __future__ import annotations

from cache.archive.entry import Entry
from cache.hints import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from cache.archive.entry import Kind


class _Mould:
    """An unfrozen object of Entry's shape that becomes an Entry when it is filled.

    A frozen value assigns every field through its slot's descriptor, which takes three times
    as long as all else there is to do for a small tar member.
    """

    __slots__ = Entry.__slots__  # type: ignore[attr-defined] # the decorator made them

    def __init__(  # noqa: PLR0917  keywords cost time, and these are Entry's fields in order
        self,
        path: str,
        kind: Kind,
        mode: int,
        uid: int,
        gid: int,
        size: int,
        mtime: int,
        linkname: str,
        device: tuple[int, int],
        xattrs: tuple[tuple[str, bytes], ...],
        offset: int,
    ) -> None:
        self.path = path
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.mtime = mtime
        self.linkname = linkname
        self.device = device
        self.xattrs = xattrs
        self.offset = offset
        self.__class__ = Entry  # type: ignore[assignment]  # same slots, so CPython allows it


class _Maker(Protocol):
    def __call__(  # noqa: PLR0917  as above
        self,
        path: str,
        kind: Kind,
        mode: int,
        uid: int,
        gid: int,
        size: int,
        mtime: int,
        linkname: str,
        device: tuple[int, int],
        xattrs: tuple[tuple[str, bytes], ...],
        offset: int,
        /,
    ) -> Entry: ...


make_entry = cast("_Maker", _Mould)
