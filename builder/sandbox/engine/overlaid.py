"""Records of a step whose root is an overlay: they outlive copy-up, and end as the upper's.

An overlay shows a file of a lower by the lower's inode number until the file is copied up, and
from then on by the upper's; which one is seen after a copy-up depends on what the kernel still
remembers. So a record is known by both numbers. Modes are the kernel's, only a device's type is
recorded.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import kernel
from builder.sandbox.engine.records import KEPT, Key, Record, Records, is_device, key_of, touch
from builder.sandbox.engine.view import fd_path
from builder.sandbox.spec import Recorded
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_REFERENCE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_COPIED = "user.overlay.origin"  # what overlayfs leaves on what it copied up
_MARKED = (stat.S_ISREG, stat.S_ISDIR)  # what can have it
_NO_NAMES = frozenset({b"", b".", b".."})
_MOST_PLAIN = 100_000  # paths remembered
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class OverlaidRecords(Records):
    """Records by the inodes that the merged tree shows."""

    def __init__(self, root_fd: int, upper_fd: int, started: int) -> None:
        """`started` is a change time that nothing in the lowers is after."""
        super().__init__(0, 0)
        self._upper_fd = upper_fd
        self._root_fd = root_fd
        self.device = os.fstat(root_fd).st_dev
        self.started = started
        self._seeds: dict[bytes, Recorded] = {}
        self._lower: set[Key] = set()  # numbers of lowers: no upper has them
        self._twins: dict[Key, Key] = {}  # the other number of a file that was copied up
        self._names: set[bytes] = set()  # last parts of what recorded inodes are called
        self._givers: set[Key] = set()  # directories of another group, which their files get
        self._linked: set[bytes] = set()  # seeded names of files with several, not yet gone
        self._bound: dict[bytes, Key] = {}  # by name, in trees that are mounted
        self._remembers = True
        self._plain: set[bytes] = set()  # paths of directories known to be none of these

    def seed(self, root_fd: int, seeds: Iterable[Recorded]) -> None:
        """Record owners and devices; everything else is as it is meant to be."""
        for known in seeds:
            seed = _without_mode(known)
            name = os.fsencode(known.name)
            self._seeds[name] = seed
            self.called(name)
            try:
                status = os.stat(name, dir_fd=root_fd, follow_symlinks=False)
            except OSError:
                continue
            key = (status.st_dev, status.st_ino)
            if status.st_dev != self.device:
                continue  # something is mounted there
            _fill(self.make(key), seed)
            if status.st_ctime_ns < self.started:
                self._lower.add(key)
                if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                    self._linked.add(name)
            self.note_group(key, status)

    def seed_bound(
        self, path: bytes, status: os.stat_result, known: Recorded, can_go: bool
    ) -> None:
        """Record the same of a file of a mounted tree; `can_go` where the tree can be changed.

        Such a tree may lie on several file systems: the numbers of its directories last only as
        long as the kernel remembers them, so that they are known by name, too.
        """
        key = (status.st_dev, status.st_ino)
        _fill(self.make(key), _without_mode(known))
        self._bound[path] = key
        self.called(path)
        if not can_go:
            self._lower.add(key)
        self.note_group(key, status)

    def known(self, fd: int) -> Record | None:
        """What is recorded of the inode of an fd."""
        return self.known_by(fd, os.fstat(fd))

    def known_by(self, fd: int, status: os.stat_result) -> Record | None:
        """What is recorded of the inode of an fd that has this status."""
        record = self.get((status.st_dev, status.st_ino))
        if record is None and self._bound and status.st_dev != self.device:
            return self._renumbered(fd, (status.st_dev, status.st_ino))
        if record is not None or status.st_ctime_ns < self.started or not self._seeds:
            return record
        return self._adopt(fd, status)

    def is_plain(self, status: os.stat_result) -> bool:
        """Whether nothing is recorded of a file, as far as its status can say."""
        if (status.st_dev, status.st_ino) in self._table:
            return False
        if self._bound and status.st_dev != self.device:
            return False
        return status.st_ctime_ns < self.started or not self._seeds

    def settle(self, fd: int) -> Key:
        """Have a file copied up, unchanged, before something is recorded of it; its number."""
        shown, status = key_of(fd)
        self.known_by(fd, status)
        name = os.readlink(fd_path(fd))
        self.called(name)
        if stat.S_ISLNK(status.st_mode):
            touch(fd)
        else:
            os.chmod(fd_path(fd), stat.S_IMODE(status.st_mode))
        if status.st_dev == self.device:
            upper = self._upper(name[1:] or b".")
            if upper is not None and upper.st_ino != status.st_ino:
                key = (self.device, upper.st_ino)
                if status.st_nlink > 1 and key_of(fd)[0] == key:
                    return self._split(shown, key)
                self._join(shown, key)
        elif self._bound:
            self._alias(shown, key_of(fd)[0])
        return shown

    def called(self, path: bytes) -> None:
        """Something that is recorded has this name now."""
        self._names.add(path.rpartition(b"/")[2])

    def linked(self, fd: int) -> bytes:
        """The name of a file that a lower has by several names, as it is seeded; or nothing."""
        name = os.readlink(fd_path(fd))[1:]
        return name if name in self._linked else b""

    @property
    def has_links(self) -> bool:
        """Whether there are any such."""
        return bool(self._linked)

    def gone(self, name: bytes) -> None:
        """What has this name from now on is another file."""
        self._linked.discard(name)

    def may_be(self, path: bytes) -> bool:
        """Whether the name at the end of a path, not followed, may be of something recorded."""
        name = path.rpartition(b"/")[2]
        return name in self._names or name in _NO_NAMES

    @property
    def gives_groups(self) -> bool:
        """Whether any directory gives its group to what is made in it."""
        return bool(self._givers)

    def give_group(self, key: Key) -> None:
        """A directory gives its group to what is made in it from now on."""
        self._givers.add(key)
        self._plain.clear()

    def gives_none(self, directory: bytes) -> bool:
        """Whether a directory was noted to be plain, by this path."""
        return directory in self._plain

    def note_plain(self, directory: bytes) -> None:
        """A directory gives its group to nothing."""
        if self._remembers and len(self._plain) < _MOST_PLAIN:
            self._plain.add(directory)

    def roots_differ(self) -> None:
        """From now on a path does not mean the same to every process."""
        self._remembers = False
        self._plain.clear()

    def note_group(self, key: Key, status: os.stat_result) -> None:
        """Remember whether what is made in a directory gets its group."""
        record = self.get(key)
        inherits = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISGID
        if inherits and record is not None and record.gid > 0:
            self.give_group(key)

    def forget(self, key: Key) -> None:
        """The last name of an inode is gone; its number may come back."""
        for number in (key, self._twins.pop(key, key)):
            self._twins.pop(number, None)
            self._lower.discard(number)
            super().forget(number)

    @property
    def seeded(self) -> Iterable[bytes]:
        """The names of what was seeded, from the root."""
        return self._seeds.keys()

    @property
    def is_bound(self) -> bool:
        """Whether anything is recorded in trees that are mounted."""
        return bool(self._bound)

    @property
    def can_return(self) -> bool:
        """Whether anything is recorded by a number that may become another file's."""
        return self.count > len(self._lower)

    def usable(self, wanted: int, needed: int) -> int:
        """Modes are the kernel's."""
        del needed
        return wanted

    def told(self) -> Iterator[Recorded]:
        """Everything that differs from what the files say themselves, by the upper's inodes."""
        device = os.fstat(self._upper_fd).st_dev
        found = {
            key[1]: record
            for key, record in self
            if key[0] == self.device and key not in self._lower
        }
        for inode, seed in self._copied():
            found.setdefault(inode, _fill(Record(), seed))
        for inode, record in found.items():
            if record != Record():
                yield _told(device, inode, record)

    def _renumbered(self, fd: int, key: Key) -> Record | None:
        """Look whether a file of a mounted tree is one that was seeded by another number."""
        first = self._bound.get(os.readlink(fd_path(fd)))
        record = None if first is None else self.get(first)
        if first is not None and record is not None:
            self._alias(first, key)
        return record

    def _alias(self, first: Key, key: Key) -> None:
        if first != key:
            self.put(key, self.make(first))
            self._twins[first], self._twins[key] = key, first

    def _copied(self) -> Iterator[tuple[int, Recorded]]:
        """Upper inodes of seeded files that were copied up without our knowing."""
        missing = b""
        for name in sorted(self._seeds):
            if missing and name.startswith(missing):
                continue
            status = self._upper(name)
            if status is None:
                missing = self._missing(name) + b"/"
            elif self._is_copy(name, status):
                yield status.st_ino, self._seeds[name]

    def _missing(self, name: bytes) -> bytes:
        """The topmost part of a path that the upper does not have."""
        parts = name.split(b"/")
        for count in range(1, len(parts)):
            if self._upper(b"/".join(parts[:count])) is None:
                return b"/".join(parts[:count])
        return name

    def _adopt(self, fd: int, status: os.stat_result) -> Record | None:
        """Look whether a changed file is one that was seeded, known by a new number."""
        name = os.readlink(fd_path(fd))[1:] or b"."
        seed = self._seeds.get(name)
        if seed is None or status.st_dev != self.device:
            return None
        upper = self._upper(name)
        if upper is None or not self._is_copy(name, upper):
            return None
        shown = (status.st_dev, status.st_ino)
        record = _fill(self.make(shown), seed)
        if upper.st_ino != status.st_ino:
            self._join(shown, (self.device, upper.st_ino))
        return record

    def _is_copy(self, name: bytes, status: os.stat_result) -> bool:
        """Whether the upper's file of a seeded name is the lower's, copied up.

        The kernel does not mark one with several names, of which only this one was copied up.
        """
        if name in self._linked:
            return True
        try:
            if any(is_kind(status.st_mode) for is_kind in _MARKED):
                fd = kernel.open_in(self._upper_fd, name, _REFERENCE)
                try:
                    os.getxattr(fd_path(fd), _COPIED)
                finally:
                    os.close(fd)
                return True
            merged = os.stat(name, dir_fd=self._root_fd, follow_symlinks=False)
        except OSError:
            return False
        return (merged.st_dev, merged.st_ino) in self._lower

    def _upper(self, name: bytes) -> os.stat_result | None:
        try:
            fd = kernel.open_in(self._upper_fd, name, _REFERENCE)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def _split(self, lower: Key, upper: Key) -> Key:
        """One of several names of a file was copied up: it is a file by itself from now on."""
        record = self.get(lower)
        if record is not None:
            self.put(upper, replace(record, xattrs=dict(record.xattrs)))
        return upper

    def _join(self, lower: Key, upper: Key) -> None:
        """Let what is recorded be known by both numbers."""
        self._lower.add(lower)
        self.put(upper, self.make(lower))
        self._twins[lower], self._twins[upper] = upper, lower

    def _mode(self, record: Record, actual: int) -> int:
        """Only the type is ours."""
        return actual if record.mode == KEPT else stat.S_IFMT(record.mode) | stat.S_IMODE(actual)


def _without_mode(known: Recorded) -> Recorded:
    """Modes and attributes are the kernel's, unless it is a device."""
    return replace(known, mode=known.mode if is_device(known.mode) else KEPT, xattrs=())


def _fill(record: Record, seed: Recorded) -> Record:
    record.uid, record.gid, record.mode = seed.uid, seed.gid, seed.mode
    record.device = os.makedev(*seed.device)
    return record


def _told(device: int, inode: int, record: Record) -> Recorded:
    numbers = os.major(record.device), os.minor(record.device)
    return Recorded(f"{device}:{inode}", record.uid, record.gid, record.mode, numbers)
