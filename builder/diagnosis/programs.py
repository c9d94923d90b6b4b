"""Programs and devices that only some builds need, and what the kernel's limits can be given."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from typing import TYPE_CHECKING

from builder.diagnosis.finding import Finding
from builder.resources import Limits
from builder.sandbox import emulators
from builder.sandbox.cgroup import Cgroups
from builder.sandbox.cgroupfs import read_hierarchies

if TYPE_CHECKING:
    from builder.sandbox import host

_CAPABILITY = "security.capability"
_RIGHTS = {"newuidmap": 7, "newgidmap": 6}  # CAP_SETUID, CAP_SETGID
_EVERY_LIMIT = Limits(memory=1 << 30, cpu_quota=100_000, cpuset_cpus="0", pids=1000)
_TUN = "/dev/net/tun"
_NO_TUN = {
    "host": "as root: modprobe tun",
    "pod": "have a device plugin give the pod /dev/net/tun, or choose --network host or none",
}
_OPTIONAL = (
    ("network", "pasta", "for --network=sandbox", "apt install passt"),
    ("network", "slirp4netns", "for --network=sandbox", "apt install slirp4netns, or better passt"),
    ("programs", "runc", "for --runtime=runc", "apt install runc"),
    ("programs", "crun", "for --runtime=crun", "apt install crun"),
    ("programs", "git", "for git contexts and ADD of repositories", "apt install git"),
)


def helpers(facts: host.Host) -> list[Finding]:
    """The two programs that map ids, and where their right to do so comes from."""
    return [
        _helper(name, path)
        for name, path in (("newuidmap", facts.newuidmap), ("newgidmap", facts.newgidmap))
    ]


def _helper(name: str, path: str) -> Finding:
    if not path:
        hint = "install it: apt install uidmap"
        return Finding("ids", name, works=False, detail="not installed", hint=hint)
    kind = helper_kind(path, _RIGHTS[name])
    nosuid = bool(os.statvfs(path).f_flag & os.ST_NOSUID)
    if kind and not nosuid:
        return Finding("ids", name, works=True, detail=f"{path}, {kind}")
    detail = f"{path}, on a file system mounted nosuid" if kind else f"{path}, without any right"
    hint = f"as root: setcap cap_set{name[3]}id+ep {path}"
    return Finding("ids", name, works=False, detail=detail, hint=hint)


def helper_kind(path: str, capability: int) -> str:
    """Where a helper's right comes from; "" when it has none."""
    try:
        data = os.getxattr(path, _CAPABILITY)
    except OSError:
        data = b""
    if len(data) >= struct.calcsize("<II") and struct.unpack_from("<II", data)[1] >> capability & 1:
        return "file capabilities"
    status = os.stat(path)
    return "setuid root" if status.st_mode & stat.S_ISUID and not status.st_uid else ""


def limits(where: str = "host") -> list[Finding]:
    """Which limits of a step a control group can hold; `where` is host, container or pod.

    Not in a child: a build would be alone in its group, too.
    """
    groups = Cgroups(_EVERY_LIMIT)
    groups.close()
    versions = sorted({tree.version for tree in read_hierarchies()})
    kinds = ", ".join(f"version {version}" for version in versions) or "none mounted"
    if not groups.missing:
        return [
            Finding("limits", "cgroups", works=True, detail=f"memory, cpu, cpuset, pids ({kinds})")
        ]
    detail = f"not delegated: {', '.join(groups.missing)} ({kinds})"
    way = {
        "host": "start pybuild with: systemd-run --user --scope -p Delegate=yes pybuild ...",
        "pod": "limit the pod itself: resources: {limits: {memory: 4Gi, cpu: 2}}",
    }.get(where, "limit the container itself, as with --memory 4g --cpus 2")
    hint = f"{way}; without it resource limits of the process stand in"
    return [Finding("limits", "cgroups", works=False, detail=detail, hint=hint)]


def optional(where: str = "host") -> list[Finding]:
    """Programs for some builds only, and the network device two of them need."""
    found = [_program(*row) for row in _OPTIONAL]
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
        tun = Finding("network", _TUN, works=True, detail="can be opened")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "as root: chmod 666 /dev/net/tun"
        if isinstance(error, FileNotFoundError):
            hint = _NO_TUN.get(where, "give the container the device: --device /dev/net/tun")
        tun = Finding("network", _TUN, works=False, detail=reason, hint=hint)
    return [tun, *found, _foreign()]


def _program(group: str, name: str, purpose: str, hint: str) -> Finding:
    path = shutil.which(name) or ""
    detail = path or f"not installed; {purpose}"
    return Finding(group, name, bool(path), detail, "", "" if path else hint)


def _foreign() -> Finding:
    known = emulators.emulators(os.uname().machine)
    if known:
        names = ", ".join(emulator.machine.architecture for emulator in known)
        return Finding("machines", "qemu", works=True, detail=f"RUN for {names}")
    hint = f"apt install {emulators.PACKAGE}"
    detail = "not installed; for RUN with --platform of other machines"
    return Finding("machines", "qemu", works=False, detail=detail, hint=hint)
