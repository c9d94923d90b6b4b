"""What the engine refuses, says and logs: nothing that names a file reaches the kernel unseen."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

import pytest

from builder.sandbox import seccomp
from builder.sandbox.engine import calllog, kernel, refusals
from builder.sandbox.engine.abi import abi_of
from builder.sandbox.engine.identities import Identities, Identity
from builder.sandbox.engine.kernel import Request
from builder.sandbox.engine.plans import HANDLERS, emulation
from builder.sandbox.engine.program import program
from builder.sandbox.engine.programs import foreign
from builder.sandbox.engine.records import Records
from builder.sandbox.engine.step import Step
from builder.sandbox.engine.tracer import TRACED
from builder.sandbox.seccomp_table import LAST_KNOWN

MACHINES = ("x86_64", "aarch64")
# Every call of Linux 6.17 that is given a name of a file, or a handle that stands for one.
NAMING = """
access acct bind chdir chmod chown chroot connect creat execve execveat faccessat faccessat2
fanotify_mark fchmodat fchmodat2 fchownat file_getattr file_setattr fsopen fspick futimesat
getxattr getxattrat inotify_add_watch lchown lgetxattr link linkat listmount listxattr listxattrat
llistxattr lremovexattr lsetxattr lstat mkdir mkdirat mknod mknodat mount mount_setattr move_mount
name_to_handle_at newfstatat open open_by_handle_at open_tree open_tree_attr openat openat2
pivot_root quotactl quotactl_fd readlink readlinkat removexattr removexattrat rename renameat
renameat2 rmdir sendmmsg sendmsg setns setxattr setxattrat stat statfs statmount statx swapoff swapon
symlink symlinkat truncate umount2 unlink unlinkat uselib utime utimensat utimes
"""


def run(code, number, arch, arguments=(0,) * 6):
    """What a filter says."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *arguments)
    rows = list(struct.iter_unpack("=HBBI", bytes(code)))
    at, accumulator = 0, 0
    while rows[at][0] != 0x06:
        operation, true, false, operand = rows[at]
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
            at += 1
            continue
        met = {
            0x15: accumulator == operand,
            0x35: accumulator >= operand,
            0x45: bool(accumulator & operand),
        }[operation]
        at += 1 + (true if met else false)
    return rows[at][3]


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_that_names_a_file_is_answered(machine):
    """None is left to the kernel, those refused included, and none newer than the tables (C5, SEC-7)."""
    abi = abi_of(machine)
    code = program(abi, emulation())
    known = abi_of("x86_64").numbers
    assert set(NAMING.split()) <= set(known)
    for name in NAMING.split():
        assert name in HANDLERS or name in TRACED, name
        if name in abi.numbers:
            assert run(code, abi.numbers[name], abi.audit) in {0x7FC00000, 0x7FF00000}, name
    for number in (LAST_KNOWN + 1, 500, 1000, 0x3FFFFFFF):
        assert run(code, number, abi.audit) == 0x7FC00000
    assert run(code, 0x40000000 | 2, abi.audit) == 0x50000 | errno.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_below_lets_through_what_is_answered(machine):
    """Nothing else: io_uring, keys and bpf stay refused, other ways to call unknown (D11)."""
    abi = abi_of(machine)
    plain = seccomp.program(machine)
    numbers = tuple(abi.numbers[name] for name in HANDLERS if name in abi.numbers)
    below = seccomp.program(machine, numbers, newer=True)
    for number in range(LAST_KNOWN + 1):
        expected = 0x7FFF0000 if number in numbers else run(plain, number, abi.audit)
        assert run(below, number, abi.audit) == expected, number
    assert run(below, LAST_KNOWN + 1, abi.audit) == 0x7FFF0000
    for number in (0x40000000, 0x40000002, 0xFFFFFFFF):
        assert run(below, number - (1 << 32 if number >> 31 else 0), abi.audit) == 0x50026
    assert run(below, 0, abi.audit ^ 1) == 0x50026
    for name in ("io_uring_setup", "bpf", "keyctl"):
        number = {"io_uring_setup": 425, "bpf": 321, "keyctl": 250}[name]
        if machine == "x86_64":
            assert run(below, number, abi.audit) == 0x50000 | errno.EPERM


@pytest.fixture
def step():
    """A step that has no calls to answer."""
    return Step(-1, {}, Records(os.geteuid(), os.getegid()), Identities(Identity()))


def test_what_is_refused_is_named_once(step, capfd):
    """A line on the step's stderr for each name, not for each call; quiet where an older way exists (C5)."""
    request = Request(1, os.getpid(), 999, (0,) * 6)
    for _ in range(3):
        with pytest.raises(OSError, match="not permitted") as caught:
            refusals.CALLS["mount"](step, request)
        assert caught.value.errno == errno.EPERM
        with pytest.raises(OSError, match="not implemented") as caught:
            refusals.CALLS["openat2"](step, request)
        assert caught.value.errno == errno.ENOSYS
        with pytest.raises(OSError, match="not implemented"):
            refusals.unknown(step, request)
        with pytest.raises(OSError, match=r"."):
            HANDLERS["ptrace"](step, request)
    step.tell("odd", "a\udcff")
    said = capfd.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in said] == [
        "mount", "system call 999", "ptrace", "a?",
    ]  # fmt: skip


def header(bits, number, order="<"):
    """The first bytes of a program."""
    start = b"\x7fELF" + bytes((bits // 32, 1 if order == "<" else 2, 1))
    return (start.ljust(16, b"\0") + struct.pack(f"{order}HH", 2, number)).ljust(64, b"\0")


def test_programs_of_other_machines_are_recognised():
    """So that a message can say why they cannot be executed (C5)."""
    own, other = (62, 183) if os.uname().machine == "x86_64" else (183, 62)
    assert foreign(header(64, own)) == ""
    assert foreign(header(64, other)) in {"aarch64", "x86_64"}
    assert foreign(header(32, 3)) == "i386"
    assert foreign(header(32, own)).endswith(" with 32-bit addresses")
    assert foreign(header(64, 22, ">")) == "s390x"
    assert foreign(header(64, 999)) == "machine number 999"
    assert foreign(b"#!/bin/sh") == foreign(b"\x7fELF") == ""


def test_the_log_tells_name_path_and_answer(tmp_path, step, monkeypatch):
    """A line for each call where PYBUILD_DEBUG_EMULATE names a file, and nothing at all otherwise."""
    monkeypatch.delenv(calllog.VARIABLE, raising=False)
    assert calllog.from_environment() is None
    monkeypatch.setenv(calllog.VARIABLE, str(tmp_path / "log"))
    log = calllog.from_environment()
    text = ctypes.create_string_buffer(b"/a\nb\xff")
    place = ctypes.addressof(text)
    request = Request(1, os.getpid(), 0, (place, place, 0, 0, 0, 0))
    assert log.handler("mkdir", lambda _s, _r: 7)(step, request) == 7
    log.handler("openat", lambda _s, _r: None)(step, request)
    log.handler("getuid", lambda _s, _r: -(1 << 62))(step, request)
    with pytest.raises(OSError, match=r"."):
        log.handler("rename", lambda _s, _r: kernel.fail(errno.EXDEV))(step, request)
    bad = Request(1, os.getpid(), 0, (0,) * 6)
    log.handler("stat", lambda _s, _r: 0)(step, bad)
    name = "'/a\\nb\\xff'"
    assert (tmp_path / "log").read_text().splitlines() == [
        f"{os.getpid()} {line}"
        for line in (
            f"mkdir {name} -> 7",
            f"openat {name} -> done",
            "getuid -> left to the kernel",
            f"rename {name} {name} -> EXDEV",
            "stat ? -> 0",
        )
    ]
