"""What this host offers a sandbox, and which kind of sandbox that makes: the one place to choose.

`probe` reads, `choose` decides without touching anything, the explain functions turn a refusal
of the kernel into what is missing and how to get it (D27). Further kinds of sandbox join here.
"""

from __future__ import annotations

import errno
import os
import pwd
from enum import StrEnum

from builder.errors import HostUnsupportedError
from cache.value import value

NEEDED_IDS = 65536  # "nobody" is 65534 and images use everything below
_FIRST_SUBORDINATE = 100000
_HELPER_DIRECTORIES = ("/usr/bin", "/usr/local/bin", "/bin", "/run/wrappers/bin")
_CAP_SETGID, _CAP_SETUID, _CAP_SETFCAP = 6, 7, 31
_WRITERS = (1 << _CAP_SETGID) | (1 << _CAP_SETUID) | (1 << _CAP_SETFCAP)
_RIGHTS = {"SETUID": _CAP_SETUID, "SETGID": _CAP_SETGID, "SETFCAP": _CAP_SETFCAP}
_CAP_SYS_ADMIN = 21
_MAX_FIELD = 1 << 32
_SYSCTL = "/proc/sys/kernel"
_APPARMOR = (
    "AppArmor restricts user namespaces: as root, give pybuild a profile with `userns,`"
    " (deploy/apparmor/pybuild; `pybuild doctor` prints it)"
    " or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
)


class Tier(StrEnum):
    """Kinds of sandbox, best first.

    USERNS: a user namespace with a full range of ids, and mounts. SINGLE: one with a single id,
    owners recorded. CHROOT: the rights of root but no mounts. EMULATE: nothing but seccomp and
    ptrace, everything else answered by the engine.
    """

    USERNS = "userns"
    SINGLE = "single"
    CHROOT = "chroot"
    EMULATE = "emulate"


@value
class Extent:
    """A line of an id map: `count` ids from `inside` are those from `outside`."""

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


@value
class Host:
    """Facts about the host, read once. Empty helper paths mean not installed."""

    uid: int
    gid: int
    user: str
    capabilities: int
    uid_map: tuple[Extent, ...]
    gid_map: tuple[Extent, ...]
    subuid: str
    subgid: str
    newuidmap: str
    newgidmap: str
    max_user_namespaces: int
    bounding: int = -1
    no_new_privileges: bool = False
    filtered: bool = False  # by a seccomp profile
    apparmor_restricts: bool = False  # user namespaces of unconfined programs (Ubuntu)
    clone_forbidden: bool = False  # Debian's sysctl kernel.unprivileged_userns_clone is 0


@value
class Mapping:
    """How to map ids: written directly when `newuidmap` is empty, else by the two helpers."""

    tier: Tier
    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]
    newuidmap: str = ""
    newgidmap: str = ""


def _read(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _helper(name: str) -> str:
    paths = (f"{directory}/{name}" for directory in _HELPER_DIRECTORIES)
    return next((path for path in paths if os.access(path, os.X_OK)), "")


def identity(name: str) -> str:
    """What tells a helper program from what it was before: it is there, changed, or has rights."""
    path = _helper(name)
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{path} {status.st_ino} {status.st_mode} {status.st_ctime_ns}"


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def probe() -> Host:
    """Read what choose() needs."""
    status = dict(line.partition(":")[::2] for line in _read("/proc/self/status").splitlines())
    limit = _read("/proc/sys/user/max_user_namespaces").strip()
    uid = os.geteuid()
    return Host(
        uid=uid,
        gid=os.getegid(),
        user=_user_name(uid),
        capabilities=int(status.get("CapEff", "0").strip() or "0", 16),
        uid_map=parse_map(_read("/proc/self/uid_map")),
        gid_map=parse_map(_read("/proc/self/gid_map")),
        subuid=_read("/etc/subuid"),
        subgid=_read("/etc/subgid"),
        newuidmap=_helper("newuidmap"),
        newgidmap=_helper("newgidmap"),
        max_user_namespaces=int(limit) if limit.isdigit() else -1,
        bounding=int(status.get("CapBnd", "").strip() or "0", 16),
        no_new_privileges=status.get("NoNewPrivs", "").strip() == "1",
        filtered=status.get("Seccomp", "").strip() == "2",
        apparmor_restricts=_apparmor_restricts(),
        clone_forbidden=_read(f"{_SYSCTL}/unprivileged_userns_clone").strip() == "0",
    )


def _apparmor_restricts() -> bool:
    """Whether AppArmor keeps programs without a profile, as we are one, from user namespaces.

    A container has a profile of its own, which decides there.
    """
    profile = _read("/proc/self/attr/apparmor/current") or _read("/proc/self/attr/current")
    if profile.strip("\0\n ") not in {"", "unconfined"}:
        return False
    return _read(f"{_SYSCTL}/apparmor_restrict_unprivileged_userns").strip() == "1"


def parse_map(text: str) -> tuple[Extent, ...]:
    """The extents of a /proc/PID/uid_map."""
    rows = (line.split() for line in text.splitlines())
    return tuple(Extent(*(int(field) for field in row)) for row in rows if len(row) == 3)  # noqa: PLR2004 - the format


def subordinate_ranges(text: str, user: str, uid: int) -> tuple[tuple[int, int], ...]:
    """(start, count) pairs of /etc/subuid for a user, whose entries go by name or by uid."""
    found = []
    for line in text.splitlines():
        owner, _, rest = line.strip().partition(":")
        start, _, count = rest.partition(":")
        if owner not in (user, str(uid)) or not (start.isdecimal() and count.isdecimal()):
            continue
        if int(count) > 0 and int(start) + int(count) < _MAX_FIELD:
            found.append((int(start), int(count)))
    return tuple(found)


def _own_and_subordinate(own: int, ranges: tuple[tuple[int, int], ...]) -> tuple[Extent, ...]:
    extents = [Extent(0, own, 1)]
    inside = 1
    for start, count in ranges:
        extents.append(Extent(inside, start, count))
        inside += count
    return tuple(extents)


def _identity(extents: tuple[Extent, ...]) -> tuple[Extent, ...]:
    return tuple(Extent(e.inside, e.inside, e.count) for e in extents)


def _size(extents: tuple[Extent, ...]) -> int:
    return sum(e.count for e in extents)


def _next_free(text: str) -> int:
    ends = [_FIRST_SUBORDINATE]
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        start, _, count = rest.strip().partition(":")
        if start.isdecimal() and count.isdecimal():
            ends.append(int(start) + int(count))
    return max(ends)


def free_ranges(host: Host) -> tuple[int, int]:
    """Where a free range of ids for the user could start, in /etc/subuid and in /etc/subgid."""
    return _next_free(host.subuid), _next_free(host.subgid)


def _grant_hint(host: Host) -> str:
    options = zip(("--add-subuids", "--add-subgids"), free_ranges(host), strict=True)
    ranges = [f"{option} {start}-{start + NEEDED_IDS - 1}" for option, start in options]
    return f"as root: usermod {' '.join(ranges)} {host.user}"


def choose(host: Host) -> Mapping:
    """The best kind of sandbox the facts allow.

    Raises:
        HostUnsupportedError: none; the hint says what to change.
    """
    if host.max_user_namespaces == 0:
        raise HostUnsupportedError(
            "user namespaces are switched off on this host (user.max_user_namespaces is 0)",
            hint="as root: sysctl -w user.max_user_namespaces=15000",
        )
    mapping = direct(host)
    if mapping is not None:
        return mapping
    try:
        return subordinate(host)
    except HostUnsupportedError as error:
        lacking = lacking_rights(host)
        if host.uid or not lacking:
            raise
        names = ", ".join(lacking)
        raise HostUnsupportedError(
            f"root cannot map ids here without CAP_{names.replace(', ', ', CAP_')}",
            hint=f"give the container --cap-add {names.replace(', ', ' --cap-add ')}, the pod's"
            f" securityContext capabilities: {{add: [{names}]}}",
        ) from error


def lacking_rights(host: Host) -> tuple[str, ...]:
    """Which of the capabilities that mapping ids takes a process lacks, by name."""
    return tuple(name for name, bit in _RIGHTS.items() if not host.capabilities >> bit & 1)


def mapping_for(tier: Tier, host: Host) -> Mapping:
    """How to map ids for a kind of sandbox in a user namespace.

    Raises:
        HostUnsupportedError: as choose() does.
    """
    return single(host) if tier is Tier.SINGLE else choose(host)


def direct(host: Host) -> Mapping | None:
    """The map that root writes by itself, of all ids it has; None without the right or the ids."""
    enough = min(_size(host.uid_map), _size(host.gid_map)) >= NEEDED_IDS
    if host.capabilities & _WRITERS != _WRITERS or not enough:
        return None
    return Mapping(Tier.USERNS, _identity(host.uid_map), _identity(host.gid_map))


def subordinate(host: Host) -> Mapping:
    """The map of the own id and the subordinate ones, which newuidmap and newgidmap write.

    Raises:
        HostUnsupportedError: a program or ids are missing; the hint says how to get them.
    """
    if not host.newuidmap or not host.newgidmap:
        missing = "newgidmap" if host.newuidmap else "newuidmap"
        raise HostUnsupportedError(
            f"{missing} is not installed",
            hint="install it: apt install uidmap (Debian, Ubuntu), dnf install shadow-utils"
            " (Fedora), apk add shadow-uidmap (Alpine)",
        )
    uids = _own_and_subordinate(host.uid, subordinate_ranges(host.subuid, host.user, host.uid))
    gids = _own_and_subordinate(host.gid, subordinate_ranges(host.subgid, host.user, host.uid))
    for name, extents in (("subuid", uids), ("subgid", gids)):
        if _size(extents) < NEEDED_IDS:
            raise HostUnsupportedError(
                f'user "{host.user}" has {_size(extents) - 1} subordinate ids in /etc/{name},'
                f" {NEEDED_IDS} are needed",
                hint=_grant_hint(host),
            )
    return Mapping(Tier.USERNS, uids, gids, host.newuidmap, host.newgidmap)


def single(host: Host) -> Mapping:
    """A map of the one id that every user may map: its own."""
    return Mapping(Tier.SINGLE, (Extent(0, host.uid, 1),), (Extent(0, host.gid, 1),))


def explain_unshare(error: OSError, host: Host | None = None) -> HostUnsupportedError:
    """Why a user namespace could not be made."""
    reason = (error.strerror or str(error)).lower()
    hint = _unshare_hint(error.errno or 0, host)
    return HostUnsupportedError(f"cannot create a user namespace: {reason}", hint=hint)


def _unshare_hint(number: int, host: Host | None) -> str:
    if number == errno.EACCES or (host and number == errno.EPERM and host.apparmor_restricts):
        return _APPARMOR
    if number == errno.EPERM and host and host.clone_forbidden:
        return "as root: sysctl -w kernel.unprivileged_userns_clone=1"
    if number == errno.EPERM and host and not host.filtered:
        return (
            "no seccomp profile forbids it here; a chroot does, and so do kernels that are set up"
            " to: run pybuild outside of the chroot"
        )
    return {
        errno.ENOSPC: "raise the sysctl user.max_user_namespaces, or nest fewer containers",
        errno.EPERM: "a seccomp profile forbids it: run the container with seccomp=unconfined,"
        " the pod with seccompProfile: {type: Unconfined}",
    }.get(number, "the kernel needs CONFIG_USER_NS")


def explain_map(message: str, host: Host | None = None) -> HostUnsupportedError:
    """Why the id map was refused; `message` is the helper's or the kernel's.

    On Ubuntu 24.04 the namespace can be made, but AppArmor lets nobody map ids into it.
    """
    if host and host.apparmor_restricts:
        hint = _APPARMOR
    elif host and host.no_new_privileges:
        hint = (
            "no_new_privs keeps newuidmap from its rights: start pybuild without it"
            " (in a pod: allowPrivilegeEscalation: true)"
        )
    elif host and not host.bounding >> _CAP_SYS_ADMIN & 1:
        hint = (
            "without CAP_SYS_ADMIN in the bounding set newuidmap must have file capabilities"
            " instead of being setuid: chmod u-s /usr/bin/new?idmap;"
            " setcap cap_setuid+ep /usr/bin/newuidmap; setcap cap_setgid+ep /usr/bin/newgidmap"
        )
    else:
        hint = "newuidmap and newgidmap must be setuid root or have file capabilities"
    return HostUnsupportedError(f"cannot map ids into the user namespace: {message}", hint=hint)


def explain_mount(error: OSError, host: Host | None = None) -> HostUnsupportedError:
    """Why mounts are refused in a namespace of our own."""
    reason = (error.strerror or str(error)).lower()
    if host and host.apparmor_restricts:
        hint = _APPARMOR
    elif error.errno == errno.EACCES:
        hint = (
            "AppArmor forbids mount: run the container with apparmor=unconfined,"
            " the pod with appArmorProfile: {type: Unconfined}"
        )
    else:
        hint = "a seccomp profile forbids mount: run with seccomp=unconfined"
    return HostUnsupportedError(
        f"cannot change mounts in a namespace of our own: {reason}", hint=hint
    )
