"""Make what a pod is told to look like and run it: started by pods.py in namespaces of its own.

    python pod_starter.py REQUEST_JSON

The root file system is an overlay of a directory, and what is written lies beside the request: in
containers, too, both are mostly of one file system, and directories keep their numbers. In a pod
with a user namespace it and the volumes are mapped, as container runtimes do it, so that files of root are
those of the pod's root. All mounts end with the namespace.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from builder.sandbox import syscalls

_PRIVATE = syscalls.MS_REC | syscalls.MS_PRIVATE
_IDMAP = 0x100000  # MOUNT_ATTR_IDMAP
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
_KERNELS = ("/sys", "/dev")  # nothing there is mapped
_HIDDEN = ("tmp", "var/tmp", "run")  # of the machine's, where a pod starts with nothing


class Identities:
    """The user namespace whose ids files are mapped to; nothing is mapped where it is 0."""

    def __init__(self, first, count):
        self.first, self.count = first, count
        self.namespace = self._make() if first else -1

    def _make(self):
        """A namespace with the ids; no process stays in it."""
        ready, made = os.pipe()
        child = os.fork()
        if child == 0:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            os.write(made, b".")
            signal.pause()
        os.read(ready, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text(f"0 {self.first} {self.count}")
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return namespace

    def bind(self, source, target):
        """Bind a mount, its files' ids mapped; returns the target."""
        tree = _open_tree(source)
        if self.first:
            value = struct.pack("=QQQQ", _IDMAP, 0, 0, self.namespace)
            flags = syscalls.AT_EMPTY_PATH
            syscalls._call("map", syscalls._MOUNT_SETATTR, tree, b"", flags, value, len(value))
        place = os.open(target, os.O_PATH)
        syscalls.attach(tree, place)
        os.close(place)
        os.close(tree)
        return target

    def own(self, path):
        """Give a path to the pod's root."""
        os.chown(path, self.first, self.first, follow_symlinks=False)


def _open_tree(source):
    flags = syscalls.OPEN_TREE_CLONE | os.O_CLOEXEC
    return syscalls._call("open_tree", syscalls._OPEN_TREE, -100, os.fsencode(source), flags)


def _root(request, ids):
    """Mount the root file system at `root`; what is written goes to `disk`."""
    for name in ("lower", "root"):
        os.mkdir(name)
    lower = ids.bind(request["lower"], "lower")
    ids.own("disk/upper")
    for name in _HIDDEN if request["lower"] == "/" else ():
        _fresh(ids, name, 0o1777 if name.endswith("tmp") else 0o755)
    for name, text in request["files"].items():
        _write(ids, name, text)
    data = f"lowerdir={lower},upperdir=disk/upper,workdir=disk/work"
    syscalls.mount("overlay", "root", "overlay", 0, data)


def _fresh(ids, name, mode):
    """An empty directory in front of what the lower one has."""
    path = _directory(ids, name)
    os.chmod(path, mode)
    os.setxattr(path, "trusted.overlay.opaque", b"y")


def _directory(ids, name):
    path = Path("disk/upper")
    for part in Path(name).parts:
        path /= part
        if not path.exists():
            path.mkdir(mode=0o755)
            ids.own(path)
    return path


def _write(ids, name, text):
    path = _directory(ids, os.path.dirname(name)) / os.path.basename(name)
    path.write_text(text)
    path.chmod(0o644)
    ids.own(path)


def _volumes(document, ids):
    """Map the sources of binds; the account's secret lies in a volume of every pod."""
    Path("token").mkdir(mode=0o755)
    Path("token/token").write_text("a secret of the cluster\n")
    for number, mount in enumerate(document["mounts"]):
        if mount["destination"] == _TOKEN:
            mount.update(type="bind", source=os.path.abspath("token"), options=["rbind", "ro"])
        if mount["type"] != "bind" or mount["source"].startswith(_KERNELS) or not ids.first:
            continue
        target = Path(f"volume-{number}")
        (target.mkdir if os.path.isdir(mount["source"]) else target.touch)()
        mount["source"] = os.path.abspath(ids.bind(mount["source"], target))


def main():
    """Mount everything, run the pod, end with its status."""
    request = json.loads(Path(sys.argv[1]).read_text())
    syscalls.mount("none", "/", "", _PRIVATE)
    place = os.path.dirname(sys.argv[1])
    os.chdir(place)
    os.umask(0o022)
    for name in ("disk", "disk/upper", "disk/work"):
        os.mkdir(name)
    disk = os.open("disk", os.O_PATH)
    syscalls.mount("pod", place, "tmpfs", 0, "mode=755")
    os.chdir(place)
    os.mkdir("disk")
    syscalls.mount(f"/proc/self/fd/{disk}", "disk", "", syscalls.MS_BIND)
    os.close(disk)
    ids = Identities(request["first"], request["ids"])
    _root(request, ids)
    document = request["document"]
    _volumes(document, ids)
    name = f"pybuild-{os.path.basename(place)}"
    document["linux"]["cgroupsPath"] = f"/{name}"
    Path("config.json").write_text(json.dumps(document))
    done = subprocess.run(["runc", "--root", f"{place}/states", "run", name], check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
