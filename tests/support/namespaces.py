"""Running a function as root of a fresh user and mount namespace, in a forked child."""

from __future__ import annotations

import ctypes
import os
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NEWUSER_NEWNS = 0x10020000
_PRIVATE = 1 << 18 | 1 << 14
_DUMPABLE = 4
_NOBODY = 65534


@dataclass(frozen=True)
class Who:
    """As whom to run: really root with many ids mapped, or a plain user with one."""

    name: str
    uid: int
    ids: int

    def __str__(self) -> str:
        return self.name


def people() -> list[Who]:
    """Root with 65536 ids and a plain user when we are root; else only ourselves."""
    if os.getuid() == 0:
        return [Who("root", 0, 65536), Who("user", _NOBODY, 1)]
    return [Who("user", os.getuid(), 1)]


def run_in_namespace(who: Who, function: Callable[[], None]) -> None:
    """Call the function in a namespace; an exception there fails the caller with its trace."""
    libc = ctypes.CDLL(None, use_errno=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            _enter(libc, who)
            function()
            status = 0
        except BaseException:  # noqa: BLE001 - the parent reports whatever it was
            os.write(writing, traceback.format_exc().encode(errors="replace")[-60000:])
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        report = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if status:
        raise AssertionError(report or f"child ended with wait status {status}")


def _enter(libc, who):
    if os.getuid() != who.uid:
        os.setgroups([])
        os.setresgid(who.uid, who.uid, who.uid)
        os.setresuid(who.uid, who.uid, who.uid)
        libc.prctl(_DUMPABLE, 1, 0, 0, 0)
    reading, writing = os.pipe()
    child = os.getpid()
    gid = os.getgid()
    helper = os.fork()  # many ids can only be mapped from outside
    if helper == 0:
        os.close(writing)
        os.read(reading, 1)
        try:
            _map(child, "uid_map" if who.ids > 1 else None, who, gid)
        finally:
            os._exit(0)
    if libc.unshare(_NEWUSER_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    os.close(writing)
    os.waitpid(helper, 0)
    os.close(reading)
    if who.ids == 1:
        _map("self", "setgroups", who, gid)
    mount(libc, None, "/", None, _PRIVATE, None)


def _map(process, first, who, gid):
    """Write the id maps of a process, from outside or inside."""
    if first is None:
        return
    texts = {
        "setgroups": "deny",
        "uid_map": f"0 {who.uid} {who.ids}",
        "gid_map": f"0 {gid} {who.ids}",
    }
    names = list(texts)
    for name in names[names.index(first) :]:
        with open(f"/proc/{process}/{name}", "w") as file:
            file.write(texts[name])


def mount(libc, source, target, kind, flags, data):
    """Mount by the old system call; None stands for a null pointer."""
    texts = [None if t is None else os.fsencode(t) for t in (source, target, kind, data)]
    if libc.mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"mount {target} {data}")


def mount_overlay(overlay, target):
    """Mount an Overlay as the sandbox would."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.getcwd()
    os.chdir(overlay.base)
    try:
        lowers = ":".join(overlay.lowers)
        data = (
            f"lowerdir={lowers},upperdir={overlay.upper},workdir={overlay.work},userxattr,volatile"
        )
        mount(libc, "overlay", target, "overlay", 0, data)
    finally:
        os.chdir(here)


def unmount(target):
    """Take a mount away."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(target), 2):
        raise OSError(ctypes.get_errno(), "umount2", target)
