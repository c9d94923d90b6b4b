"""Planned layers against the merged view: what a layer does is what was planned."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st
from support.copy_fakes import FakeTree, FakeWriter
from support.memory_layers import MemoryLayers

from builder.context.layered import LayerTree
from builder.context.local import LocalContext
from builder.context.source import CopyError
from builder.solver.copy_key import copy_key_parts
from builder.solver.copy_op import write_copy
from builder.solver.mkdir_op import write_mkdir
from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree
from frontend.graph import CopyOp, MkdirOp, PathSource, Unpack

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.sampled_from(["a", "/a/b", "..", "../c", "b/c"])
MEMBERS = st.lists(
    st.tuples(PATHS, st.sampled_from(["file", "dir", "link", "hard"]), PATHS | TARGETS), max_size=8
)


def tar(members):
    """A tar of generated members; the content of a file names its place in the archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("first"), None)
        for number, (name, what, target) in enumerate(members):
            info = tarfile.TarInfo(name)
            data = f"{number}".encode() if what == "file" else b""
            info.size = len(data)
            info.linkname = target if what in {"link", "hard"} else ""
            info.type = {
                "file": tarfile.REGTYPE,
                "dir": tarfile.DIRTYPE,
                "link": tarfile.SYMTYPE,
                "hard": tarfile.LNKTYPE,
            }[what]
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def layer_entries(writer):
    """What the index of the layer would say: entries in tar order."""
    return list(writer.entries.values())


def below_file(path, table):
    """Whether a path lies under something that is no directory."""
    parts = path.split("/")
    return any(
        table.get("/".join(parts[:n]), None) is not None for n in range(1, len(parts))
    ) or any(other.startswith(f"{path}/") for other in table)


def trees(draw_members):
    """A table of a consistent tree from generated members."""
    table = {}
    for number, (path, what, target) in enumerate(draw_members):
        if path in table or below_file(path, table):
            continue
        table[path] = {"dir": None, "link": f"-> {target}"}.get(what, f"base {number}")
    return table


def base_index(tree):
    """The entries of a fake tree as one layer."""
    found, pending = [], [""]
    while pending:
        path = pending.pop()
        for entry in tree.entries(path):
            found.append(entry)
            pending.append(entry.path)
    return found


class Reference:
    """Unpacks as a plain program would, on a dictionary; LookupError when it cannot."""

    def __init__(self, state):
        self.state = {"x": "dir", **state, "x/first": ""}

    def resolve(self, path, *, last=True):
        """Follow links from the root, hop by hop."""
        todo, done, hops = path.split("/")[::-1], [], 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
            elif part not in {"", "."}:
                done.append(part)
                what = self.state.get("/".join(done), "")
                if what.startswith("-> ") and (todo or last):
                    hops += 1
                    if hops > 500:
                        raise LookupError
                    done = [] if what[3:].startswith("/") else done[:-1]
                    todo += what[3:].split("/")[::-1]
        return "/".join(done)

    def mkdirs(self, path):
        """Make a directory and those above it."""
        parts = path.split("/") if path else []
        for n in range(1, len(parts) + 1):
            if self.state.setdefault("/".join(parts[:n]), "dir") != "dir":
                raise LookupError

    def add(self, number, name, what, target):
        """Unpack one member below x."""
        parent, _, last = name.rpartition("/")
        place = self.resolve(f"x/{parent}")
        self.mkdirs(place)
        path = f"{place}/{last}" if place else last
        value = {"dir": "dir", "file": str(number), "link": f"-> {target}"}.get(what)
        if value is None:
            value = self.state.get(self.resolve(f"x/{target}", last=False))
            if value in {None, "dir"}:
                raise LookupError
        if not value == "dir" == self.state.get(path):
            for other in [other for other in self.state if other.startswith(f"{path}/")]:
                del self.state[other]
        self.state[path] = value


def reference(base, members):
    """What unpacking gives, or None."""
    program = Reference(base)
    try:
        for number, member in enumerate(members):
            program.add(number, *member)
    except LookupError:
        return None
    return program.state


def shape(tree, base, writer):
    """The merged view as texts."""
    found = {}
    for node in tree.walk():
        entry = node.entry
        if not entry.path:
            continue
        if entry.kind is Kind.SYMLINK:
            found[entry.path] = f"-> {entry.linkname}"
        elif entry.kind is Kind.DIRECTORY:
            found[entry.path] = "dir"
        else:
            source = writer.data if node.layer else base._data
            found[entry.path] = source[node.group or entry.path].decode()
    return found


@settings(max_examples=400, deadline=None)
@given(MEMBERS, MEMBERS)
def test_unpacking_equals_merging(base_members, members):
    """The layer of an unpacked archive, merged onto its base, is what unpacking on it gives (A02)."""
    members = [m for m in members if m[1] != "hard" or ".." not in m[2]]
    table = {path: what for path, what in trees(base_members).items() if path != "x"}
    base = FakeTree(table)
    writer = FakeWriter()
    op = CopyOp((PathSource(1, "t"),), "/x/", unpack=Unpack.LOCAL)
    source = FakeTree({"t": tar(members)})
    before = shape(Tree.of([base_index(base)]), base, writer)
    expected = reference(before, members)
    try:
        write_copy(op, base, {1: source}, {}, writer, created_mtime=0)
    except CopyError:
        assert expected is None
        return
    merged = shape(Tree.of([base_index(base), layer_entries(writer)]), base, writer)
    assert merged == expected


@settings(max_examples=200, deadline=None)
@given(MEMBERS, MEMBERS)
def test_copying_a_stage_keeps_it(members, other):
    """COPY --from of a whole tree onto nothing is that tree; onto another, it wins where it is."""
    tree, base = FakeTree(trees(members)), FakeTree(trees(other))
    writer = FakeWriter()
    op = CopyOp((PathSource(1, "/"),), "/")
    write_copy(op, FakeTree(), {1: tree}, {}, writer, created_mtime=0)
    assert writer.shape() == shape(Tree.of([base_index(tree)]), tree, writer)
    onto = FakeWriter()
    try:
        write_copy(op, base, {1: tree}, {}, onto, created_mtime=0)
    except CopyError:
        return
    merged = shape(Tree.of([base_index(base), layer_entries(onto)]), base, onto)
    assert merged == {**shape(Tree.of([base_index(base)]), base, onto), **writer.shape()}


def test_base_hardlink_is_one_file_in_the_layer():
    """Two hardlinks to one file of the base become one file and a link to it (A08)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("one", "two"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, "old"
            archive.addfile(info)
    writer = FakeWriter()
    op = CopyOp((PathSource(1, "t"),), "/x", unpack=Unpack.LOCAL)
    base = FakeTree({"x/old": "base"})
    write_copy(op, base, {1: FakeTree({"t": out.getvalue()})}, {}, writer, created_mtime=0)
    assert writer.shape() == {"x": "dir", "x/one": "base", "x/two": "= x/one"}
    assert writer.entries["x/one"] == Entry("x/one", Kind.FILE, 0o644, size=4, mtime=7)


def opened(store, *layers):
    """A stack as a tree."""
    return LayerTree(Tree.of([store.index(layer) for layer in layers]), layers, store)


def test_real_layers(tmp_path):
    """From a directory through real tars to a second stage: bytes, links and keys arrive (K06)."""
    (tmp_path / "big").write_bytes(b"0123456789abcdef" * 200_000)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/small").write_text("text")
    (tmp_path / "d/twin").hardlink_to(tmp_path / "d/small")
    (tmp_path / "d/l").symlink_to("small")
    store = MemoryLayers()
    with store.writer() as writer:
        assert write_mkdir(MkdirOp("/app"), opened(store), writer, mtime=0)
        first = writer.commit()
    copy = CopyOp((PathSource(1, "/"),), "/app/")
    made = []
    for _ in range(2):
        with LocalContext(str(tmp_path)) as context, store.writer() as writer:
            base = opened(store, first)
            write_copy(copy, base, {1: context}, {}, writer, created_mtime=0)
            made.append(writer.commit())
    assert made[0] == made[1]
    with opened(store, first, made[0]) as stage, store.writer() as writer:
        take = CopyOp((PathSource(1, "/app/d"), PathSource(1, "/app/b*")), "/out/")
        write_copy(take, opened(store), {1: stage}, {}, writer, created_mtime=0)
        second = writer.commit()
        first_key = copy_key_parts(take, {1: stage}, {})
    with opened(store, second) as result:
        assert result.read("out/big") == (tmp_path / "big").read_bytes()
        assert result.read("out/twin") == b"text"
        assert result.group("out/small") == result.group("out/twin") is not None
        assert result.get("out/l").linkname == "small"
        assert result.get("out/small").mtime == (tmp_path / "d/small").stat().st_mtime_ns
        again = CopyOp((PathSource(1, "/out/d*"),), "/")
        assert copy_key_parts(again, {1: result}, {}) != first_key
