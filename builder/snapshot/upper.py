"""From an overlayfs upper directory to layer entries, in time proportional to the change.

Owns the walk and the decision what counts as a change. It must not know of mounts, snapshots
or tar bytes. Entries come parents first, names in byte order, so equal changes give equal layers.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from builder.errors import SandboxError
from builder.snapshot import attributes
from builder.snapshot.lower import is_whiteout, read_up_to
from builder.snapshot.recorded import AS_THEY_ARE, RecordedFiles
from cache.archive.entry import MAX_NAME, MAX_PATH, OPAQUE, WHITEOUT, Entry, Kind, decode
from cache.archive.mould import make_entry
from cache.errors import ArchiveError

if TYPE_CHECKING:
    from builder.snapshot.attributes import Attributes
    from builder.snapshot.lower import LowerDir
    from cache.layers import LayerWriter

Statuses = tuple[os.stat_result, os.stat_result]  # as the image has it, as the kernel says

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_SMALL = 1 << 20  # bytes; files up to this size are handed over in one piece
_BLOCK = 1 << 20
_LONGEST = MAX_PATH - 64  # bytes of a path; the rest is for the prefix it is looked up under
_HIDDEN = WHITEOUT.encode()

# Looking up an enum's member takes a while; these are needed for every file.
_REGULAR, _CHAR, _BLOCK_DEVICE = Kind.FILE, Kind.CHAR, Kind.BLOCK
_PERMISSIONS = 0o7777

_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}


def write_upper(
    upper_fd: int, lower: LowerDir, writer: LayerWriter, recorded: RecordedFiles = AS_THEY_ARE
) -> None:
    """Write what an upper directory changes about its lower as a layer's entries.

    What was recorded of files beside the directory replaces what the kernel says of them.

    Raises:
        ArchiveError: a name that would read as a whiteout, or a path over the limit.
        SandboxError: the directory changes meanwhile, or is no complete upper.
    """
    Walk(lower, writer, recorded).run(upper_fd)


class Frame:
    """A directory being read: `todo` are its names in reverse, `entry` waits for a change."""

    __slots__ = ("below", "entry", "identity", "path", "todo")

    def __init__(self, path: bytes, status: os.stat_result, *, below: bool) -> None:
        """Begin a directory."""
        self.path = path
        self.identity = (status.st_dev, status.st_ino)
        self.below = below  # whether the lower side shows through here
        self.entry: Entry | None = None
        self.todo: list[bytes] = []


class Walk:
    """One pass over an upper directory, with one open directory whatever the depth."""

    def __init__(
        self, lower: LowerDir, writer: LayerWriter, recorded: RecordedFiles = AS_THEY_ARE
    ) -> None:
        """Read what `lower` lacks into `writer`."""
        self._recorded = recorded
        self._lower = lower
        self._writer = writer
        self._stack: list[Frame] = []
        self._written = 0  # frames of the stack whose entry need not be written any more
        self._links: dict[tuple[int, int], str] = {}
        self._fd = -1
        self._proc = b""

    def run(self, upper_fd: int) -> None:
        """Walk from the root."""
        self._enter(os.open(b".", _DIRECTORY, dir_fd=upper_fd))
        try:
            root = os.fstat(self._fd)
            frame = Frame(b"", root, below=True)
            self.push(frame)
            self._root(root)
            while self._stack:
                frame = self._stack[-1]
                if frame.todo:
                    self.visit(frame, frame.todo.pop())
                else:
                    self._leave()
        finally:
            os.close(self._fd)

    def _root(self, status: os.stat_result) -> None:
        """The root's own entry: only for what a layer can set, as its mtime changes always."""
        found = self._recorded.attributes(self._fd, status)
        status = self._recorded.shown(status)
        lower = self._lower.lstat(b"")
        if lower is not None:
            same = _rights(status) == _rights(lower) and found.xattrs == self._lower.xattrs(b"")
        else:
            same = _rights(status) == (0o755, 0, 0) and not found.xattrs
        if not same:
            self.emit(_entry(b"", Kind.DIRECTORY, status, found))

    def replaced(self, path: bytes, status: os.stat_result) -> bool:
        """Whether a directory is another one than the lower's of that path, without saying so."""
        del path, status
        return False

    def _enter(self, descriptor: int) -> None:
        self._fd = descriptor
        self._proc = b"/proc/self/fd/%d/" % descriptor

    def push(self, frame: Frame) -> None:
        """Begin to read the directory that is open."""
        self.begin(frame, [os.fsencode(name) for name in os.listdir(self._fd)])

    def begin(self, frame: Frame, names: list[bytes]) -> None:
        """Go through these names of the directory that is open."""
        names.sort(reverse=True)
        frame.todo = names
        self._stack.append(frame)

    def _leave(self) -> None:
        self._stack.pop()
        self._written = min(self._written, len(self._stack))
        if not self._stack:
            return
        parent = os.open(b"..", _DIRECTORY, dir_fd=self._fd)
        os.close(self._fd)
        self._enter(parent)
        status = os.fstat(parent)
        if (status.st_dev, status.st_ino) != self._stack[-1].identity:
            msg = f"{_show(self._stack[-1].path)} was moved while it was read"
            raise SandboxError(msg)

    def visit(self, frame: Frame, name: bytes) -> None:
        """Look at one name of a directory."""
        path = frame.path + b"/" + name if frame.path else name
        status = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        check_name(path, name)
        if is_whiteout(status):
            if frame.below and self._lower.lstat(path) is not None:
                self.emit(whiteout(frame.path, path, name), b"")
            return
        self.take(path, name, status, self._lower.lstat(path) if frame.below else None)

    def take(
        self, path: bytes, name: bytes, status: os.stat_result, lower: os.stat_result | None
    ) -> None:
        """Write what changed about a path and, for a directory, go on below it."""
        real, status = status, self._recorded.shown(status)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            return  # a socket: it means nothing without the process that listened
        if kind is Kind.DIRECTORY:
            self._directory(path, name, (status, real), lower)
        else:
            self._other(path, name, kind, (status, real), lower)

    def _directory(
        self, path: bytes, name: bytes, statuses: Statuses, lower: os.stat_result | None
    ) -> None:
        status, real = statuses
        child = os.open(name, _DIRECTORY, dir_fd=self._fd)
        os.close(self._fd)
        self._enter(child)
        found = self._recorded.attributes(child, real)
        entry = _entry(path, Kind.DIRECTORY, status, found)
        below = lower is not None and stat.S_ISDIR(lower.st_mode)
        opaque = found.opaque or (below and self.replaced(path, real))
        frame = Frame(path, real, below=below and not opaque)
        if lower is not None and frame.below and self._same(path, status, lower, found):
            frame.entry = entry  # written only if something below it changed
        else:
            self.emit(entry)
            if below and opaque:
                self.emit(_marker(path + b"/" + OPAQUE.encode()), b"")
        self.push(frame)

    def _other(
        self,
        path: bytes,
        name: bytes,
        kind: Kind,
        statuses: Statuses,
        lower: os.stat_result | None,
    ) -> None:
        status, real = statuses
        if kind is Kind.FILE and lower is not None and self._unchanged(path, name, statuses, lower):
            return  # copied up by an open for writing that wrote nothing, or by a new link to it
        if status.st_nlink > 1:
            key = (status.st_dev, status.st_ino)
            first = self._links.get(key)
            if first is not None:
                found = attributes.NONE
                self.emit(_entry(path, Kind.HARDLINK, status, found, linkname=first))
                return
            self._links[key] = decode(path)
        if kind is Kind.FILE:
            self._file(path, name, statuses)
            return
        found = self._recorded.attributes(self._proc + name, real)
        text = os.readlink(name, dir_fd=self._fd) if kind is Kind.SYMLINK else b""
        if lower is not None and self._same(path, status, lower, found):
            if kind is Kind.SYMLINK:
                if self._lower.readlink(path) == text:
                    return
            elif status.st_rdev == lower.st_rdev:
                return
        self.emit(_entry(path, kind, status, found, linkname=decode(text)))

    def _unchanged(
        self, path: bytes, name: bytes, statuses: Statuses, lower: os.stat_result
    ) -> bool:
        """Whether a file is the lower's; links between the two are not part of a layer (R11)."""
        status, real = statuses
        if status.st_size != lower.st_size or not _same_status(status, lower):
            return False
        descriptor = os.open(name, _FILE, dir_fd=self._fd)
        try:
            found = self._recorded.attributes(descriptor, real)
            same = self._same(path, status, lower, found)
            return same and self._same_content(path, descriptor)
        finally:
            os.close(descriptor)

    def _file(self, path: bytes, name: bytes, statuses: Statuses) -> None:
        status, real = statuses
        descriptor = os.open(name, _FILE, dir_fd=self._fd)
        try:
            found = self._recorded.attributes(descriptor, real)
            entry = _entry(path, Kind.FILE, status, found)
            if status.st_size <= _SMALL:
                self.emit(entry, read_up_to(descriptor, status.st_size))
                return
            self._flush()
            os.lseek(descriptor, 0, os.SEEK_SET)
            with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as payload:
                self._writer.add(entry, payload)
        finally:
            os.close(descriptor)

    def _same(
        self, path: bytes, status: os.stat_result, lower: os.stat_result, found: Attributes
    ) -> bool:
        """Whether type and metadata are the lower's."""
        return _same_status(status, lower) and found.xattrs == self._lower.xattrs(path)

    def _same_content(self, path: bytes, descriptor: int) -> bool:
        with self._lower.open(path) as read:
            while True:
                block = read_up_to(descriptor, _BLOCK)
                if block != read(_BLOCK):
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    return False
                if not block:
                    return True

    def _flush(self) -> None:
        """Write the entries of the directories above, now that something below changed."""
        for frame in self._stack[self._written :]:
            if frame.entry is not None:
                self._writer.add(frame.entry)
                frame.entry = None
        self._written = len(self._stack)

    def emit(self, entry: Entry, payload: bytes | None = None) -> None:
        """Write an entry, and first those of the directories above it."""
        self._flush()
        self._writer.add(entry, payload)


def _entry(
    path: bytes, kind: Kind, status: os.stat_result, found: Attributes, *, linkname: str = ""
) -> Entry:
    is_device = kind is _CHAR or kind is _BLOCK_DEVICE
    return make_entry(
        decode(path),
        kind,
        status.st_mode & _PERMISSIONS,
        status.st_uid,
        status.st_gid,
        status.st_size if kind is _REGULAR else 0,
        status.st_mtime_ns,
        linkname,
        (os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        found.xattrs,
        -1,
    )


def _same_status(status: os.stat_result, lower: os.stat_result) -> bool:
    """Whether type, mode, owner and time are equal."""
    return (
        status.st_mtime_ns == lower.st_mtime_ns
        and status.st_mode == lower.st_mode
        and status.st_uid == lower.st_uid
        and status.st_gid == lower.st_gid
    )


def _marker(path: bytes) -> Entry:
    """A whiteout or opaque marker, always the same but for its path."""
    return Entry(decode(path), Kind.FILE, mode=0)


def whiteout(parent: bytes, path: bytes, name: bytes) -> Entry:
    """The entry that says a name is gone.

    Raises:
        ArchiveError: the name is too long for that.
    """
    if len(name) + len(_HIDDEN) > MAX_NAME:
        msg = f"{_show(path)}: a layer cannot record the deletion of so long a name"
        raise ArchiveError(msg, hint=f"names up to {MAX_NAME - len(_HIDDEN)} bytes can be deleted")
    return _marker((parent + b"/" if parent else b"") + _HIDDEN + name)


def _rights(status: os.stat_result) -> tuple[int, int, int]:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def check_name(path: bytes, name: bytes) -> None:
    """Refuse names that mean something else in a layer, or are too long for one.

    Raises:
        ArchiveError: such a name.
    """
    if name.startswith(_HIDDEN):
        msg = f"{_show(path)}: names that begin with {WHITEOUT} cannot be stored in an image layer"
        raise ArchiveError(msg, hint="such names mean deletions in layers; use another name")
    if len(path) > _LONGEST:
        msg = f"path of {len(path)} bytes is over the limit of {_LONGEST}: {_show(path[:60])}..."
        raise ArchiveError(msg)


def _show(path: bytes) -> str:
    return repr("/" + os.fsdecode(path))
