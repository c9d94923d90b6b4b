"""The settings that unlock a better tier, chosen from findings without touching anything.

Each obstacle is named by the first thing that stands in a tier's way; the text is what an
administrator can paste.
"""

from __future__ import annotations

import textwrap
from enum import StrEnum
from typing import TYPE_CHECKING

from builder.diagnosis.finding import Remedy
from builder.sandbox import host
from builder.sandbox.host import Tier
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from builder.diagnosis.finding import Diagnosis, Finding

# As deploy/apparmor/pybuild has it; doctor must know it where only the package is installed.
APPARMOR = """\
abi <abi/4.0>,
include <tunables/global>

profile pybuild /{usr/,usr/local/,home/*/.local/}bin/pybuild flags=(unconfined) {
  userns,
  include if exists <local/pybuild>
}
"""
_POD = "in the pod's container"
# What steps do as root where the kernel does it for them; containers have it unless it was dropped.
_OF_ROOT = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7,
    "SYS_CHROOT": 18, "MKNOD": 27, "SETFCAP": 31,
}  # fmt: skip
_HOST = "as root on the host"


class Surroundings(StrEnum):
    """Who starts pybuild here; chooses words, never a tier."""

    POD = "pod"
    CONTAINER = "container"
    HOST = "host"


@value
class Case:
    """What remedies are chosen from."""

    found: Diagnosis
    facts: host.Host
    surroundings: Surroundings

    def __getitem__(self, name: str) -> Finding:
        return self.found.finding(name)


@value
class _Setting:
    obstacle: str
    where: str
    text: str


def surroundings(environ: Mapping[str, str], present: Mapping[str, bool]) -> Surroundings:
    """Where we are; `present` says which of the files that containers have are there."""
    if environ.get("KUBERNETES_SERVICE_HOST") or present.get("/var/run/secrets/kubernetes.io"):
        return Surroundings.POD
    marked = present.get("/.dockerenv") or present.get("/run/.containerenv")
    return Surroundings.CONTAINER if marked or environ.get("container") else Surroundings.HOST


def remedies(case: Case) -> tuple[Remedy, ...]:
    """What unlocks each tier that is better than the one in use, the best first."""
    found: list[Remedy] = []
    for tier in Tier:
        if tier == case.found.tier:
            break
        if not case[f"sandbox {tier}"].group:
            continue  # none of the kinds there are
        for setting in _obstacles(tier, case):
            if all(setting.text != known.setting for known in found):
                found.append(Remedy(tier, setting.obstacle, setting.where, setting.text))
    return tuple(found)


def _obstacles(tier: Tier, case: Case) -> Iterator[_Setting]:
    match tier:
        case Tier.USERNS:
            if not case["user namespace"].works:
                yield _no_namespace(case)
            elif not (case["id map: direct"].works or case["id map: newuidmap"].works):
                yield from _no_ids(case)
            yield from _mounts(case)
        case Tier.SINGLE:
            if not case["user namespace"].works:
                yield _no_namespace(case)
            elif not case["id map: single"].works:
                yield _apparmor("no id can be mapped into a user namespace")
            yield from _mounts(case, on_disk=True)
        case Tier.CHROOT:
            rights = all(case[name].works for name in ("chroot", "setuid", "chown"))
            if not rights and case.surroundings is not Surroundings.HOST:
                yield _no_root(case)
        case Tier.EMULATE:
            yield from _engine(case)


def _no_namespace(case: Case) -> _Setting:
    refused = case["user namespace"]
    obstacle = refused.detail
    if case.facts.max_user_namespaces == 0 or refused.error == "ENOSPC":
        return _Setting(obstacle, _HOST, "sysctl -w user.max_user_namespaces=15000")
    if refused.error == "EACCES" or case.facts.apparmor_restricts:
        return _apparmor(obstacle)
    if case.facts.clone_forbidden and refused.error == "EPERM":
        return _Setting(obstacle, _HOST, "sysctl -w kernel.unprivileged_userns_clone=1")
    if case.facts.filtered:
        return _seccomp(f"{obstacle}; the seccomp profile", case)
    if refused.error == "EPERM":
        return _Setting(obstacle, "outside of a chroot", "pybuild ... (a chroot has no namespaces)")
    return _Setting(obstacle, "in the kernel's configuration", "CONFIG_USER_NS=y")


def _seccomp(obstacle: str, case: Case) -> _Setting:
    if case.surroundings is Surroundings.POD:
        text = (
            "spec:\n"
            "  hostUsers: false\n"
            "  containers:\n"
            "    - name: build\n"
            "      securityContext:\n"
            "        runAsUser: 0\n"
            f"{_capabilities(case)}"
            "        seccompProfile: {type: Unconfined}\n"
            "        appArmorProfile: {type: Unconfined}  # if nodes have AppArmor\n"
        )
        return _Setting(obstacle, "in the pod", text)
    return _Setting(
        obstacle,
        "when the container is started",
        "--security-opt seccomp=unconfined --security-opt apparmor=unconfined",
    )


def _capabilities(case: Case) -> str:
    """A line of YAML for the rights of root that a container was not given."""
    lacking = host.lacking_rights(replace(case.facts, capabilities=case.facts.bounding))
    return f"        capabilities: {{add: [{', '.join(lacking)}]}}\n" if lacking else ""


def _apparmor(obstacle: str) -> _Setting:
    text = (
        f"cat >/etc/apparmor.d/pybuild <<'END'\n{APPARMOR}END\n"
        "apparmor_parser -r /etc/apparmor.d/pybuild\n"
        "\n"
        "or, for every program:\n"
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0\n"
    )
    return _Setting(f"{obstacle} (AppArmor)", _HOST, text)


def _no_ids(case: Case) -> Iterator[_Setting]:
    facts = case.facts
    mapped = case["id map: newuidmap"]
    has_ranges = case["subuid"].works and case["subgid"].works
    obstacle = mapped.detail
    if facts.apparmor_restricts and has_ranges:
        yield _apparmor(obstacle)
        return
    if facts.capabilities and sum(e.count for e in facts.uid_map) < host.NEEDED_IDS:
        yield _few_ids(case)
        return
    has_helpers = has_ranges and facts.newuidmap and facts.newgidmap
    if case.surroundings is not Surroundings.HOST and not facts.uid:
        yield _rights(case)
        return
    if case.surroundings is Surroundings.POD:
        text = (
            "spec:\n  hostUsers: false\n  containers:\n    - name: build\n      securityContext:\n"
            f"        runAsUser: 0\n{_capabilities(case)}"
        )
        yield _Setting(obstacle, "in the pod", text)
        if not has_helpers or facts.no_new_privileges:
            return
    yield _powerless_helper(obstacle, case) if has_helpers else _ranges(obstacle, case)


def _rights(case: Case) -> _Setting:
    """What root of a container needs to map ids by itself."""
    lacking = host.lacking_rights(case.facts)
    obstacle = f"root lacks CAP_{', CAP_'.join(lacking)}"
    if case.surroundings is Surroundings.POD:
        text = f"securityContext: {{capabilities: {{add: [{', '.join(lacking)}]}}}}"
        return _Setting(obstacle, _POD, text)
    text = " ".join(f"--cap-add {name}" for name in lacking)
    return _Setting(obstacle, "when the container is started", text)


def _few_ids(case: Case) -> _Setting:
    own = sum(extent.count for extent in case.facts.uid_map)
    obstacle = f"this container has {own} ids, {host.NEEDED_IDS} are needed"
    if case.surroundings is Surroundings.POD:
        where = "in the kubelet's configuration"
        return _Setting(obstacle, where, "userNamespaces: {idsPerPod: 65536}")
    return _Setting(obstacle, "when the container is started", "with 65536 ids or more")


def _ranges(obstacle: str, case: Case) -> _Setting:
    """The package, and lines for both files in a range nobody has: what of it is missing."""
    user = case.facts.user
    lines = []
    if not (case.facts.newuidmap and case.facts.newgidmap):
        lines.append("apt install uidmap")
    if user.isdigit():
        lines.append(f"useradd --uid {user} builder    # newuidmap wants an account")
        user = "builder"
    starts = host.free_ranges(case.facts)
    for name, start in zip(("subuid", "subgid"), starts, strict=True):
        if not case[name].works:
            lines.append(f"echo {user}:{start}:{host.NEEDED_IDS} >>/etc/{name}")
    return _Setting(obstacle, _HOST, "\n".join(lines))


def _powerless_helper(obstacle: str, case: Case) -> _Setting:
    if case.facts.no_new_privileges:
        if case.surroundings is Surroundings.POD:
            return _Setting(obstacle, _POD, "securityContext: {allowPrivilegeEscalation: true}")
        return _Setting(
            obstacle, "where pybuild is started", "without no_new_privs (setpriv, NoNewPrivileges=)"
        )
    text = (
        "chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap\n"
        "setcap cap_setuid+ep /usr/bin/newuidmap\n"
        "setcap cap_setgid+ep /usr/bin/newgidmap\n"
    )
    return _Setting(obstacle, "as root, in the image", text)


def _mounts(case: Case, *, on_disk: bool = False) -> Iterator[_Setting]:
    """What stands in the way once there is a namespace; `on_disk` if memory does not serve."""
    if not case["user namespace"].works:
        return
    slave, pivot = case["private mounts"], case["pivot_root"]
    disk, memory = (
        case["overlay on disk"],
        case["overlay in memory"],
    )
    if slave.error == "EACCES":
        if case.surroundings is Surroundings.POD:
            text = "securityContext: {appArmorProfile: {type: Unconfined}}"
            yield _Setting("AppArmor forbids mounts", _POD, text)
        elif case.surroundings is Surroundings.CONTAINER or not case.facts.apparmor_restricts:
            text = "--security-opt apparmor=unconfined"
            yield _Setting("AppArmor forbids mounts", "when the container is started", text)
        else:
            yield _apparmor("mounts are refused")
    elif not slave.works and case["id map: single"].works:
        yield _seccomp("mounts are refused", case)
    elif slave.works and not pivot.works:
        yield _seccomp(f"pivot_root is refused: {pivot.detail}", case)
    elif slave.works and not (disk.works or (memory.works and not on_disk)):
        yield volume(case.surroundings, disk.detail)


def volume(where: Surroundings, obstacle: str) -> _Setting:
    """A better place for the state directory."""
    if where is Surroundings.POD:
        text = (
            "spec:\n"
            "  containers:\n"
            "    - name: build\n"
            "      env: [{name: PYBUILD_ROOT, value: /state}]\n"
            "      volumeMounts: [{name: state, mountPath: /state}]\n"
            "  volumes:\n"
            "    - {name: state, emptyDir: {}}\n"
        )
        return _Setting(obstacle, "in the pod", text)
    if where is Surroundings.CONTAINER:
        text = "-v pybuild:/state -e PYBUILD_ROOT=/state"
        return _Setting(obstacle, "when the container is started", text)
    text = "export PYBUILD_ROOT=/a/directory/on/ext4/xfs/btrfs/or/tmpfs"
    return _Setting(obstacle, "in the environment", text)


def _no_root(case: Case) -> _Setting:
    """Root, with the rights over files and ids that it has in a container as it comes."""
    lacking = [name for name, bit in _OF_ROOT.items() if not case.facts.bounding >> bit & 1]
    obstacle = "chroot, chown and setuid need the rights of a container's root"
    if case.surroundings is Surroundings.POD:
        text = "securityContext:\n"
        text += "  runAsUser: 0\n  runAsNonRoot: false\n" if case.facts.uid else ""
        if lacking:
            joined = "\n    ".join(textwrap.wrap(", ".join(lacking), 44))
            text += f"  capabilities: {{add: [{joined}]}}\n"
        return _Setting(obstacle, _POD, text)
    words = ["--user 0"] if case.facts.uid else []
    words += [f"--cap-add {name}" for name in lacking]
    return _Setting(obstacle, "when the container is started", " ".join(words))


def _engine(case: Case) -> Iterator[_Setting]:
    if not case["yama"].works:
        yield _Setting(case["yama"].detail, _HOST, case["yama"].hint.removeprefix("as root: "))
    for name in ("seccomp notification", "seccomp ADDFD", "openat2", "ptrace", "process_vm_readv"):
        if not case[name].works:
            obstacle = f"{name}: {case[name].detail}"
            yield _Setting(obstacle, "on the host", "Linux 5.14 or newer, without another tracer")
            return


def notes(case: Case) -> tuple[str, ...]:
    """What works here and could be better."""
    found = []
    disk = case["overlay on disk"]
    changes = case["changes of steps"]
    if changes.detail and not changes.works:
        setting = volume(case.surroundings, disk.detail)
        found.append(
            "What steps write is kept in memory, as the state directory's file system cannot"
            f" hold it. Better, {setting.where}:\n{setting.text}"
        )
    shared = case.surroundings is Surroundings.POD and case.found.tier in {Tier.USERNS, Tier.SINGLE}
    if shared and case["private mounts"].works and not case["fresh proc"].works:
        found.append(
            "Steps see the processes of the pod in /proc, as part of it is masked. With"
            " hostUsers: false the container may have its own:\n"
            "securityContext: {procMount: Unmasked}"
        )
    return tuple(found)
