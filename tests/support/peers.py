"""Programs of others that read what pybuild writes: skopeo, umoci, runc, crun, podman.

Each is used as its users use it. Nothing here knows pybuild.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from pathlib import Path

# Kernels that show both cgroup hierarchies make crun refuse to start anything. It gets a mount
# namespace in which the directory is an empty tmpfs; the processes need no limits.
# An ordinary user gets the mount namespace in a user namespace that keeps its own id.
_ALONE = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-c", "--keep-caps", "-m")
_NO_CGROUPS = (*_ALONE, "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"', "sh")


def run(*command, check=True, timeout=120, **options):
    """Run a program and give its result as text; failure shows what it said."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=timeout,
        check=False,
        **options,
    )
    if check and done.returncode:
        msg = f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        raise AssertionError(msg)
    return done


def inspect(name, *flags, raw=False):
    """`skopeo inspect` of an image, such as docker://HOST/x:1 or oci:DIR."""
    tls = ["--tls-verify=false"] if name.startswith("docker://") else []
    how = ["--raw"] if raw else []
    return json.loads(run("skopeo", "inspect", *tls, *how, *flags, name).stdout)


def copy(source, target, *flags):
    """`skopeo copy`; loopback registries speak plain http."""
    tls = []
    if source.startswith("docker://"):
        tls.append("--src-tls-verify=false")
    if target.startswith("docker://"):
        tls.append("--dest-tls-verify=false")
    run("skopeo", "copy", "-q", "--insecure-policy", *tls, *flags, source, target)


def unpack(layout, tag, bundle):
    """`umoci unpack` of a tag of a layout to a bundle; gives its root directory."""
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    run("umoci", "unpack", *rootless, "--image", f"{layout}:{tag}", bundle)
    return Path(bundle) / "rootfs"


def run_bundle(runtime, bundle, *argv, network="host", check=True, timeout=60):
    """Start a bundle with runc or crun, without a terminal; gives the finished process."""
    _adapt(Path(bundle) / "config.json", argv, network)
    name = f"pybuild-{uuid.uuid4().hex[:12]}"
    return run(*runtime_command(runtime, bundle, name), check=check, timeout=timeout)


def start_bundle(runtime, bundle, *argv):
    """Start a bundle and leave it running: gives the process and the container's name."""
    _adapt(Path(bundle) / "config.json", argv, "host")
    name = f"pybuild-{uuid.uuid4().hex[:12]}"
    command = [str(word) for word in runtime_command(runtime, bundle, name)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return process, name


def stop_bundle(runtime, process, name):
    """End a container started by start_bundle; gives what it printed."""
    run(runtime, *_root(), "kill", name, "KILL", check=False)
    try:
        return process.communicate(timeout=20)[0].decode()
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0].decode()


def runtime_command(runtime, bundle, name):
    """The command line that runs a bundle."""
    if runtime == "crun":
        how = ["crun", *_root(), "--cgroup-manager=disabled"]
        return [*_NO_CGROUPS, *how, "run", "-b", bundle, name]
    return [runtime, *_root(), "run", "-b", bundle, name]


def _root():
    """Where a runtime may keep its state: an ordinary user may have no /run/user."""
    return [] if os.geteuid() == 0 else ["--root", f"/tmp/pybuild-runtime-{os.geteuid()}"]


def _adapt(path, argv, network):
    """Take the terminal away, share the network, and set the command where one is given."""
    document = json.loads(path.read_text())
    document["process"]["terminal"] = False
    if os.geteuid() != 0:
        document["process"]["user"] = {"uid": 0, "gid": 0}  # the one id a rootless bundle maps
    if argv:
        document["process"]["args"] = list(argv)
    spaces = document["linux"]["namespaces"]
    document["linux"]["namespaces"] = [
        space for space in spaces if network != "host" or space["type"] != "network"
    ]
    path.write_text(json.dumps(document))


def podman(directory, *arguments, check=True):
    """Run podman with storage of its own, in a directory with a short name: podman wants one."""
    where = ["--root", f"{directory}/root", "--runroot", f"{directory}/run"]
    how = ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "crun"]
    if os.geteuid() != 0:  # podman makes its own namespaces, with the user's subordinate ids
        return run("podman", *where, *how, *arguments, check=check)
    return run(*_NO_CGROUPS, "podman", *where, *how, *arguments, check=check)


def podman_run(directory, name, *argv, check=True):
    """`podman run` of a loaded image, never pulled, with limits any host allows."""
    limits = ["--ulimit", "nofile=512:512", "--ulimit", "nproc=512:512", "--cgroups=disabled"]
    flags = ["--rm", "--pull", "never", "--network", "host", *limits]
    return podman(directory, "run", *flags, name, *argv, check=check)
