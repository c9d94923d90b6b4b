"""Stacks extracted side by side: the same trees as one after the other, nothing kept on a failure."""

import contextlib
import os
import threading

import pytest
from support.memory_layers import MemoryLayers, MemoryNames
from support.twins import compile_twins

from builder.snapshot.overlay import OverlaySnapshotter
from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree
from cache.errors import ArchiveError, ContentNotFoundError

_LONG = 30.0  # seconds that nothing here takes


def _file(path, data=b"x"):
    return Entry(path, Kind.FILE, 0o644, size=len(data), mtime=10**18), data


def _directory(path, mode=0o755):
    return Entry(path, Kind.DIRECTORY, mode, mtime=10**18), b""


class Late(MemoryLayers):
    """Layers of which the first comes only when it may."""

    def __init__(self):
        super().__init__()
        self.first = None
        self.ready = threading.Event()
        self.wrong = set()

    @contextlib.contextmanager
    def open_tar(self, layer):
        """Hold the first one back; some are not what they say, which shows at their end."""
        with super().open_tar(layer) as tar:
            if layer == self.first:
                assert self.ready.wait(_LONG)
            yield _Told(tar, self.ready.set)
            if layer in self.wrong:
                raise ContentNotFoundError("it is another one")


class _Told:
    """A stream that says when it was read to its end."""

    def __init__(self, stream, tell):
        self._stream = stream
        self._tell = tell

    def read(self, size):
        """Read, and tell."""
        data = self._stream.read(size)
        if not data:
            self._tell()
        return data


@pytest.fixture(autouse=True)
def _twins():
    compile_twins()


@pytest.fixture
def snapshotter(tmp_path):
    """A snapshotter on layers in memory, with what it named."""
    if os.geteuid():
        pytest.fail("whiteouts are devices: run as root")
    layers, names = Late(), MemoryNames()
    with OverlaySnapshotter(str(tmp_path), layers, names, keep_owner=True) as made:
        made.layers, made.names = layers, names
        yield made


def test_a_layer_need_not_wait_for_those_below(snapshotter):
    """A layer that asks nothing about those below is made before they have come at all."""
    layers = snapshotter.layers
    one = layers.make([_directory("a"), _file("a/1")])
    two = layers.make([_directory("b"), _file("b/2")])
    layers.first = one
    upper, lower = snapshotter.lowers([one, two])
    assert os.listdir(os.path.join(snapshotter.base, upper)) == ["b"]
    assert os.listdir(os.path.join(snapshotter.base, lower)) == ["a"]


def test_a_layer_waits_where_it_must(snapshotter):
    """Whiteouts, ways through links and implied directories ask what lies below, which waits."""
    layers = snapshotter.layers
    one = layers.make(
        [
            _directory("", 0o711),
            _directory("d", 0o700),
            _file("d/gone"),
            (Entry("link", Kind.SYMLINK, 0o777, linkname="d"), b""),
        ]
    )
    two = layers.make([_file("e/other")])
    three = layers.make([_file("d/.wh.gone", b""), _file("link/new"), _file("d/.wh.never", b"")])
    layers.first = one
    threading.Timer(0.3, layers.ready.set).start()  # all others are waiting by then
    names = snapshotter.lowers([one, two, three])
    place = os.path.join(snapshotter.base, names[0])
    assert sorted(os.listdir(os.path.join(place, "d"))) == ["gone", "new"]
    assert os.lstat(os.path.join(place, "d", "gone")).st_rdev == 0
    assert os.stat(os.path.join(place, "d")).st_mode & 0o7777 == 0o700
    assert all(os.stat(os.path.join(snapshotter.base, n)).st_mode & 0o777 == 0o711 for n in names)


def test_nothing_is_kept_on_what_is_wrong(snapshotter):
    """When a layer turns out to be another, its error is raised and none above it is kept."""
    layers = snapshotter.layers
    stack = [layers.make([_file(str(number))]) for number in range(4)]
    layers.wrong = {stack[1]}
    with pytest.raises(ContentNotFoundError, match="another one"):
        snapshotter.lowers(stack)
    assert len(snapshotter.names.by_chain) == 1
    assert os.listdir(snapshotter.base) == list(snapshotter.names.by_chain.values())
    layers.wrong = set()
    assert len(snapshotter.lowers(stack)) == 4


def test_the_error_is_that_of_the_lowest_layer(snapshotter):
    """Which of two damaged layers is named does not depend on which was read first."""
    layers = snapshotter.layers
    one = layers.make([(Entry("h", Kind.HARDLINK, linkname="nowhere"), b"")])
    two = layers.make([(Entry("i", Kind.HARDLINK, linkname="nowhere"), b"")])
    layers.first, layers.ready = one, threading.Event()
    threading.Timer(0.2, layers.ready.set).start()
    with pytest.raises(ArchiveError, match="hard link 'h'"):
        snapshotter.lowers([one, two])


def test_many_at_once(snapshotter):
    """Two stages over one deep stack get the same trees, each made once."""
    layers = snapshotter.layers
    stack = [
        layers.make([_directory("d"), _file(f"d/{n}"), _file(f"d/.wh.{n - 1}", b"")])
        for n in range(12)
    ]
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(snapshotter.lowers(stack))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LONG)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(layers.opened) == len(stack)
    assert sorted(os.listdir(snapshotter.base)) == sorted(found[0])
    tree = Tree.of([layers.index(layer) for layer in stack])
    assert tree.children("d") == ["11"]
