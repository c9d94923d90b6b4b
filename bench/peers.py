"""The builders that are compared, and how each is asked for the same work."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from measure import FailedError, Job

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Request:
    """A build, in words every builder knows."""

    context: Path
    tag: str
    archive: Path | None = None  # write an OCI archive there
    compression: str = "gzip"
    push: bool = False  # to the registry that the tag names
    cached: bool = True
    parallel: bool = False


class Peer(Protocol):
    """A builder."""

    name: str
    version: str

    def job(self, request: Request) -> Job:
        """The commands that do a build."""

    def forget(self) -> Job:
        """The commands after which nothing is in the store."""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        return str(error)
    return (done.stdout or done.stderr).strip()


class Pybuild:
    """This project, from its own virtual environment."""

    name = "pybuild"

    def __init__(self, work: Path, registry: str) -> None:
        """State of its own below `work`, its answers from `registry` over plain http."""
        self._root = str(work / "pybuild")
        self._env = (("PYBUILD_ROOT", self._root),)
        self._program = str(Path(sys.executable).parent / "pybuild")
        self._registry = registry
        commit = _output("git", "-C", str(HERE), "rev-parse", "--short", "HEAD")
        self.version = f"{commit}, Python {sys.version.split()[0]}"

    def job(self, request: Request) -> Job:
        """One command."""
        command = [self._program, "build", "-t", request.tag]
        command += ["--insecure-registry", self._registry]
        if request.archive:
            command += ["-o", f"type=oci,dest={request.archive},compression={request.compression}"]
        if request.push:
            command.append("--push")
        if not request.cached:
            command.append("--no-cache")
        return Job(((*command, str(request.context)),), self._env)

    def forget(self) -> Job:
        """A store made anew."""
        # Its snapshots may belong to subordinate ids, which only a namespace can remove.
        inside = () if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user", "--map-auto")
        return Job(((*inside, "rm", "-rf", "--one-file-system", self._root),))

    def publish(self, tag: str) -> Job:
        """Send a built image to the benchmark's registry."""
        command = (self._program, "push", "--insecure-registry", self._registry, tag)
        return Job((command,), self._env)


class Buildah:
    """Buildah, or podman, which contains it: `--layers`, chroot isolation, a store of its own."""

    def __init__(self, name: str, work: Path) -> None:
        """Ask the program which storage driver it takes; the store is below `work`."""
        self.name = name
        store, runroot = work / name, work / f"{name}-run"
        self._base = (name, "--root", str(store), "--runroot", str(runroot))
        self._bud = "bud" if name == "buildah" else "build"
        as_json = () if name == "buildah" else ("--format", "json")
        driver = "unknown"
        with contextlib.suppress(ValueError, KeyError, TypeError):
            info = json.loads(_output(*self._base, "info", *as_json))
            driver = info["store"].get("GraphDriverName") or info["store"]["graphDriverName"]
        self.version = f"{_output(name, '--version')}, {driver}"

    def job(self, request: Request) -> Job:
        """Build, and push to an archive when one is wanted."""
        command = [*self._base, self._bud, "--layers", "--isolation", "chroot"]
        command += ["--tls-verify=false", "-t", request.tag]
        if not request.cached:
            command.append("--no-cache")
        if request.parallel:
            command += ["--jobs", "4"]
        commands = [(*command, str(request.context))]
        if request.archive:
            push = (*self._base, "push", "-q", "--compression-format", request.compression)
            commands.append((*push, request.tag, f"oci-archive:{request.archive}"))
        if request.push:
            push = (*self._base, "push", "-q", "--tls-verify=false", request.tag)
            commands.append((*push, f"docker://{request.tag}"))
        return Job(tuple(commands))

    def forget(self) -> Job:
        """All images removed."""
        return Job(((*self._base, "rmi", "--all", "--force"),))


class BuildKit:
    """BuildKit through buildctl; the daemon is started by the benchmark and stays warm."""

    name = "buildkit"

    def __init__(self, address: str, daemon: int) -> None:
        """Talk to the daemon at `address`."""
        self._address = address
        self._daemon = daemon
        self.version = _output("buildctl", "--version")

    def job(self, request: Request) -> Job:
        """One client command; its daemon's memory counts."""
        command = ["buildctl", "--addr", self._address, "build", "--frontend", "dockerfile.v0"]
        for name in ("context", "dockerfile"):
            command += ["--local", f"{name}={request.context}"]
        if request.archive:
            form = f"type=oci,dest={request.archive},compression={request.compression}"
            command += ["--output", form]
        if request.push:
            form = f"type=image,name={request.tag},push=true,registry.insecure=true"
            command += ["--output", form]
        if not request.cached:
            command.append("--no-cache")
        return Job((tuple(command),), daemon=self._daemon)

    def forget(self) -> Job:
        """Its cache pruned; the daemon stays warm."""
        return Job((("buildctl", "--addr", self._address, "prune", "--all"),))


class Docker:
    """Docker with BuildKit; the memory of its daemon is not seen."""

    name = "docker"

    def __init__(self) -> None:
        """Ask the daemon its version."""
        self.version = _output("docker", "version", "--format", "{{.Server.Version}}")

    def job(self, request: Request) -> Job:
        """One client command."""
        if request.archive:
            raise FailedError("docker build has no OCI archive without buildx")
        if request.push:
            raise FailedError("docker's daemon pushes to registries it was told are insecure")
        command = ["docker", "build", "-q", "-t", request.tag]
        if not request.cached:
            command.append("--no-cache")
        return Job(((*command, str(request.context)),), (("DOCKER_BUILDKIT", "1"),))

    def forget(self) -> Job:
        """Refuse: the store may hold what is not the benchmark's."""
        raise FailedError("docker's store is not the benchmark's to empty")


class ChImage:
    """Charliecloud's builder."""

    name = "ch-image"

    def __init__(self, work: Path) -> None:
        """A store below `work`."""
        self._env = (("CH_IMAGE_STORAGE", str(work / "ch-image")),)
        self.version = _output("ch-image", "--version")

    def job(self, request: Request) -> Job:
        """One command."""
        if request.archive:
            raise FailedError("ch-image writes no OCI archive")
        if request.push:
            raise FailedError("ch-image's push is not measured")
        command = ["ch-image", "--tls-no-verify", "--cache" if request.cached else "--rebuild"]
        command += ["build", "-t", request.tag, str(request.context)]
        return Job((tuple(command),), self._env)

    def forget(self) -> Job:
        """Its store reset."""
        return Job((("ch-image", "reset"),), self._env)


class Kaniko:
    """Kaniko's executor in a root of its own, as root; each build unpacks its base there."""

    name = "kaniko"

    def __init__(self, work: Path, registry: str) -> None:
        """Lay the root out: the executor is static, and all it needs besides is certificates."""
        self._root = work / "kaniko-root"
        self._registry = registry
        (self._root / "kaniko").mkdir(parents=True)
        for name in ("proc", "dev", "etc", "workspace", "out", "cache"):
            (self._root / name).mkdir()
        shutil.copy(str(shutil.which("executor")), self._root / "kaniko" / "executor")
        for name in ("resolv.conf", "hosts", "passwd", "group", "nsswitch.conf"):
            with contextlib.suppress(OSError):
                shutil.copy(f"/etc/{name}", self._root / "etc" / name)
        self.version = _output("executor", "version")

    def job(self, request: Request) -> Job:
        """One executor below its root, in mount and process namespaces that end with it."""
        command = ["/kaniko/executor", "--force", "--context", "dir:///workspace"]
        command += ["--insecure", "--insecure-pull", "--skip-tls-verify", "--cleanup"]
        if request.cached:
            command += ["--cache", "--cache-copy-layers", "--cache-run-layers"]
            command += ["--cache-repo", f"{self._registry}/bench/kaniko-cache"]
        if request.archive:
            command += ["--tar-path", f"/out/{request.archive.name}"]
        command += [f"--destination={request.tag}"] if request.push else ["--no-push"]
        root = shlex.quote(str(self._root))
        script = (
            f"mount --bind {shlex.quote(str(request.context))} {root}/workspace && "
            f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev && "
            f"exec chroot {root} {shlex.join(command)}"
        )
        return Job((("unshare", "--mount", "--pid", "--fork", "sh", "-c", script),))

    def forget(self) -> Job:
        """Nothing to do: it keeps no store, and its cache is not asked for without `cached`."""
        return Job((("true",),))


@contextlib.contextmanager
def _buildkitd(work: Path, registry: str) -> Iterator[BuildKit]:
    address = f"unix://{work}/buildkitd.sock"
    config = work / "buildkitd.toml"
    config.write_text(f'[registry."{registry}"]\n  http = true\n')
    command = ("buildkitd", "--root", str(work / "buildkit"), "--addr", address)
    with (work / "buildkitd.log").open("wb") as log:
        daemon = subprocess.Popen((*command, "--config", str(config)), stdout=log, stderr=log)
    try:
        ready = ("buildctl", "--addr", address, "debug", "workers")
        for _ in range(150):
            if daemon.poll() is not None:
                raise FailedError((work / "buildkitd.log").read_text()[-1500:])
            if subprocess.run(ready, capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.2)
        yield BuildKit(address, daemon.pid)
    finally:
        daemon.terminate()
        daemon.wait(30)


def _found(names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        if name == "buildkit":
            # Rootless BuildKit needs RootlessKit around it; only the root daemon is started here.
            there = shutil.which("buildkitd") and shutil.which("buildctl") and os.geteuid() == 0
        elif name == "kaniko":
            there = shutil.which("executor") and os.geteuid() == 0
        elif name == "docker":
            server = ("docker", "version", "--format", "{{.Server.Version}}")
            there = shutil.which("docker") and _succeeds(*server)
        else:
            there = shutil.which(name)
        if there:
            yield name


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def available(names: tuple[str, ...], work: Path, registry: str) -> Iterator[list[Peer]]:
    """Pybuild and those of the named builders that this machine has, daemons started."""
    with contextlib.ExitStack() as stack:
        peers: list[Peer] = [Pybuild(work, registry)]
        for name in _found(names):
            if name == "buildkit":
                try:
                    peers.append(stack.enter_context(_buildkitd(work, registry)))
                except FailedError as error:
                    print(f"buildkitd does not start: {error}", file=sys.stderr)
            elif name == "docker":
                peers.append(Docker())
            elif name == "kaniko":
                peers.append(Kaniko(work, registry))
            elif name == "ch-image":
                peers.append(ChImage(work))
            else:
                peers.append(Buildah(name, work))
        yield peers
