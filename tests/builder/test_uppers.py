"""Where the changes of steps go where they cannot lie beside the trees, with real mounts (F7)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile

import pytest
from support.namespaces import mount, people, run_in_namespace

from builder.errors import HostUnsupportedError
from builder.sandbox import uppers

WHO = people()


@pytest.fixture(params=WHO, ids=str)
def inside(request):
    """Run a function in a namespace with an empty directory; file systems are mounted below it."""
    who = request.param
    place = tempfile.mkdtemp(prefix="pybuild-uppers-", dir="/var/tmp")
    os.chown(place, who.uid, -1)
    yield lambda function: run_in_namespace(who, lambda: function(place))
    shutil.rmtree(place)


def overlaid(place):
    """A directory on an overlay, as a container's own file system is one, and one to try in."""
    libc = ctypes.CDLL(None, use_errno=True)
    mount(libc, "tmpfs", place, "tmpfs", 0, "")
    for name in ("lower", "upper", "work", "root", "volume"):
        os.mkdir(f"{place}/{name}")
    data = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work,userxattr"
    mount(libc, "overlay", f"{place}/root", "overlay", 0, data)
    mount(libc, "tmpfs", f"{place}/volume", "tmpfs", 0, "")
    os.mkdir(f"{place}/root/trial")
    return f"{place}/root/trial", f"{place}/volume"


def test_on_a_disk_changes_lie_beside_the_trees(inside):
    """An ordinary file system is used as it is, and volumes are not even looked for."""

    def check(place):
        mount(ctypes.CDLL(None, use_errno=True), "tmpfs", place, "tmpfs", 0, "")
        assert uppers.find(place, 7, lambda: pytest.fail("not needed")) == uppers.BESIDE
        assert os.listdir(f"{place}/root") == ["file"]

    inside(check)


def test_on_an_overlay_a_volume_takes_changes(inside):
    """A directory of our own is made there when it is needed, mode 0700; a trial leaves nothing."""

    def check(place):
        trial, volume = overlaid(place)
        assert uppers.find(trial, 7, lambda: (volume,)) == f"{volume}/pybuild-7"
        assert os.listdir(volume) == []
        os.mkdir(f"{place}/active")
        uppers.settle(f"{volume}/pybuild-7", f"{place}/active")
        assert oct(os.stat(f"{volume}/pybuild-7").st_mode)[-3:] == "700"
        assert os.path.samestat(os.stat(f"{place}/active"), os.stat(f"{volume}/pybuild-7"))

    inside(check)


def test_without_a_volume_memory_does(inside):
    """A tmpfs of limited size over the directory of active snapshots, in our mounts only."""

    def check(place):
        trial, volume = overlaid(place)
        os.symlink("/", f"{volume}/pybuild-7")
        assert uppers.find(trial, 7, lambda: ("/proc/nowhere", volume)) == uppers.MEMORY
        uppers.settle(uppers.MEMORY, f"{place}/active")
        room = os.statvfs(f"{place}/active")
        size = room.f_blocks * room.f_frsize
        assert 0 < size <= uppers.memory_to_use(lambda _path: "") + (1 << 40)
        assert oct(os.stat(f"{place}/active").st_mode)[-3:] == "700"

    inside(check)


def test_a_place_that_is_gone_or_somebody_elses_is_refused(inside):
    """The volume was taken away, or somebody put a link there: said with the way out."""

    def check(place):
        _, volume = overlaid(place)
        os.symlink("/", f"{volume}/pybuild-7")
        cases = [("pybuild-7", "not a dir"), ("gone/x", "no such")]
        os.mkdir(f"{volume}/pybuild-8")
        with contextlib.suppress(OSError):  # with one id nobody else's can be made
            os.chown(f"{volume}/pybuild-8", 8, 8)
            cases.append(("pybuild-8", "somebody else"))
        for name, said in cases:
            where = f"{volume}/{name}"
            with pytest.raises(HostUnsupportedError, match=said) as caught:
                uppers.settle(where, f"{place}/active")
            assert caught.value.hint

    inside(check)


def test_nowhere_is_an_error_that_says_why(inside, monkeypatch):
    """The reason is that of the state's own file system."""

    def refuse(*_args):
        raise HostUnsupportedError("cannot mount an overlay for a step: no", hint="ext4")

    monkeypatch.setattr(uppers, "mount_overlay", refuse)

    def check(place):
        mount(ctypes.CDLL(None, use_errno=True), "tmpfs", place, "tmpfs", 0, "")
        with pytest.raises(HostUnsupportedError, match="no") as caught:
            uppers.find(place, 7, lambda: ())
        assert caught.value.hint == "ext4"

    inside(check)


def test_beside_changes_nothing(tmp_path):
    """What can lie where it always does is left alone."""
    uppers.settle(uppers.BESIDE, str(tmp_path / "active"))
    assert not (tmp_path / "active").exists()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   4194304 kB\n"}, 2 << 30),
        (
            {
                "/proc/meminfo": "MemAvailable: 4194304 kB\n",
                "/sys/fs/cgroup/memory.max": "1073741824\n",
            },
            512 << 20,
        ),
        ({"/proc/meminfo": "MemAvailable: 4194304 kB\n", "/sys/fs/cgroup/memory.max": "max\n"}, 2 << 30),
        ({}, 64 << 20),
        ({"/proc/meminfo": "MemAvailable: x\n"}, 64 << 20),
    ],
)  # fmt: skip
def test_half_of_the_memory_is_used(files, expected):
    """Of what is available, or of what the container may have, whichever is less."""
    assert uppers.memory_to_use(lambda path: files.get(path, "")) == expected


def test_advice_is_one_line_naming_the_volume(tmp_path):
    """Only where memory stands in; it names emptyDir and the variable."""
    line = uppers.advice(str(tmp_path), uppers.MEMORY)
    assert "\n" not in line
    assert "emptyDir" in line
    assert "PYBUILD_ROOT" in line
    assert uppers.advice(str(tmp_path), "/volume/pybuild-0") == ""
