"""The merged view of layer stacks."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.archive.entry import Entry, Kind
from cache.archive.tree import Tree
from cache.errors import ArchiveError


def file(path, mtime=0, offset=-1):
    return Entry(path, Kind.FILE, mtime=mtime, offset=offset)


def folder(path, mode=0o755):
    return Entry(path, Kind.DIRECTORY, mode)


def link(path, target):
    return Entry(path, Kind.SYMLINK, 0o777, linkname=target)


def hard(path, target):
    return Entry(path, Kind.HARDLINK, linkname=target)


def paths(tree):
    return [node.entry.path for node in tree.walk()]


def test_empty_stack_has_a_root_directory():
    """No layers still have a root, described by none of them."""
    tree = Tree.of([])
    assert paths(tree) == [""]
    assert tree.node("").layer == -1
    assert tree.get("").mode == 0o755
    assert tree.children("") == []
    assert tree.get("x") is None


def test_upper_entries_replace_lower_ones_and_directories_merge():
    """A later layer's file wins; its directory changes metadata only."""
    tree = Tree.of(
        [[folder("d"), file("d/a", 1), file("d/b", 1)], [folder("d", 0o700), file("d/a", 2)]]
    )
    assert tree.get("d").mode == 0o700
    assert tree.node("d/a").layer == 1
    assert tree.node("d/b").layer == 0
    assert tree.children("d") == ["a", "b"]


def test_whiteout_removes_a_subtree():
    """A whiteout of a directory takes all below it."""
    tree = Tree.of([[file("d/e/f"), file("d/g"), file("h")], [file(".wh.d")]])
    assert paths(tree) == ["", "h"]


def test_whiteout_of_nothing_is_no_error():
    """A23: whiteouts for paths that no layer has change nothing."""
    tree = Tree.of([[file("a")], [file(".wh.b"), file("x/y/.wh.z"), file("q/.wh..wh..opq")]])
    assert paths(tree) == ["", "a"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_order_in_a_layer_does_not_matter_to_whiteouts(order):
    """A22: opaque marker, whiteout, its duplicate and a re-added file in any order."""
    layer = [file("d/.wh..wh..opq"), file("d/.wh.a"), file("d/a", 2), file("d/.wh.a")]
    tree = Tree.of([[folder("d"), file("d/a", 1), file("d/b", 1)], [layer[i] for i in order]])
    assert tree.children("d") == ["a"]
    assert tree.get("d/a").mtime == 2
    assert tree.node("d/a").layer == 1


@pytest.mark.parametrize(
    "name", [".wh.", ".wh..", ".wh...", ".wh..wh.x", ".wh..wh.plnk", ".wh." + "x" * 252]
)
def test_malformed_whiteouts_are_ignored(name):
    """A20: they never remove the parent or the root, and are no content."""
    tree = Tree.of([[file("etc/passwd")], [file(f"etc/{name}"), file(name)]])
    assert paths(tree) == ["", "etc", "etc/passwd"]


def test_directory_with_a_whiteout_name_is_content():
    """A20: `.wh.x/y` is ordinary content."""
    tree = Tree.of([[file("x")], [folder(".wh.x"), file(".wh.x/y")]])
    assert paths(tree) == ["", ".wh.x", ".wh.x/y", "x"]


def test_whiteout_through_a_lower_link_stays_in_the_root():
    """A21: `l -> /etc` and `l/.wh.passwd` affect the in-root path only."""
    base = [file("etc/passwd"), link("l", "/etc"), link("out", "../../../etc")]
    assert Tree.of([base, [file("l/.wh.passwd")]]).get("etc/passwd") is None
    assert Tree.of([base, [file("out/.wh.passwd")]]).get("etc/passwd") is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_whiteout_below_a_replaced_link_hides_nothing(order):
    """A21, A22: where the layer makes a directory of the link, its markers are about that."""
    base = [file("etc/passwd"), link("l", "/etc")]
    layer = [folder("l"), file("l/.wh.passwd"), file("l/.wh..wh..opq")]
    tree = Tree.of([base, [layer[i] for i in order]])
    assert tree.get("etc/passwd") is not None
    assert tree.get("l").kind is Kind.DIRECTORY


@pytest.mark.parametrize("order", [1, -1])
def test_markers_do_not_see_each_other(order):
    """A22: a marker whose way another one removes acts as if it came first."""
    base = [folder("b"), link("a/a", "/")]
    layer = [file(".wh.a"), file("a/a/.wh..wh..opq")]
    assert paths(Tree.of([base, layer[::order]])) == [""]


def test_opaque_root_empties_the_stack():
    """A marker at the root hides all lower layers but keeps its own entries."""
    tree = Tree.of([[file("a"), file("b/c")], [file("n"), file(".wh..wh..opq")]])
    assert paths(tree) == ["", "n"]


def test_entries_below_a_link_are_placed_where_it_leads():
    """A path over a symlink lands at its target, with parents implied where it dangles."""
    tree = Tree.of([[link("lib", "usr/lib"), folder("usr/lib")], [file("lib/x")]])
    assert tree.get("usr/lib/x").path == "usr/lib/x"
    assert tree.get("lib").kind is Kind.SYMLINK
    tree = Tree.of([[link("l", "/no/where"), file("l/x")]])
    assert paths(tree) == ["", "l", "no", "no/where", "no/where/x"]


def test_missing_parents_are_implied():
    """A26: parents that no entry describes are 0755 directories of root."""
    tree = Tree.of([[file("a/b/c")]])
    assert tree.get("a/b") == Entry("a/b", Kind.DIRECTORY, 0o755)


def test_non_directory_parent_is_replaced():
    """A26: an entry below a file makes a directory of it."""
    tree = Tree.of([[file("a"), file("a/b")]])
    assert paths(tree) == ["", "a", "a/b"]
    assert tree.get("a").kind is Kind.DIRECTORY


def test_kind_changes_drop_children():
    """A25: file, directory and link take each other's place; children go with the directory."""
    tree = Tree.of([[file("d/x"), file("f")], [file("d"), file("f/y")]])
    assert paths(tree) == ["", "d", "f", "f/y"]
    tree = Tree.of(
        [[folder("a"), file("a/x"), link("a", "b"), file("a/y"), folder("a"), file("a/z")]]
    )
    assert paths(tree) == ["", "a", "a/z", "b", "b/y"]


def test_links_that_change_inside_a_layer_are_seen():
    """Where a parent leads is decided anew after a link was replaced."""
    layer = [link("l", "a"), file("l/x"), link("l", "b"), file("l/y")]
    assert paths(Tree.of([layer])) == ["", "a", "a/x", "b", "b/y", "l"]


def test_link_loops_are_errors_not_tracebacks():
    """A26: an entry below a link loop."""
    with pytest.raises(ArchiveError, match="too many levels"):
        Tree.of([[link("a", "b"), link("b", "a"), file("a/x")]])


def test_link_bombs_end_soon():
    """Long targets times many hops do not multiply."""
    bomb = [link(f"l{i}", ("./" * 2000) + f"l{i + 1}") for i in range(200)]
    tree = Tree.of([bomb])
    began = time.perf_counter()
    with pytest.raises(ArchiveError):
        tree.resolve("l0")
    assert time.perf_counter() - began < 0.5


def test_root_entry_sets_metadata_and_must_be_a_directory():
    """A10: `.` as a directory is the root's metadata; as anything else it is refused."""
    tree = Tree.of([[file("a"), folder("", 0o711)]])
    assert tree.get("").mode == 0o711
    assert tree.node("").layer == 0
    assert tree.children("") == ["a"]
    with pytest.raises(ArchiveError, match="root"):
        Tree.of([[link("", "/etc")]])


def test_hard_links_show_their_target_and_share_a_group():
    """A hard link has the content of its target; a set is one group in its layer."""
    tree = Tree.of([[file("a", 7, 512), hard("b", "a"), hard("d/c", "b"), file("single")]])
    for path in ("a", "b", "d/c"):
        node = tree.node(path)
        assert (node.entry.path, node.entry.kind, node.entry.offset) == (path, Kind.FILE, 512)
        assert (node.layer, node.group) == (0, "a")
    assert tree.node("single").group == ""


def test_hard_link_to_a_lower_layer_keeps_that_layer():
    """Content stays where it is: in the tar of the layer that holds the target."""
    tree = Tree.of([[file("a", 7, 512)], [hard("b", "a")]])
    assert tree.node("b").layer == 0
    assert tree.node("b").entry.offset == 512
    assert tree.node("a").group == tree.node("b").group == "a"


def test_groups_of_a_reused_path_differ():
    """A path that began one set and then another does not join them."""
    tree = Tree.of([[file("a", 1), hard("b", "a"), file("a", 2), hard("c", "a")]])
    assert tree.get("b").mtime == 1
    assert tree.get("c").mtime == 2
    assert tree.node("b").group != tree.node("c").group
    assert tree.node("a").group == tree.node("c").group


def test_hard_link_over_its_own_directory_keeps_the_content():
    """A25: `a` becomes a link to what lay below it."""
    tree = Tree.of([[file("a/b", 5), hard("a", "a/b")]])
    assert paths(tree) == ["", "a"]
    assert tree.get("a").mtime == 5


def test_hard_link_to_itself_changes_nothing():
    """A link onto its own path is no change."""
    tree = Tree.of([[file("a", 5), hard("a", "a")]])
    assert tree.node("a").group == ""


@pytest.mark.parametrize("target", ["missing", "d", "../x"])
def test_hard_link_without_a_file_is_refused(target):
    """A hard link needs a target that is there and is no directory."""
    with pytest.raises(ArchiveError, match="hard link"):
        Tree.of([[folder("d"), hard("a", target)]])


@pytest.mark.parametrize(
    ("path", "follow", "want"),
    [
        ("a/b", True, "a/b"),
        ("/a/./b/", True, "a/b"),
        ("../../x", True, "x"),
        ("run/x", True, "var/run/x"),
        ("run", True, "var/run"),
        ("run", False, "run"),
        ("deep/../y", True, "var/y"),
        ("missing/../y", True, "y"),
        ("abs/z", True, "var/run/z"),
        ("file/below", True, "file/below"),
        ("", True, ""),
    ],
)
def test_resolve_follows_links_inside_the_root(path, follow, want):
    """`..` clamps, absolute targets start at the root, missing components stay."""
    tree = Tree.of(
        [
            [
                folder("var/run"),
                link("run", "var/run"),
                link("deep", "/var/run"),
                link("abs", "/../../run/"),
                file("file"),
            ]
        ]
    )
    assert tree.resolve(path, follow_last=follow) == want


def test_long_link_chains_resolve_up_to_the_limit():
    """255 links are followed, 256 are not."""
    tree = Tree.of([[link(f"l{i}", f"l{i + 1}") for i in range(256)]])
    assert tree.resolve("l1") == "l256"
    with pytest.raises(ArchiveError):
        tree.resolve("l0")


def test_deep_trees_need_no_recursion():
    """A path of two thousand components can be entered, walked and removed."""
    deep = "/".join("d" * 2000)
    tree = Tree.of([[file(f"{deep}/f")]])
    assert len(list(tree.walk())) == 2002
    tree.apply([file(".wh.d")], 1)
    assert len(tree) == 1


def test_ten_thousand_entries_are_applied_fast():
    """The solver merges a stack per build: 10,000 entries take some ten milliseconds."""
    layer = [folder(f"d{i}") for i in range(100)]
    layer += [file(f"d{i}/f{n}") for i in range(100) for n in range(99)]
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        Tree.of([layer])
        best = min(best, time.perf_counter() - began)
    assert best < 0.1  # 11 ms measured when quiet


_NAMES = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/b/c"])
_LAYER = st.lists(
    st.one_of(
        st.builds(folder, _NAMES),
        st.builds(file, _NAMES, st.integers(0, 9)),
        st.builds(link, _NAMES, st.sampled_from(["b", "/a", "../c", "a/b"])),
        st.builds(
            lambda p: file("/".join([*p.split("/")[:-1], ".wh." + p.split("/")[-1]])), _NAMES
        ),
        st.builds(lambda p: file(f"{p}/.wh..wh..opq"), _NAMES),
    ),
    max_size=8,
)


@given(st.lists(_LAYER, max_size=4))
def test_trees_stay_consistent(layers):
    """Whatever the layers say, every path has a directory above it that names it."""
    try:
        tree = Tree.of(layers)
    except ArchiveError:
        return
    seen = paths(tree)
    assert len(seen) == len(set(seen)) == len(tree)
    for path in seen[1:]:
        parent, _, name = path.rpartition("/")
        assert tree.get(parent).kind is Kind.DIRECTORY
        assert name in tree.children(parent)
        assert tree.get(path).path == path


@given(_LAYER, _LAYER, st.randoms())
def test_markers_may_stand_anywhere_in_a_layer(base, layer, random):
    """A22: moving and shuffling the whiteouts of a layer gives the same tree."""
    markers = [e for e in layer if ".wh." in e.path]
    own = [e for e in layer if ".wh." not in e.path]
    mixed = list(own)
    random.shuffle(markers)
    for marker in markers:
        mixed.insert(random.randint(0, len(mixed)), marker)
    try:
        want = Tree.of([base, [e for e in layer if ".wh." in e.path] + own])
    except ArchiveError:
        return
    got = Tree.of([base, mixed])
    assert list(got.walk()) == list(want.walk())
