"""Containers as Kubernetes and docker start them, by runc from a config.json written here.

A pod has a root file system of its own (a copy-on-write view of a directory), the mounts, masks,
capabilities and filter that container runtimes give, and volumes. Nothing here knows pybuild
but the filter, which is the list that containers get by default. Needs root.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from builder.sandbox.oci_config import CAPABILITIES
from builder.sandbox.seccomp_profile import profile

STARTER = Path(__file__).with_name("pod_starter.py")
_CHECKOUT = Path(__file__).resolve().parents[2]
_HIDDEN = ("/tmp/", "/var/tmp/", "/run/")  # by the starter
FIRST_ID, IDS = 300_000_000, 65536  # of the host's, for a pod with a user namespace
MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/scsi",
    "/proc/latency_stats", "/proc/sched_debug", "/proc/timer_list", "/proc/timer_stats",
    "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_EVERY = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
PERFMON BPF CHECKPOINT_RESTORE
"""  # by number
_STRICT = ["nosuid", "noexec", "nodev"]
_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))
_GROUPS = "/sys/fs/cgroup"
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory or file of the host's at a path in the pod; "" for a fresh tmpfs."""

    source: str | Path
    target: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """The security context of a container. `capabilities` are those root has, and the bounds."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    capabilities: tuple[str, ...] = CAPABILITIES
    no_new_privileges: bool = False
    filtered: bool = False  # by the default seccomp profile
    apparmor: bool = False  # mounts are refused as the default AppArmor profile does
    user_namespace: bool = False
    masked: bool = True
    read_only: bool = False
    token: bool = True  # a service account's is mounted
    root: str = "/"  # what the root file system looks like
    files: tuple[tuple[str, str], ...] = ()  # more in it: path and text
    volumes: tuple[Volume, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def run(self, *argv, cwd="/", timeout=120, stdin=None):
        """Start a command in a new pod and wait for its end; text is decoded."""
        with tempfile.TemporaryDirectory(prefix="pybuild-pod-", dir="/var/tmp") as scratch:
            request = {
                "lower": self.root,
                "first": FIRST_ID if self.user_namespace else 0,
                "ids": IDS,
                "files": dict(self.files),
                "document": self._document([str(word) for word in argv], str(cwd)),
            }
            path = Path(scratch, "request.json")
            path.write_text(json.dumps(request))
            inside = [sys.executable, "-P", str(STARTER), str(path)]
            # The kernel ends everything in the namespace when its first process is gone.
            apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
            return subprocess.run(
                [*apart, *inside],
                capture_output=True,
                text=True,
                errors="backslashreplace",
                timeout=timeout,
                check=False,
                input=stdin,
                cwd="/",
            )

    def good(self, *argv, **options):
        """Run and require success; gives standard output."""
        done = self.run(*argv, **options)
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _document(self, argv, cwd):
        held = [] if self.uid else list(self.capabilities)
        sets = {"bounding": list(self.capabilities), "effective": held, "permitted": held}
        return {
            "ociVersion": "1.0.2",
            "hostname": "pod",
            "root": {"path": "root", "readonly": self.read_only},
            "mounts": self._mounts(),
            "process": {
                "terminal": False,
                "user": {"uid": self.uid, "gid": self.gid, "additionalGids": list(self.groups)},
                "args": argv,
                "cwd": cwd,
                "env": [f"{name}={text}" for name, text in ({"PATH": PATH} | self.env).items()],
                "capabilities": {**sets, "inheritable": [], "ambient": []},
                "noNewPrivileges": self.no_new_privileges,
            },
            "linux": self._linux(),
        }

    def _mounts(self):
        terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        memory = ["nosuid", "strictatime", "mode=755", "size=65536k"]
        mounts = [
            _mount("/proc", "proc", _STRICT),
            _mount("/dev", "tmpfs", memory),
            _mount("/dev/pts", "devpts", terminals),
            _mount("/dev/shm", "tmpfs", [*_STRICT, "mode=1777", "size=65536k"]),
            _mount("/dev/mqueue", "mqueue", _STRICT),
            _bind("/sys", "/sys", [*_STRICT, *([] if self._privileged else ["ro"])]),
        ]
        if not self._privileged:
            mounts += _groups()
        else:
            mounts[1] = _bind("/dev", "/dev", [])
            del mounts[2:5]
        names = ("/etc/resolv.conf", "/etc/hosts")
        mounts += [_bind(path, path, ["ro"]) for path in names if os.path.exists(path)]
        mounts += _program()
        if self.token:
            mounts.append(_mount(_TOKEN, "tmpfs", ["mode=755"]))
        for volume in self.volumes:
            if volume.source:
                mounts.append(_bind(str(volume.source), volume.target, list(volume.options)))
            else:
                mounts.append(_mount(volume.target, "tmpfs", ["mode=1777", *volume.options]))
        return mounts

    @property
    def _privileged(self):
        return "CAP_SYS_ADMIN" in self.capabilities

    def _linux(self):
        kinds = ["mount", "pid", "ipc", "uts", *(["user"] if self.user_namespace else [])]
        linux = {
            "namespaces": [{"type": kind} for kind in kinds],
            "maskedPaths": list(MASKED) if self.masked else [],
            "readonlyPaths": list(READ_ONLY) if self.masked else [],
            "resources": {"devices": self._devices()},
        }
        if self.user_namespace:
            ids = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
            linux["uidMappings"] = linux["gidMappings"] = ids
        if self.filtered:
            # Runs before AppArmor would: mounts are refused by it anyhow.
            linux["seccomp"] = profile(os.uname().machine)
        elif self.apparmor:
            linux["seccomp"] = _REFUSED_MOUNTS
        return linux

    def _devices(self):
        if self._privileged:
            return [{"allow": True, "access": "rwm"}]
        rows = [{"allow": False, "access": "rwm"}]
        rows += [{"allow": True, "type": kind, "access": "m"} for kind in "bc"]
        for major, minor in _DEVICES:
            row = {"allow": True, "type": "c", "major": major, "access": "rwm"}
            rows.append(row if minor is None else row | {"minor": minor})
        return rows


_REFUSED_MOUNTS = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {
            "names": ["mount", "move_mount", "pivot_root"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 13,  # EACCES
        }
    ],
}


def _program():
    """What the tests run, where it lies in a directory that a pod has of its own."""
    places = sorted({str(_CHECKOUT), sys.prefix, sys.base_prefix})
    return [_bind(path, path, ["ro"]) for path in places if path.startswith(_HIDDEN)]


def _mount(target, kind, options):
    return {"destination": target, "type": kind, "source": kind, "options": options}


def _groups():
    """The machine's control groups, none of which can be changed."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kinds = {fields[4]: fields[fields.index("-") + 1] for fields in mounts}
    paths = [path for path in kinds if path.startswith(f"{_GROUPS}/") or path == _GROUPS]
    found = [_bind(path, path, [*_STRICT, "ro"]) for path in paths if "cgroup" in kinds[path]]
    is_apart = all(mount["destination"] != _GROUPS for mount in found)
    return [*([_mount(_GROUPS, "tmpfs", [*_STRICT, "mode=755"])] if is_apart else []), *found]


def _bind(source, target, options):
    return {
        "destination": target,
        "type": "bind",
        "source": source,
        "options": ["rbind", *options],
    }


def every_capability():
    """What a privileged container has: all that this process may have."""
    status = Path("/proc/self/status").read_text()
    (bound,) = (int(row.split()[1], 16) for row in status.splitlines() if "CapBnd" in row)
    return tuple(f"CAP_{name}" for number, name in enumerate(_EVERY.split()) if bound >> number & 1)
