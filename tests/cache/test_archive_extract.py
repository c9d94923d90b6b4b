"""Unpacking layers: attacks with their benign twins, and the overlay the result makes."""

from __future__ import annotations

import io
import os
import stat
import struct
from hashlib import shake_128

import pytest
from support.namespaces import mount, people, run_in_namespace, unmount
from support.tars import END, archive, directory, file, hardlink, member, pax, symlink
from support.twins import compile_twins

from cache.archive.entry import Entry, Kind
from cache.archive.extract import extract_layer
from cache.archive.reader import read_entries
from cache.archive.tree import Tree
from cache.errors import ArchiveError
from cache.value import replace

IS_ROOT = os.geteuid() == 0
KEEP = (True, False) if IS_ROOT else (False,)  # only root can give files away
SECOND = 10**9


@pytest.fixture(autouse=True, params=["0", ""], ids=["python", "compiled"])
def _twin(request, monkeypatch):
    """All that follows holds for the reference and with the help of its compiled twin."""
    compile_twins()
    monkeypatch.setenv("PYBUILD_NATIVE", request.param)


def whiteout(path: str) -> Entry:
    parent, slash, name = path.rpartition("/")
    return Entry(f"{parent}{slash}.wh.{name}", Kind.FILE)


def opaque(path: str) -> Entry:
    return Entry(f"{path}/.wh..wh..opq" if path else ".wh..wh..opq", Kind.FILE)


class Lab:
    """A root to unpack into and a canary beside it, which every test leaves as it was."""

    def __init__(self, base, keep):
        self.keep = keep
        self.top = base / "root"
        self.canary = base / "canary"
        self.top.mkdir()
        self.canary.mkdir()
        (self.canary / "secret").write_text("host")
        os.utime(self.canary, (1, 1))
        self.before = self.look()

    def look(self):
        found = [os.lstat(self.canary), os.lstat(self.canary / "secret")]
        marks = [
            (s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_mtime_ns, s.st_size) for s in found
        ]
        return marks, sorted(os.listdir(self.canary)), sorted(os.listdir(self.canary.parent))

    def unpack(self, data, *lower):
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        tree = Tree.of([self.index(layer) for layer in lower]) if lower else None
        fd = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY)
        before = len(os.listdir("/proc/self/fd"))
        try:
            return extract_layer(stream, fd, tree, keep_owner=self.keep)
        finally:
            assert len(os.listdir("/proc/self/fd")) == before
            os.close(fd)

    @staticmethod
    def index(layer):
        return [entry for entry, _ in read_entries(archive(*layer))]

    def contained(self, data, *lower):
        """Contain or refuse: gives whether it was accepted."""
        try:
            self.unpack(data, *lower)
        except ArchiveError:
            return False
        return True

    def names(self):
        """All paths in the root."""
        found = []
        for here, dirs, files in os.walk(self.top):
            found += [os.path.relpath(os.path.join(here, name), self.top) for name in dirs + files]
        return sorted(found)

    def stat(self, path):
        return os.lstat(self.top / path)

    def is_whiteout(self, path):
        status = self.stat(path)
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0

    def is_opaque(self, path):
        return "user.overlay.opaque" in os.listxattr(self.top / path)


@pytest.fixture(params=KEEP, ids=lambda keep: "owners" if keep else "own")
def lab(tmp_path, request):
    lab = Lab(tmp_path, request.param)
    yield lab
    assert lab.look() == lab.before


@pytest.mark.parametrize(
    "name", [b"../x", b"/../x", b"a/../../x", b"./../x", b"..", b"../canary/new"]
)
def test_climbing_names_stay_inside(lab, name):
    """A01: nothing appears above the root."""
    lab.contained(member(name, payload=b"evil") + END)


def test_names_with_dots_land_where_they_mean(lab):
    """A01, twin: `a/../b` and `./c` are `b` and `c`."""
    lab.unpack(member(b"a/../b", payload=b"1") + member(b"./c", payload=b"2") + END)
    assert lab.names() == ["b", "c"]


def test_writing_through_an_absolute_link_stays_inside(lab):
    """A02: the link's path means a place in the root."""
    lab.unpack(archive(symlink("e", str(lab.canary)), file("e/f", b"evil")))
    assert (lab.top / str(lab.canary)[1:] / "f").read_text() == "evil"
    assert os.readlink(lab.top / "e") == str(lab.canary)


def test_entries_follow_links_of_this_layer_and_of_lower_ones(lab):
    """A02, twin: `lib/x` lands in usr/lib, whoever made the link."""
    lab.unpack(
        archive(symlink("bin", "usr/bin"), file("bin/a", b"1"), file("lib/x", b"2")),
        [
            directory("usr"),
            directory("usr/lib", 0o711, mtime=7 * SECOND),
            symlink("lib", "/usr/lib"),
        ],
    )
    assert lab.names() == ["bin", "usr", "usr/bin", "usr/bin/a", "usr/lib", "usr/lib/x"]
    assert stat.S_IMODE(lab.stat("usr/lib").st_mode) == 0o711
    assert lab.stat("usr/lib").st_mtime == 7


@pytest.mark.parametrize("depth", [1, 2, 5, 20, 40])
def test_climbing_links_stay_inside(lab, depth):
    """A03: links with more `..` than depth stop at the root; their text is kept."""
    where = "/".join(["d"] * depth)
    target = "../" * (depth + 9) + "canary"
    lab.unpack(archive(symlink(f"{where}/l", target), file(f"{where}/l/f", b"evil")))
    assert os.readlink(lab.top / where / "l") == target
    assert (lab.top / "canary/f").read_text() == "evil"


def test_resolved_paths_may_be_longer_than_the_kernel_takes(lab):
    """A04: a way over short aliases to a path beyond PATH_MAX is contained or refused."""
    items = []
    where = ""
    for letter in "abcdefghijklmnopqrst":
        name = letter * 247
        items += [directory(f"{where}{name}"), symlink(f"{where}{letter}", name)]
        where += f"{letter}/"
    items += [symlink(where + "l", "../" * 25 + "canary"), file(where + "l/new", b"evil")]
    items += [hardlink(where + "h", where + "l/secret")]
    lab.contained(archive(*items))


@pytest.mark.parametrize("count", [2, 10, 40, 254])
def test_chains_of_links_stay_inside(lab, count):
    """A05: each link harmless, their sum climbing."""
    items = [symlink("l0", "..")] + [symlink(f"l{n}", f"l{n - 1}/..") for n in range(1, count)]
    lab.contained(archive(*items, file(f"l{count - 1}/canary/new", b"evil")))


def test_loops_are_refused(lab):
    """A05, A26: a loop as a parent ends in a refusal."""
    with pytest.raises(ArchiveError, match="too many symlinks"):
        lab.unpack(archive(symlink("a", "b"), symlink("b", "a"), file("a/x")))


@pytest.mark.parametrize("kind", [Kind.DIRECTORY, Kind.FILE, Kind.FIFO])
def test_final_links_are_replaced_not_followed(lab, kind):
    """A06, A07: what lies behind a link keeps its mode, time and content."""
    for target in (lab.canary, lab.canary / "secret"):
        lab.unpack(archive(symlink("n", str(target)), Entry("n", kind, 0o777, mtime=9 * SECOND)))
        assert not stat.S_ISLNK(lab.stat("n").st_mode)
        os.rmdir(lab.top / "n") if kind is Kind.DIRECTORY else os.unlink(lab.top / "n")


def test_lower_links_are_replaced(lab):
    """A07, twin: a link of a lower layer gives way to this layer's file."""
    lab.unpack(
        archive(file("bin/env", b"coreutils")),
        [symlink("bin/env", "busybox"), file("bin/busybox", b"bb")],
    )
    assert (lab.top / "bin/env").read_text() == "coreutils"
    assert lab.names() == ["bin", "bin/env"]


@pytest.mark.parametrize(
    "target",
    [
        b"../../canary/secret",
        b"/proc/self/exe",
        b"proc/self/fd/0",
        b"e/secret",
        b"pyproject.toml",
        b"/",
        b"..",
        b"d",
        b"missing",
    ],
)
def test_hard_links_have_targets_in_the_layer(lab, target):
    """A08: nothing outside gains a name; a target that is not in this layer is refused."""
    data = archive(directory("d"), symlink("e", str(lab.canary))).getvalue()[:-1024]
    data += member(b"h", b"1", link=target) + END
    with pytest.raises(ArchiveError):
        lab.unpack(data)


def test_absolute_hard_links_work(lab):
    """A08, twin: `/usr/bin/a` is the file of this archive, through links too."""
    data = archive(
        file("usr/bin/a", b"x"), symlink("bin", "usr/bin"), symlink("s", "t")
    ).getvalue()[:-1024]
    data += member(b"h", b"1", link=b"/usr/bin/a") + member(b"i", b"1", link=b"bin/a")
    data += member(b"h", b"1", link=b"i") + member(b"s2", b"1", link=b"s") + END
    lab.unpack(data)
    assert lab.stat("h").st_nlink == 3
    assert os.readlink(lab.top / "s2") == "t"


def test_hard_links_to_links_dress_nothing(lab):
    """A09: attributes of a hard link to a symlink do not reach the symlink's target."""
    data = archive(symlink("l", str(lab.canary / "secret"))).getvalue()[:-1024]
    data += pax((b"SCHILY.xattr.user.x", b"y")) + member(b"h", b"1", link=b"l", mode=b"0004777\0")
    lab.unpack(data + END)


@pytest.mark.parametrize("name", [b".", b"./", b"/", b""])
@pytest.mark.parametrize("kind", [b"0", b"1", b"2", b"6"])
def test_the_root_stays_a_directory(lab, name, kind):
    """A10: an entry for the root that is no directory is refused."""
    with pytest.raises(ArchiveError):
        lab.unpack(member(name, kind, link=str(lab.canary).encode()) + END)


def test_the_root_takes_attributes(lab):
    """A10, twin: `./` as a directory gives the root its mode and time."""
    lab.unpack(archive(directory("", 0o711, mtime=5 * SECOND)))
    assert (stat.S_IMODE(lab.stat("").st_mode), lab.stat("").st_mtime) == (0o711, 5)


@pytest.mark.parametrize("device", [(1, 3), (8, 0), (10, 200), (0, 0)])
@pytest.mark.parametrize("kind", [Kind.CHAR, Kind.BLOCK])
def test_devices_are_never_made(lab, kind, device):
    """A14: a device is in the entries; an empty file of its mode stands for it, and links to it."""
    entry = Entry("dev/x", kind, 0o640, size=7, device=device)
    found = lab.unpack(archive(entry, hardlink("y", "dev/x")))
    assert [item.kind for item in found] == [kind, Kind.HARDLINK]
    assert lab.names() == ["dev", "dev/x", "y"]
    status = lab.stat("dev/x")
    assert (status.st_mode, status.st_size, status.st_nlink) == (stat.S_IFREG | 0o640, 0, 2)


def test_fifos_are_made_and_not_opened(lab):
    """A14: a fifo is created with its mode; unpacking does not wait for it."""
    lab.unpack(archive(Entry("f", Kind.FIFO, 0o604, mtime=3 * SECOND)))
    assert lab.stat("f").st_mode == stat.S_IFIFO | 0o604


@pytest.mark.parametrize(
    "key",
    ["opaque", "redirect", "metacopy", "whiteout", "origin", "impure", "overlay.opaque", "upper"],
)
@pytest.mark.parametrize("space", ["user.overlay.", "trusted.overlay."])
def test_overlay_marks_of_a_tar_are_left_out(lab, space, key):
    """A17: no xattr of an archive is read as overlayfs bookkeeping; others are kept."""
    xattrs = ((space + key, b"y"), ("user.mine", b"\0v"))
    lab.unpack(archive(directory("d", xattrs=xattrs), file("d/f", b"x", mode=0o444, xattrs=xattrs)))
    assert os.listxattr(lab.top / "d") == ["user.mine"]
    assert os.listxattr(lab.top / "d/f") == ["user.mine"]
    assert os.getxattr(lab.top / "d/f", "user.mine") == b"\0v"


def test_unsupported_xattrs_do_not_fail(lab):
    """A19: attributes this place does not take are skipped."""
    xattrs = tuple(
        (name, b"value")
        for name in (
            "nonsense",
            "security.ima",
            "security.selinux",
            "system.posix_acl_access",
            "system.x",
            "trusted.x",
        )
    )
    lab.unpack(
        archive(file("f", xattrs=xattrs), replace(symlink("s", "f"), xattrs=(("user.x", b""),)))
    )
    assert os.listxattr(lab.top / "f") == []


MALFORMED = [
    ".wh.",
    ".wh..",
    ".wh...",
    "etc/.wh.",
    "etc/.wh..",
    "etc/.wh...",
    ".wh..wh.x",
    ".wh..wh.plnk",
    ".wh..wh..wh..opq",
]


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.SYMLINK, Kind.FIFO])
def test_malformed_whiteouts_mean_nothing(lab, name, kind):
    """A20: the parent and the root stay."""
    lab.unpack(
        archive(file("etc/own", b"1"), Entry(name, kind, linkname="x" * (kind is Kind.SYMLINK))),
        [file("etc/x", b"2"), file("etc/y")],
    )
    assert lab.names() == ["etc", "etc/own"]
    assert not lab.is_opaque("etc")


def test_whiteouts_of_any_kind_count_and_directories_do_not(lab):
    """A20: a whiteout may be a link or hold data; `.wh.x/y` as a directory is content."""
    lab.unpack(
        archive(
            symlink(".wh.a", "/"), file(".wh.b", b"data"), directory(".wh.c"), file(".wh.d/y", b"1")
        ),
        [file("a"), file("b"), file("c")],
    )
    assert [name for name in "ab" if lab.is_whiteout(name)] == ["a", "b"]
    assert lab.names() == [".wh.c", ".wh.d", ".wh.d/y", "a", "b"]


def test_whiteouts_through_links_stay_inside(lab):
    """A21: a whiteout under a link of this layer, or of a lower one, reaches the root at most."""
    items = [symlink("l", str(lab.canary)), whiteout("l/secret"), whiteout("m/x"), opaque("m")]
    lab.unpack(archive(*items), [symlink("m", "/real"), file("real/x", b"1"), file("real/y")])
    assert lab.names() == ["l", "real"]
    assert lab.is_opaque("real")


def test_whiteouts_follow_lower_links(lab):
    """A21, twin: a whiteout through a lower layer's link hides what lies behind it."""
    lab.unpack(archive(whiteout("m/x")), [symlink("m", "/real"), file("real/x"), file("real/y")])
    assert lab.names() == ["real", "real/x"]
    assert lab.is_whiteout("real/x")


ORDERS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]


@pytest.mark.parametrize("order", ORDERS)
def test_whiteouts_act_on_lower_layers_in_any_order(lab, order):
    """A22, A23: this layer's own files survive, lower ones vanish."""
    items = [opaque("d"), whiteout("d/a"), file("d/a", b"own")]
    lower = [file("d/a", b"lower"), file("d/b", b"lower")]
    lab.unpack(archive(*(items[n] for n in order), whiteout("d/a"), opaque("d")), lower)
    assert lab.names() == ["d", "d/a"]
    assert (lab.top / "d/a").read_text() == "own"
    assert lab.is_opaque("d")


@pytest.mark.parametrize("swap", [False, True])
def test_a_directory_over_a_whiteout_is_opaque(lab, swap):
    """A22: whiteout and new directory of one name hide what the lower directory held."""
    items = [whiteout("d"), file("d/new", b"1")]
    lab.unpack(archive(*(reversed(items) if swap else items)), [file("d/old", b"1")])
    assert lab.names() == ["d", "d/new"]
    assert lab.is_opaque("d")


def test_needless_whiteouts_leave_nothing(lab):
    """A23: a whiteout of nothing makes no file and no parents."""
    lab.unpack(
        archive(whiteout("no/such/thing"), whiteout("f/x"), opaque("gone")), [file("f", b"1")]
    )
    assert lab.names() == []


def test_special_bits_are_kept(lab):
    """A24: setuid, setgid and sticky survive owners and xattrs."""
    xattrs = (("user.x", b"1"),)
    lab.unpack(
        archive(
            file("s", b"x", mode=0o6755, uid=1, gid=2, xattrs=xattrs), directory("t", 0o3777, uid=3)
        )
    )
    assert stat.S_IMODE(lab.stat("s").st_mode) == 0o6755
    assert stat.S_IMODE(lab.stat("t").st_mode) == 0o3777
    if lab.keep:
        assert (lab.stat("s").st_uid, lab.stat("s").st_gid, lab.stat("t").st_uid) == (1, 2, 3)


@pytest.mark.skipif(not IS_ROOT, reason="needs root to set file capabilities")
def test_file_capabilities_are_kept(tmp_path):
    """A24: security.capability is set after the owner, which would drop it."""
    lab = Lab(tmp_path, keep=True)
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    xattrs = (("security.capability", value),)
    lab.unpack(archive(file("ping", b"x", mode=0o755, uid=5, xattrs=xattrs)))
    assert os.getxattr(lab.top / "ping", "security.capability") == value


def test_the_last_of_equal_names_wins(lab):
    """A25: any kind over any kind, through every spelling of the name."""
    makers = [
        lambda name: member(name, payload=b"x"),
        lambda name: member(name, b"5", mode=b"0000755\0") + member(name + b"/in", payload=b"y"),
        lambda name: member(name, b"2", link=b"t"),
        lambda name: member(name, b"6"),
        lambda name: member(b"src") + member(name, b"1", link=b"src"),
        lambda name: member(name, b"3"),
    ]
    tests = [stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK, stat.S_ISFIFO, stat.S_ISREG, stat.S_ISREG]
    spellings = [b"a", b"./a", b"//a", b"b/../a"]
    data = b""
    for first in makers:
        for number, second in enumerate(makers):
            data += first(spellings[number % 4]) + second(spellings[(number + 1) % 4])
    for number, check in enumerate(tests):
        lab.unpack(data + makers[number](b"a") + END)
        found = [name for name in lab.names() if name in {"a", "a/in"}]
        assert found == (["a", "a/in"] if number == 1 else ["a"])
        assert check(lab.stat("a").st_mode)
        for here, dirs, files in os.walk(lab.top, topdown=False):
            for name in files + [name for name in dirs if os.path.islink(os.path.join(here, name))]:
                os.unlink(os.path.join(here, name))
            if here != str(lab.top):
                os.rmdir(here)


def test_a_thousand_flips_end_quickly(lab):
    """A25: replacing a full directory again and again costs what it holds."""
    items = []
    for _ in range(200):
        items += [file("d/a"), file("d/b/c"), file("d")]
    lab.unpack(archive(*items))
    assert lab.names() == ["d"]


def test_implied_parents_have_defaults(lab):
    """A26: parents no layer describes are 0755; a file in the way becomes a directory."""
    old = os.umask(0o077)
    try:
        lab.unpack(archive(file("a"), file("a/b", b"1"), file("x/y/z")), [file("x", b"lower file")])
    finally:
        os.umask(old)
    assert lab.names() == ["a", "a/b", "x", "x/y", "x/y/z"]
    assert {stat.S_IMODE(lab.stat(name).st_mode) for name in ("a", "x", "x/y")} == {0o755}


def test_implied_parents_look_like_lower_directories(lab):
    """R: a directory that is only passed through keeps what the lower layer says of it."""
    xattrs = (("user.k", b"v"),)
    lower = [directory("v", 0o1777, uid=9, gid=8, mtime=4 * SECOND, xattrs=xattrs)]
    lab.unpack(archive(file("v/tmp/x", b"1")), lower)
    status = lab.stat("v")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o1777, 4)
    assert os.getxattr(lab.top / "v", "user.k") == b"v"
    if lab.keep:
        assert (status.st_uid, status.st_gid) == (9, 8)


def test_closed_directories_are_filled(lab):
    """R: a directory without permissions holds its files, and its time is its own."""
    lab.unpack(
        archive(
            directory("d", 0, mtime=SECOND),
            file("d/e/f", b"1"),
            directory("d/e", 0o500, mtime=2 * SECOND),
        )
    )
    assert (stat.S_IMODE(lab.stat("d").st_mode), lab.stat("d").st_mtime) == (0, 1)
    os.chmod(lab.top / "d", 0o700)
    assert (stat.S_IMODE(lab.stat("d/e").st_mode), lab.stat("d/e").st_mtime) == (0o500, 2)
    os.chmod(lab.top / "d/e", 0o700)


def test_names_survive_byte_by_byte(lab):
    """A34: every name Linux takes is on disk as it was in the tar."""
    names = [
        b"\xff\xfe",
        b"new\nline",
        b"\x1b[2J",
        b"-rf",
        "e\u0301".encode(),
        "é".encode(),
        b"n" * 255,
        b" ",
        b"\\",
        b":",
    ]
    lab.unpack(b"".join(pax((b"path", name)) + member(b"x") for name in names) + END)
    assert sorted(os.listdir(os.fsencode(lab.top))) == sorted(names)


def test_entries_come_back_in_tar_order(lab):
    """R: the result is the index of the tar, whiteouts included."""
    data = archive(file("b", b"1"), whiteout("c"), file("a", b"22"))
    expected = [entry for entry, _ in read_entries(io.BytesIO(data.getvalue()))]
    assert lab.unpack(data) == expected
    assert [entry.path for entry in expected] == ["b", ".wh.c", "a"]


def test_truncated_layers_are_refused(lab):
    """A27: the failure names the entry."""
    with pytest.raises(ArchiveError, match="'a'"):
        lab.unpack(archive(file("a", b"x" * 5000)).getvalue()[:2000])


@pytest.mark.skipif(not IS_ROOT, reason="needs ids that can be given away")
def test_unmapped_owners_are_a_clear_error(tmp_path):
    """A30: an id the namespace does not map is named, and never becomes root."""
    tmp_path.chmod(0o755)
    where = tmp_path / "r"
    where.mkdir()
    who = people()[-1]
    os.chown(where, who.uid, -1)
    for parent in tmp_path.parents[:3]:
        parent.chmod(parent.stat().st_mode | 0o011)

    def body():
        fd = os.open(where, os.O_RDONLY)
        with pytest.raises(ArchiveError, match="cannot give 'f' to 33:0") as caught:
            extract_layer(archive(file("f", uid=33)), fd, None)
        assert "map" in caught.value.hint
        extract_layer(archive(file("g", uid=33)), fd, None, keep_owner=False)

    run_in_namespace(who, body)


class Dice:
    """Reproducible choices."""

    def __init__(self, seed):
        self._bytes = iter(shake_128(seed.to_bytes(4)).digest(5000))

    def pick(self, options):
        return options[next(self._bytes) % len(options)]


def some_layer(dice, *, has_marks):
    """A few entries over few names, so that they meet."""
    marks, rest = [], []
    for _ in range(dice.pick(range(1, 9))):
        path = "/".join(dice.pick("abc") for _ in range(dice.pick((1, 1, 2, 2, 3))))
        target = "/".join(dice.pick(("a", "b", "c", "..")) for _ in range(dice.pick((1, 2))))
        choice = dice.pick(range(10))
        if choice < 3:
            rest.append(file(path, bytes([dice.pick(b"xyz")])))
        elif choice < 5:
            rest.append(directory(path, dice.pick((0o755, 0o700))))
        elif choice < 6:
            rest.append(symlink(path, dice.pick(("", "/")) + target))
        elif choice < 7:
            rest.append(
                hardlink(path, path.rpartition("/")[0] + "/" + dice.pick("abc"))
                if "/" in path
                else file(path)
            )
        elif has_marks:
            marks.append(whiteout(path) if choice < 9 else opaque(dice.pick((path, ""))))
    return marks + rest


def seen(top):
    """What a directory shows: kind, mode, link text and content by path."""
    found = {}
    pending = [""]
    while pending:
        here = pending.pop()
        for item in os.scandir(os.path.join(top, here)):
            path = f"{here}/{item.name}" if here else item.name
            status = item.stat(follow_symlinks=False)
            if item.is_symlink():
                found[path] = os.readlink(item.path)
            elif item.is_dir():
                found[path] = oct(status.st_mode)
                pending.append(path)
            else:
                with open(item.path, "rb") as content:
                    found[path] = content.read()
    return found


def expected(tree, layers):
    """The same of a merged tree."""
    found = {}
    for node in tree.walk():
        entry = node.entry
        if entry.kind is Kind.SYMLINK:
            found[entry.path] = entry.linkname
        elif entry.kind is Kind.DIRECTORY:
            found[entry.path] = oct(stat.S_IFDIR | entry.mode)
        else:
            found[entry.path] = layers[node.layer].getvalue()[
                entry.offset : entry.offset + entry.size
            ]
    found.pop("", None)
    return found


@pytest.mark.parametrize("who", people(), ids=str)
def test_the_overlay_of_unpacked_layers_is_the_merged_tree(tmp_path, who):
    """A22-A26: for any three layers the kernel shows what the tree of their indexes says."""
    for parent in [tmp_path, *tmp_path.parents[:2]]:
        parent.chmod(parent.stat().st_mode | 0o011)
    base = tmp_path / "b"
    base.mkdir()
    os.chown(base, who.uid, -1)
    run_in_namespace(who, lambda: compare_overlays(str(base)))


def compare_overlays(base):
    import ctypes  # noqa: PLC0415  in the namespace only

    libc = ctypes.CDLL(None, use_errno=True)
    compared = 0
    for seed in range(400):
        dice = Dice(seed)
        layers = [archive(*some_layer(dice, has_marks=number > 0)) for number in range(3)]
        indexes = [
            [entry for entry, _ in read_entries(io.BytesIO(one.getvalue()))] for one in layers
        ]
        try:
            tree = Tree.of(indexes)
        except ArchiveError:
            continue
        names = []
        try:
            for number, layer in enumerate(layers):
                name = f"{base}/{seed}-{number}"
                os.mkdir(name)
                names.insert(0, name)
                fd = os.open(name, os.O_RDONLY)
                extract_layer(layer, fd, Tree.of(indexes[:number]))
                os.close(fd)
        except ArchiveError as error:
            assert "is not in the same layer" in error.message  # noqa: PT017  others are fine
            continue
        target = f"{base}/{seed}"
        os.mkdir(target)
        mount(libc, "overlay", target, "overlay", 0, f"lowerdir={':'.join(names)},userxattr")
        assert seen(target) == expected(tree, layers), (seed, indexes)
        unmount(target)
        compared += 1
    assert compared > 150


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o600, 0o644, 0o755, 0o777, 0o4755, 0o1666])
def test_modes_do_not_depend_on_the_umask(tmp_path, umask, mode):
    """A file has the mode its entry says, whether it was made with it or changed to it."""
    before = os.umask(umask)
    try:
        Lab(tmp_path, keep=False).unpack(archive((Entry("f", Kind.FILE, mode, mtime=5), b"")))
    finally:
        os.umask(before)
    status = (tmp_path / "root" / "f").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (mode, 5)


def test_modes_do_not_depend_on_a_default_acl(tmp_path):
    """A state directory whose ACL closes what is made in it holds files as open as they should."""
    entries = ((0x01, 7), (0x04, 0), (0x20, 0))  # owner, group, others
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry, -1) for entry in entries)
    lab = Lab(tmp_path, keep=False)
    os.setxattr(lab.top, "system.posix_acl_default", acl)
    lab.unpack(archive(directory("d"), file("d/f", b"")))
    assert stat.S_IMODE((lab.top / "d" / "f").stat().st_mode) == 0o644
