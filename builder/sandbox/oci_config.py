"""config.json of an OCI runtime bundle: the same process and confinement as our own sandbox gives.

Pure: values to a document. Where the root lies and what was mounted in it before is the
caller's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builder.sandbox.seccomp_profile import profile
from builder.sandbox.system import MASKED, READ_ONLY
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.sandbox.credentials import Credentials
    from builder.sandbox.host import Extent

VERSION = "1.0.2"  # what every runtime of today reads
_UNLIMITED = (1 << 64) - 1
_UMASK = 0o022
_TERMINALS = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
_SHM = "/dev/shm"  # noqa: S108 - the step's own
_STRICT = ["nosuid", "noexec", "nodev"]
# The same as process.CAPABILITIES.
CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
_MORE_CAPABILITIES = (
    "CAP_DAC_READ_SEARCH", "CAP_LINUX_IMMUTABLE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_LEASE", "CAP_AUDIT_CONTROL", "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ",
    "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip


@value
class HostBind:
    """Something of the host's at a target. Devices can be used unless it is `plain`.

    `noexec` says that its mount is: whoever has not made that mount cannot take it off.
    """

    source: str
    target: str
    readonly: bool = False
    plain: bool = True
    noexec: bool = False


@value
class Confinement:
    """What a process may do and see, and in which namespaces of its own it is.

    `uids` and `gids` are given when the runtime has to make the user namespace itself.
    """

    hostname: str
    machine: str
    shm_size: int
    own_network: bool = False  # the runtime makes one
    mounts_sys: bool = True  # else it is among the binds
    insecure: bool = False
    binds: tuple[HostBind, ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    uids: tuple[Extent, ...] = ()
    gids: tuple[Extent, ...] = ()


def _has_one_id(kept: Confinement) -> bool:
    """Whether there are no other ids than the one of who starts it."""
    return sum(extent.count for extent in kept.uids) == 1


def config(
    root: str,
    argv: Sequence[str],
    env: Sequence[tuple[str, str]],
    cwd: str,
    owner: Credentials,
    kept: Confinement,
) -> dict[str, Any]:
    """The whole document."""
    return {
        "ociVersion": VERSION,
        "process": _process(argv, env, cwd, owner, kept),
        "root": {"path": root, "readonly": False},
        "hostname": kept.hostname,
        "mounts": _mounts(kept),
        "linux": _linux(kept),
    }


def _process(
    argv: Sequence[str],
    env: Sequence[tuple[str, str]],
    cwd: str,
    owner: Credentials,
    kept: Confinement,
) -> dict[str, Any]:
    held = sorted((*CAPABILITIES, *_MORE_CAPABILITIES)) if kept.insecure else list(CAPABILITIES)
    sets = ["bounding", "effective", "permitted"]
    if kept.insecure:
        sets += ["inheritable", "ambient"]
    user: dict[str, Any] = {"uid": owner.uid, "gid": owner.gid, "umask": _UMASK}
    if owner.groups and not kept.uids:  # runc refuses them to who is not root
        user["additionalGids"] = list(owner.groups)
    return {
        "terminal": False,
        "user": user,
        "args": list(argv),
        "env": [f"{name}={text}" for name, text in env],
        "cwd": cwd,
        "capabilities": dict.fromkeys(sets, held),
        "rlimits": _rlimits(kept.ulimits),
        "noNewPrivileges": False,
    }


def _rlimits(ulimits: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """Limits, each once; none of core files unless asked for."""
    by_name = {name: (soft, hard) for name, soft, hard in (("core", 1, 1), *ulimits)}
    return [
        {
            "type": f"RLIMIT_{name.upper()}",
            "soft": _UNLIMITED if soft < 0 else soft,
            "hard": _UNLIMITED if hard < 0 else hard,
        }
        for name, (soft, hard) in by_name.items()
    ]


def _mount(target: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _mounts(kept: Confinement) -> list[dict[str, Any]]:
    access = [] if kept.insecure else ["ro"]
    views = [
        _mount("/proc", "proc", "proc", _STRICT),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            [*_TERMINALS, *([] if _has_one_id(kept) else ["gid=5"])],
        ),
        _mount(_SHM, "tmpfs", "shm", [*_STRICT, "mode=1777", f"size={kept.shm_size}"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", _STRICT),
    ]
    if kept.mounts_sys:
        views.append(_mount("/sys", "sysfs", "sysfs", [*_STRICT, *access]))
    return [*views, *map(_bind, kept.binds)]


def _bind(bind: HostBind) -> dict[str, Any]:
    """Say all that holds: some runtimes take off what is not said."""
    options = ["rbind", "nosuid", "nodev"] if bind.plain else ["rbind"]
    options += ["noexec"] if bind.noexec else []
    return _mount(bind.target, "bind", bind.source, [*options, *(["ro"] if bind.readonly else [])])


def _linux(kept: Confinement) -> dict[str, Any]:
    kinds = ["pid", "ipc", "uts", "mount"]
    if kept.own_network:
        kinds.append("network")
    linux: dict[str, Any] = {}
    if kept.uids:
        kinds.append("user")
        linux["uidMappings"] = _map(kept.uids)
        linux["gidMappings"] = _map(kept.gids)
    linux["namespaces"] = [{"type": kind} for kind in kinds]
    if not kept.insecure:
        linux["maskedPaths"] = [f"/{name}" for name in MASKED]
        linux["readonlyPaths"] = [f"/{name}" for name in READ_ONLY]
        linux["seccomp"] = profile(kept.machine)
    return linux


def _map(extents: Sequence[Extent]) -> list[dict[str, int]]:
    return [{"containerID": e.inside, "hostID": e.outside, "size": e.count} for e in extents]
