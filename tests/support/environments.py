"""Where pybuild runs: environments of workstations, containers and pods, and the tier each gets.

The names are those of the environments sheet. gVisor has no place here: it is a kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from support import peers
from support.pods import Pod, Volume, every_capability

from builder.sandbox.process import CAPABILITIES

CONFINED = Path(__file__).with_name("confined.py")
SOMEBODY = 1_000_660_000  # a uid as clusters give out: no account, no subordinate ids
CANARY = "canary-of-the-builder"
_WORKER = 1000
_PASSWD = f"root:x:0:0::/root:/bin/sh\nworker:x:{_WORKER}:{_WORKER}::/home/worker:/bin/sh\n"
_IDS = "worker:100000:65536\n"
_FILES = (
    ("etc/passwd", _PASSWD),
    ("etc/group", f"root:x:0:\nworker:x:{_WORKER}:\n"),
    ("etc/subuid", _IDS),
    ("etc/subgid", _IDS),
)


@dataclass(frozen=True, slots=True)
class Environment:
    """What holds in a place: of a container's or of a process's; and the tier of its steps."""

    tier: str
    meaning: str
    pod: Pod | None = None
    settings: dict = field(default_factory=dict)  # of confined.py
    has_account: bool = True  # who builds has an account, with subordinate ids
    helpers: str = ""  # "file": newuidmap has file capabilities
    unlocks: str = ""  # a part of what doctor says would give a better tier
    starts_runtimes: bool = False  # OCI runtimes can run steps

    def __str__(self):
        return self.meaning


def _worker(**more):
    return Pod(uid=_WORKER, gid=_WORKER, files=_FILES, **more)


_RESTRICTED = {"capabilities": (), "no_new_privileges": True}

ENVIRONMENTS = {
    "1": Environment("userns", "a workstation", starts_runtimes=True),
    "2a": Environment(
        "single", "a user without subordinate ids", has_account=False, unlocks="/etc/subuid"
    ),
    "2b": Environment(
        "single", "no new privileges", settings={"no_new_privileges": True}, unlocks="no_new_privs"
    ),
    "2c": Environment(
        "emulate", "user namespaces refused", settings={"filter": "namespaces"}, unlocks="seccomp"
    ),
    "8": Environment(
        "emulate",
        "user namespaces refused by AppArmor",
        settings={"filter": "apparmor"},
        unlocks="kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "root": Environment(
        "chroot",
        "a process of root as docker starts it",
        settings={"uid": 0, "filter": "default", "capabilities": CAPABILITIES},
        unlocks="seccomp=unconfined",
    ),
    "3": Environment(
        "chroot", "docker's default container", Pod(filtered=True), unlocks="hostUsers: false"
    ),
    "3k": Environment("userns", "a pod as it comes, of root", Pod()),
    "3k+aa": Environment(
        "chroot",
        "a pod of root where AppArmor refuses mounts",
        Pod(apparmor=True),
        unlocks="appArmorProfile: {type: Unconfined}",
    ),
    "4": Environment(
        "emulate",
        "a restricted pod",
        _worker(filtered=True, **_RESTRICTED),
        unlocks="seccompProfile: {type: Unconfined}",
    ),
    "4u": Environment(
        "emulate",
        "a restricted pod of root in a user namespace",
        Pod(filtered=True, user_namespace=True, **_RESTRICTED),
        unlocks="seccompProfile: {type: Unconfined}",
    ),
    "5": Environment("userns", "a pod with a user namespace", Pod(user_namespace=True)),
    "5r": Environment(
        "chroot",
        "a pod with a user namespace and the default filter",
        Pod(user_namespace=True, filtered=True),
        unlocks="seccompProfile: {type: Unconfined}",
    ),
    "5u": Environment(
        "userns",
        "a pod with a user namespace and an unmasked /proc",
        Pod(user_namespace=True, masked=False),
        starts_runtimes=True,
    ),
    "5n": Environment(
        "single",
        "a pod of a user in a user namespace",
        _worker(user_namespace=True, **_RESTRICTED),
        unlocks="allowPrivilegeEscalation: true",
    ),
    "6": Environment(
        "single",
        "a pod of a user, set-user-id newuidmap",
        _worker(),
        unlocks="setcap cap_setuid+ep",
    ),
    "6+fc": Environment(
        "userns", "a pod of a user, newuidmap with file capabilities", _worker(), helpers="file"
    ),
    "6n": Environment(
        "single",
        "a pod of a user without rights",
        _worker(**_RESTRICTED),
        unlocks="allowPrivilegeEscalation: true",
    ),
    "7": Environment(
        "userns",
        "a privileged pod",
        Pod(capabilities=every_capability(), masked=False),
        starts_runtimes=True,
    ),
}


class Host:
    """Pybuild in an environment; `home` is a directory of this machine that it may write to.

    In a pod that is the volume /vol.
    """

    def __init__(self, environment, home, pybuild):
        """Make the directory."""
        self.environment = environment
        self.home = home
        self.pybuild = pybuild
        self.seen = Path("/vol") if environment.pod else home  # the home, from within
        home.mkdir()
        home.chmod(0o777)

    def add(self, context):
        """Copy a context into the home; gives the path it is seen by."""
        shutil.copytree(context, self.home / context.name)
        return self.seen / context.name

    def run(self, *arguments, **options):
        """Run pybuild to the end; nothing is in its environment but what is given."""
        return self.run_python("-m", "builder", *arguments, **options)

    def run_python(self, *arguments, timeout=120, **variables):
        """Run the interpreter that has pybuild to the end."""
        command = [self.pybuild.python, "-P", *map(str, arguments)]
        env = {
            "PYTHONPATH": "/opt/pybuild" if self.environment.pod else self.pybuild.path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYBUILD_ROOT": str(self.seen / "state"),
            "CANARY": CANARY,
        } | variables
        if self.environment.pod:
            return self._pod(env).run(*command, timeout=timeout)
        settings = self.environment.settings
        account = self.pybuild.uid if self.environment.has_account else SOMEBODY
        settings = {"uid": account} | settings
        return subprocess.run(
            [sys.executable, "-P", CONFINED, json.dumps(settings), *command],
            env={"PATH": os.environ["PATH"], **env},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def good(self, *arguments, **options):
        """Run and require success; gives the result."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def left(self):
        """Trees of steps in the state directory, but for those that are the same for all builds."""
        kinds = [self.home / "state" / kind for kind in ("plain", "snapshots")]
        found = {name for kind in kinds if kind.exists() for name in os.listdir(kind)}
        return sorted(found - {"empty", "places"})

    def _pod(self, env):
        pod = self.environment.pod
        volumes = [Volume(self.pybuild.path, "/opt/pybuild", ("ro",)), Volume(self.home, "/vol")]
        if self.environment.helpers:
            volumes += [
                Volume(path, shutil.which(path.name), ("ro",)) for path in self._helpers().iterdir()
            ]
        return replace(pod, volumes=(*pod.volumes, *volumes), env=env)

    def _helpers(self):
        """Give newuidmap and newgidmap file capabilities instead of the set-user-id bit."""
        directory = self.home / "bin"
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
            for name, right in (("newuidmap", "cap_setuid"), ("newgidmap", "cap_setgid")):
                shutil.copyfile(shutil.which(name), directory / name)
                (directory / name).chmod(0o755)
                peers.run("setcap", f"{right}+ep", directory / name)
        return directory
