"""The kernel's views in a step's root: /proc, /sys and /dev, cut down as containers have them.

Made by init before the step's own mounts. A link or file in place of one of the three is
refused; what lies under them is then ours, so plain paths are safe (sheet E, D15-D17).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox import syscalls, targets
from builder.sandbox.spec import DEFAULT_SHM_SIZE, NetworkMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.mounts import Scratch
    from builder.sandbox.spec import SandboxSpec

    MountProc = Callable[[str], None]

MASKED = (
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
)
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")
NODES = ("null", "zero", "full", "random", "urandom", "tty")
INSECURE_NODES = ("cuse", "fuse", "kmsg", "kvm", "loop-control", "net/tun")
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_DEV_SIZE = 64 * 1024  # KiB; as other runtimes give
_AT_FDCWD = -100
_NOSUID = syscalls.MS_NOSUID
STRICT = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_STRICT_TREE = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC


def mount_proc(target: str) -> None:
    """Mount the /proc of the caller's PID namespace."""
    syscalls.mount("proc", target, "proc", STRICT)


def mount_system(
    root: targets.Root,
    root_path: str,
    scratch: Scratch,
    spec: SandboxSpec,
    mount_proc: MountProc = mount_proc,
) -> None:
    """Mount the three views and hide what a step has no business with."""
    fds = {name: targets.system_directory(root, name) for name in ("proc", "sys", "dev")}
    try:
        _mount_dev(fds["dev"], f"{root_path}/dev", spec.shm_size)
        try:
            mount_proc(f"{root_path}/proc")  # a directory as we know by now, and nobody's but ours
        except PermissionError:
            # Part of the outer /proc is masked, so the kernel refuses a fresh one: share the outer.
            _clone("/proc", fds["proc"], _STRICT_TREE)
        _mount_sys(fds["sys"], spec)
    finally:
        for fd in fds.values():
            os.close(fd)
    if spec.insecure:
        _add_devices(f"{root_path}/dev")
    else:
        _restrict(root_path, scratch)


def _mount_sys(target: int, spec: SandboxSpec) -> None:
    """Show the step's own interfaces where it has a network of its own, else the host's view."""
    if spec.network is not NetworkMode.HOST:
        flags = STRICT if spec.insecure else STRICT | syscalls.MS_RDONLY
        try:
            syscalls.mount("sysfs", f"/proc/self/fd/{target}", "sysfs", flags)
        except PermissionError:
            pass  # the outer /sys is masked, so the kernel refuses a fresh one: share the outer
        else:
            return
    _clone("/sys", target, _STRICT_TREE | (0 if spec.insecure else syscalls.MOUNT_ATTR_RDONLY))


def clone_sys(target: str, *, readonly: bool) -> None:
    """Mount the host's /sys as a step may see it."""
    attributes = _STRICT_TREE | (syscalls.MOUNT_ATTR_RDONLY if readonly else 0)
    _clone_to_path("/sys", target, attributes)


def is_noexec(path: str) -> bool:
    """Whether programs cannot be started from a path's mount."""
    return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)


def _clone(source: str, target: int, attributes: int) -> None:
    tree = syscalls.clone_tree(_AT_FDCWD, source)
    try:
        if attributes:
            syscalls.restrict_tree(tree, attributes)
        syscalls.attach(tree, target)
    finally:
        os.close(tree)


def _clone_to_path(source: str, target: str, attributes: int) -> None:
    fd = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _clone(source, fd, attributes)
    finally:
        os.close(fd)


def _mount_dev(target: int, path: str, shm_size: int) -> None:
    data = f"mode=755,size={_DEV_SIZE}k"
    syscalls.mount("tmpfs", f"/proc/self/fd/{target}", "tmpfs", syscalls.MS_NOSUID, data)
    for name in NODES:
        os.close(os.open(f"{path}/{name}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        _clone_to_path(f"/dev/{name}", f"{path}/{name}", 0)
    for name, text in _LINKS:
        os.symlink(text, f"{path}/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{path}/{name}", 0o755)
    _mount_terminals(f"{path}/pts")
    # One of another size is a mount the build asked for, and as plain as others of those.
    kind, flags = ("shm", STRICT) if shm_size == DEFAULT_SHM_SIZE else ("tmpfs", _NOSUID)
    syscalls.mount(kind, f"{path}/shm", "tmpfs", flags, f"mode=1777,size={shm_size}")
    syscalls.mount("mqueue", f"{path}/mqueue", "mqueue", STRICT)


def _mount_terminals(target: str) -> None:
    flags, data = syscalls.MS_NOSUID | syscalls.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"
    try:
        syscalls.mount("devpts", target, "devpts", flags, f"{data},gid=5")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        syscalls.mount("devpts", target, "devpts", flags, data)  # group tty has no id here


def _add_devices(path: str) -> None:
    """Add the host's devices an insecure step may use, where the host has them (R21)."""
    os.mkdir(f"{path}/net", 0o755)
    for name in INSECURE_NODES:
        if stat.S_ISCHR(_mode(f"/dev/{name}")):
            os.close(os.open(f"{path}/{name}", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
            _clone_to_path(f"/dev/{name}", f"{path}/{name}", 0)


def _restrict(root_path: str, scratch: Scratch) -> None:
    empty = scratch.directory()
    os.chmod(empty, 0o1777)  # noqa: S103 - read-only below; as other runtimes show it
    readonly = syscalls.MOUNT_ATTR_RDONLY | _STRICT_TREE
    for name in READ_ONLY:
        path = f"{root_path}/{name}"
        if _mode(path):
            _clone_to_path(path, path, readonly)
    for name in MASKED:
        path = f"{root_path}/{name}"
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            _clone_to_path(empty, path, readonly)
        elif mode:
            _clone_to_path(f"{root_path}/dev/null", path, syscalls.MOUNT_ATTR_RDONLY)


def _mode(path: str) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0
