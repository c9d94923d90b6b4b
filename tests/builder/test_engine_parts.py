"""The engine's parts by themselves: numbers, filter, records, identities, names, executions."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct

import pytest

from builder.errors import HostUnsupportedError
from builder.sandbox.engine import kernel
from builder.sandbox.engine.abi import abi_of
from builder.sandbox.engine.identities import Identities, Identity
from builder.sandbox.engine.plans import HANDLERS, emulation
from builder.sandbox.engine.program import CREATING, Plan, program
from builder.sandbox.engine.programs import Programs
from builder.sandbox.engine.records import Records, key_of
from builder.sandbox.engine.step import Step
from builder.sandbox.engine.tracer import TRACED
from builder.sandbox.engine.view import Place, View, plain, signed

ALLOW, NOTIFY, TRACE = 0x7FFF0000, 0x7FC00000, 0x7FF00000
MACHINES = ("x86_64", "aarch64")
# A program without segments: an identification, then sizes of what there is none of.
OWN = {"x86_64": 62, "aarch64": 183}[os.uname().machine]
STATIC = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + struct.pack("<H34x5H", OWN, 56, 0, 64, 0, 0)


def verdict(code, number, arch, arguments=(0,) * 6):
    """Run a filter as the kernel would."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *arguments)
    rows = list(struct.iter_unpack("=HBBI", code))
    at, accumulator = 0, 0
    while True:
        operation, true, false, operand = rows[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x15:
            at += true if accumulator == operand else false
        elif operation == 0x35:
            at += true if accumulator >= operand else false
        elif operation == 0x45:
            at += true if accumulator & operand else false
        else:
            return operand


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_each_machines_own(machine):
    """No number stands for two calls, and what is answered has a number on some machine."""
    numbers = abi_of(machine).numbers
    assert len(set(numbers.values())) == len(numbers)
    known = set(abi_of("x86_64").numbers)
    assert set(HANDLERS) <= known
    assert set(TRACED) <= known
    assert numbers["openat"] == {"x86_64": 257, "aarch64": 56}[machine]


def test_other_machines_are_refused():
    """There is no table for them."""
    with pytest.raises(HostUnsupportedError, match="riscv64"):
        abi_of("riscv64")


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_go_where_the_plan_says(machine):
    """Notified, traced, refused with their errno; others and unknown ones run; foreign ones do not."""
    abi = abi_of(machine)
    code = program(abi, emulation())
    for name, number in abi.numbers.items():
        found = verdict(code, number, abi.audit)
        if name in HANDLERS:
            assert found == NOTIFY, name
        elif name in TRACED:
            assert found == TRACE, name
    assert verdict(code, 0, abi.audit) == ALLOW
    assert verdict(code, abi.numbers["openat"], abi.audit ^ 1) == 0x50000 | errno.ENOSYS


def test_bits_of_arguments_decide():
    """An open is handed over only if it creates."""
    abi = abi_of("x86_64")
    code = program(abi, Plan(bits=CREATING))
    openat = abi.numbers["openat"]
    assert verdict(code, openat, abi.audit, (0, 0, os.O_CREAT | os.O_WRONLY, 0, 0, 0)) == NOTIFY
    assert verdict(code, openat, abi.audit, (0, 0, os.O_RDWR, 0, 0, 0)) == ALLOW


def test_numbers_of_arguments_decide():
    """A prctl is handed over for two options of it, in 64 bits; the calls after it are what they are."""
    abi = abi_of("x86_64")
    prctl, getcwd = abi.numbers["prctl"], abi.numbers["getcwd"]
    plan = Plan(equal=(("prctl", 0, 3), ("prctl", 0, 4), ("getcwd", 1, 0)), known=500)
    code = program(abi, plan)
    for option, expected in ((3, NOTIFY), (4, NOTIFY), (5, ALLOW), (1 << 32 | 4, ALLOW)):
        assert verdict(code, prctl, abi.audit, (option, 0, 0, 0, 0, 0)) == expected, option
    assert verdict(code, getcwd, abi.audit) == NOTIFY
    assert verdict(code, 501, abi.audit) == NOTIFY
    assert verdict(code, prctl + 1, abi.audit, (4, 4, 4, 4, 4, 4)) == ALLOW


def test_records_show_in_every_status(tmp_path):
    """Owner, mode and device of stat and statx are the recorded ones; ours read as root's."""
    path = tmp_path / "f"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    records = Records(os.geteuid(), os.getegid())
    key, status = key_of(fd)
    assert records.shown(status)[1:] == (0, 0)
    record = records.make(key)
    record.uid, record.gid, record.mode, record.device = (
        33,
        44,
        stat.S_IFCHR | 0o640,
        os.makedev(1, 3),
    )
    assert records.shown(status) == (stat.S_IFCHR | 0o640, 33, 44)
    data = records.patched(kernel.stat_bytes(fd))
    mode, uid, gid = struct.unpack_from("<III", data, 24 if kernel.STAT_SIZE == 144 else 16)[:3]
    if kernel.STAT_SIZE == 144:
        assert (mode, uid, gid) == (stat.S_IFCHR | 0o640, 33, 44)
    wide = records.patched_statx(kernel.statx_bytes(fd, b"", kernel.AT_EMPTY_PATH, 0xFFF))
    assert struct.unpack_from("<II", wide, 20) == (33, 44)
    assert struct.unpack_from("<H", wide, 28)[0] == stat.S_IFCHR | 0o640
    assert struct.unpack_from("<II", wide, 128) == (1, 3)
    records.forget(key)
    assert records.shown(status)[1:] == (0, 0)
    os.close(fd)


def test_identities_follow_fork(tmp_path):
    """What a process became, its children are, with no bookkeeping of ours."""
    identities = Identities(Identity())
    go_read, go_write = os.pipe()
    told_read, told_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go_read, 1)
        grandchild = os.fork()
        if grandchild == 0:
            os.read(go_read, 1)
            os._exit(0)
        os.write(told_write, str(grandchild).encode())
        os.waitpid(grandchild, 0)
        os._exit(0)
    nobody = Identity(5, 5, 5, 6, 6, 6, (6, 7), 0o077)
    identities.become(child, nobody)
    os.write(go_write, b"1")
    grandchild = int(os.read(told_read, 20))
    assert identities.of(grandchild) == nobody
    assert identities.of(os.getpid()) == Identity()
    os.write(go_write, b"1")
    os.waitpid(child, 0)
    for fd in (go_read, go_write, told_read, told_write):
        os.close(fd)


def test_identities_are_remembered_until_somebody_changes():
    """Asked of the kernel once for a task, where its end is told; threads change together."""
    identities = Identities(Identity(), followed=True)
    go_read, go_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go_read, 1)
        os._exit(0)
    identities.become(child, Identity(euid=5))
    assert identities.of(child).euid == 5
    identities.become(child, Identity(euid=6))
    assert identities.of(child).euid == 6
    assert identities.of(os.getpid()) == Identity()
    os.write(go_write, b"1")
    os.waitpid(child, 0)
    assert identities.of(child).euid == 6  # not asked again
    identities.forget(child)
    with pytest.raises(ProcessLookupError):
        identities.of(child)
    os.close(go_read)
    os.close(go_write)


def test_links_are_told_apart_from_what_is_missing(view):
    """A path without links is opened in one call; others are looked at closely (SEC-7)."""
    how = (os.O_PATH | os.O_CLOEXEC, 0)
    fd = kernel.open_without_links(view.root_fd, b"/d/f", *how)
    assert fd > 0
    os.close(fd)
    assert kernel.open_without_links(view.root_fd, b"/abs", *how) == -errno.ELOOP
    assert kernel.open_without_links(view.root_fd, b"/d/none", *how) == -errno.ENOENT
    assert kernel.open_without_links(view.root_fd, b"/../../../etc/passwd", *how) == -errno.ENOENT


@pytest.fixture
def view(tmp_path):
    """A tree with links, and places beside it."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d/f").write_text("inside")
    (root / "abs").symlink_to("/d/f")
    (root / "out").symlink_to("../../../../../../etc/passwd")
    (root / "into").symlink_to("/cache/kept")
    (root / "cache").mkdir()
    (root / "mtab").symlink_to("/proc/self/mounts")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (outside / "escape").symlink_to("/etc/passwd")
    places = [
        Place(b"/cache", os.fsencode(outside), readonly=True),
        *(Place(name, name) for name in (b"/proc", b"/dev", b"/sys")),
    ]
    ours = {os.getpid()}
    made = View(os.fsencode(root), places, ours.__contains__, lambda task: task)
    yield made
    made.close()


def read(view, path, flags=os.O_RDONLY):
    """The content of a guest path."""
    fd = view.open(os.getpid(), os.fsencode(path), flags)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_links_and_dots_stay_in_the_tree(view):
    """Absolute links begin at the step's root, and `..` ends there (SEC-7)."""
    assert read(view, "/abs") == b"inside"
    assert read(view, "/../../d/../d/f") == b"inside"
    with pytest.raises(FileNotFoundError):
        read(view, "/out")


def test_places_are_reached_by_name_and_by_link(view):
    """As if mounted: below the target, through a link in the tree, and no further."""
    assert read(view, "/cache/kept") == b"kept"
    assert read(view, "/into") == b"kept"
    assert read(view, "/d/../cache/kept") == read(view, "//cache/./kept") == b"kept"
    with pytest.raises(FileNotFoundError):
        read(view, "/cache/escape")
    with pytest.raises(OSError, match="Read-only") as caught:
        read(view, "/cache/new", os.O_WRONLY | os.O_CREAT)
    assert caught.value.errno == errno.EROFS
    assert view.guest_name(view.root + b"/d/f") == b"/d/f"


def test_other_processes_are_not_there(view):
    """/proc shows the step's own; a link there leads where the kernel says."""
    assert b" / " in read(view, "/mtab") or read(view, "/mtab")
    assert read(view, f"/proc/{os.getpid()}/comm")
    for other in ("/proc/1/comm", f"/proc/{os.getppid()}/environ", "/proc/kcore", "/sys/firmware"):
        with pytest.raises(FileNotFoundError):
            read(view, other)
    with pytest.raises(FileNotFoundError):
        read(view, "/dev/sda")
    assert read(view, "/dev/null") == b""


def test_names_are_tidied_as_written():
    """Only what is written counts: no link is looked at."""
    assert plain(b"//proc/./self/../1") == b"/proc/1"
    assert plain(b"/a/b/") == b"/a/b"
    assert signed(0xFFFFFF9C) == kernel.AT_FDCWD


@pytest.fixture
def programs(view):
    """Executions in the tree of `view`."""
    step = Step(-1, {b"": view}, Records(os.geteuid(), os.getegid()), Identities(Identity()))
    return Programs(step)


def executable(view, path, data, mode=0o755):
    """Put a file into the tree."""
    target = os.fsdecode(view.root) + path
    with open(target, "wb") as file:
        file.write(data)
    os.chmod(target, mode)
    return target


def planned(programs, path, written=None):
    """Plan an execution by this process."""
    name = path.encode()
    return programs.plan(os.getpid(), name, b"argv0", (written or path).encode())


def test_static_programs_run_as_they_are(view, programs):
    """No loader, nothing in front of the caller's arguments but argv[0]."""
    executable(view, "/d/static", STATIC)
    found = planned(programs, "/d/static")
    assert (found.leading, found.rest, found.guest) == ((b"argv0",), 1, b"/d/static")
    assert found.host == view.root + b"/d/static"


def test_dynamic_programs_are_started_by_their_loader(view, programs):
    """The tree's own loader, told the program's name where it can be."""
    shutil.copy("/bin/ls", os.fsdecode(view.root) + "/d/ls")
    loader = next(
        p
        for p in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
        if os.path.exists(p)
    )
    target = os.fsdecode(view.root) + loader
    os.makedirs(os.path.dirname(target))
    shutil.copy(loader, target)
    found = planned(programs, "/d/ls")
    assert found.host == os.fsencode(target)
    assert found.leading == (loader.encode(), b"--argv0", b"argv0", b"/d/ls")
    assert (found.rest, found.guest) == (1, b"/d/ls")


def test_scripts_of_scripts(view, programs):
    """Interpreter, one argument, the script as it was written; five deep at most (ELOOP)."""
    executable(view, "/d/static", STATIC)
    executable(view, "/s", b"#!/d/static  one argument \nrest")
    executable(view, "/t", b"#! /s\n")
    assert planned(programs, "/s", "./s").leading == (b"/d/static", b"one argument", b"./s")
    assert planned(programs, "/t").leading == (b"/d/static", b"one argument", b"/s", b"/t")
    executable(view, "/loop", b"#!/loop\n")
    with pytest.raises(OSError, match="symbolic links") as caught:
        planned(programs, "/loop")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize(
    ("data", "mode", "number"),
    [
        (b"\x7fELF\x01\x01\x01".ljust(64, b"\0"), 0o755, errno.ENOEXEC),  # 32 bits
        (b"no program", 0o755, errno.ENOEXEC),
        (b"", 0o755, errno.ENOEXEC),
        (b"#!\n", 0o755, errno.ENOEXEC),
        (b"#!/bin/sh\n", 0o644, errno.EACCES),
    ],
)
def test_what_is_no_program_is_refused(view, programs, data, mode, number):
    """With the errno that execve gives, so that shells say what they always say."""
    executable(view, "/x", data, mode)
    with pytest.raises(OSError, match=r".") as caught:
        planned(programs, "/x")
    assert caught.value.errno == number


def test_set_id_programs_change_who_runs(view, programs):
    """The recorded owner of a set-user-id file becomes the effective id."""
    target = executable(view, "/x", STATIC)
    status = os.stat(target)
    record = programs._step.records.make((status.st_dev, status.st_ino))
    record.uid, record.gid, record.mode = 7, 8, stat.S_IFREG | 0o6755
    found = planned(programs, "/x")
    assert (found.uid, found.gid) == (7, 8)
