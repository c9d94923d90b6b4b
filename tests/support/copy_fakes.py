"""Trees and a layer writer in memory, for the tests of COPY, ADD and WORKDIR."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
import zlib

from builder.context.source import join, resolve
from builder.solver.copy_op import write_copy
from cache.archive.entry import Entry, Kind
from frontend.graph import CopyOp, PathSource

OLD = 1_600_000_000

DIR = Kind.DIRECTORY


class FakeTree:
    """A SourceTree from a table: path -> text, None for a directory, "-> x" for a link, or Entry."""

    def __init__(self, table=None, *, groups=None, hidden=()):
        self.lasting = None
        self.place = "fake"
        self.known = {}
        self._data = {}
        self._entries = {"": Entry("", DIR, 0o755)}
        self._groups = groups or {}
        self._hidden = set(hidden)
        self.reads = 0
        for path, what in (table or {}).items():
            self.add(path, what)

    def add(self, path, what):
        above = path.rpartition("/")[0]
        while above and above not in self._entries:
            self._entries[above] = Entry(above, DIR, 0o755)
            above = above.rpartition("/")[0]
        if what is None:
            self._entries[path] = Entry(path, DIR, 0o755)
        elif isinstance(what, tuple):
            entry, data = what
            self._entries[path] = entry
            self._data[path] = data
        elif isinstance(what, Entry):
            self._entries[path] = what
        elif isinstance(what, str) and what.startswith("-> "):
            self._entries[path] = Entry(path, Kind.SYMLINK, 0o777, linkname=what[3:])
        else:
            data = what if isinstance(what, bytes) else what.encode()
            self._entries[path] = Entry(path, Kind.FILE, 0o644, size=len(data), mtime=7)
            self._data[path] = data

    def get(self, path, /):
        return self._entries.get(path)

    def children(self, path, /):
        prefix = f"{path}/" if path else ""
        return sorted(
            p[len(prefix) :]
            for p in self._entries
            if p and p.startswith(prefix) and "/" not in p[len(prefix) :]
        )

    def entries(self, path, /):
        return [self.get(join(path, name)) for name in self.children(path)]

    def resolve(self, path, /, *, follow_last=True):
        return resolve(self.get, path, follow_last=follow_last)

    @contextlib.contextmanager
    def open(self, path, /):
        yield io.BytesIO(self._data[path])

    def read(self, path, /):
        self.reads += 1
        return self._data[path]

    def digest(self, path, /):
        self.reads += 1
        return hashlib.sha256(self._data[path]).digest()

    def known_digest(self, path, /):
        return self.known.get(path)

    def group(self, path, /):
        return self._groups.get(path)

    def fingerprint(self, path, /):
        rows = [(p, e, self._data.get(p)) for p, e in sorted(self._entries.items())]
        return repr((path, zlib.crc32(repr(rows).encode()))).encode()

    def trusted(self, path, /):
        return True

    def hidden(self, path, /):
        return path in self._hidden


class FakeWriter:
    """Keeps what a layer would hold and checks the rules of a layer tar."""

    def __init__(self):
        self.entries = {}
        self.data = {}

    def add(self, entry, payload=None):
        assert entry.path, "the root is never an entry"
        assert entry.path not in self.entries, "each path once"
        self.entries[entry.path] = entry
        if entry.kind is Kind.FILE:
            data = payload if isinstance(payload, bytes) else payload.read()
            assert len(data) == entry.size
            self.data[entry.path] = data
        elif entry.kind is Kind.HARDLINK:
            assert entry.linkname in self.data, "a hardlink follows its target"

    def commit(self):
        raise AssertionError("the caller commits")

    def shape(self):
        """Path -> a short text: what it is and what is in it."""
        return {path: self.describe(path) for path in self.entries}

    def describe(self, path):
        entry = self.entries[path]
        if entry.kind is Kind.FILE:
            return self.data[path].decode()
        if entry.kind is Kind.SYMLINK:
            return f"-> {entry.linkname}"
        if entry.kind is Kind.HARDLINK:
            return f"= {entry.linkname}"
        return entry.kind.value

    def mode(self, path):
        return oct(self.entries[path].mode)

    def owner(self, path):
        return (self.entries[path].uid, self.entries[path].gid)


def write(root, path, text="x", mode=0o644):
    """Make a file and its parents."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)
    os.utime(target, (OLD, OLD))
    return target


def settle():
    """Let the files made so far become older than a clock tick."""
    time.sleep(0.05)


def copied(context, pattern, dest="/x/"):
    """Copy from a context onto nothing."""
    writer = FakeWriter()
    op = CopyOp((PathSource(1, pattern),), dest)
    write_copy(op, FakeTree(), {1: context}, {}, writer, created_mtime=5)
    return writer
