"""Steps in an OCI runtime (runc, crun and what has their command line) instead of our own process.

Runs as process 1 of a step, like init: the root and its mounts are made by the same code, then a
bundle is written and the runtime started on it. Whatever the runtime leaves behind ends with
this process. Standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import stat
import struct
from typing import TYPE_CHECKING

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import init, mounts, process, syscalls, system, targets, wire
from builder.sandbox.oci_config import Confinement, HostBind, config
from builder.sandbox.spec import MemoryFile, NetworkMode
from cache.value import replace, value

if TYPE_CHECKING:
    from typing import NoReturn

    from builder.sandbox.spec import SandboxSpec

_ID = "step"  # there is one in the directory of states
_STRICT = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
_GROUPS = "/sys/fs/cgroup"
_LOG_LIMIT = 65536  # bytes of a runtime's log that are read
_VARIABLES = {"PATH": process.DEFAULT_PATH, "XDG_RUNTIME_DIR": "/run"}
# Groups are ours to make, and only where limits were asked for: the runtime needs none.
_OPTIONS = {"runc": ["--rootless", "true"], "crun": ["--cgroup-manager", "disabled"]}
_NO_ERROR = struct.pack("=i", 0)


@value
class Bundle:
    """Where things are: the root, and what the runtime has to bind in /dev."""

    directory: str
    root: str
    binds: tuple[HostBind, ...]


def runner(program: str) -> functools.partial[NoReturn]:
    """What the launcher starts for each step, given the path of a runtime."""
    return functools.partial(_run, program)


def _run(
    program: str, descriptors: init.Descriptors, scratch: str, tools: process.Tools
) -> NoReturn:
    init.serve(descriptors, scratch, tools, functools.partial(_run_step, program))


def _run_step(
    program: str, spec: SandboxSpec, scratch: str, report_fd: int, tools: process.Tools
) -> int:
    del tools  # the runtime makes its own filter
    made: list[Bundle] = []

    def mount_rest(
        root: targets.Root, root_path: str, scratch: mounts.Scratch, spec: SandboxSpec
    ) -> None:
        made.append(_mount(root, root_path, scratch, spec, is_crun=_is_crun(program)))

    ready = init.prepare(spec, scratch, mount_rest)
    (bundle,) = made
    os.close(ready.working_directory)
    _own_proc()
    _hide_groups(program)
    init.die_first()
    reason = _missing_program(spec, ready, bundle.root)
    stubs = tuple(reversed(ready.root.stubs))
    init.report(report_fd, wire.Report(stubs=stubs))
    if reason:
        code, text = process.explain(spec.process.argv[0], reason)
        os.write(2, text.encode("utf-8", "surrogateescape"))
        return code
    _write_config(spec, ready, bundle)
    code = _start(program, bundle.directory)
    trouble = _trouble(f"{bundle.directory}/log")
    if code and trouble:
        os.ftruncate(report_fd, 0)
        os.lseek(report_fd, 0, os.SEEK_SET)
        name = os.path.basename(program)
        raise SandboxError(f"{name} cannot run the step: {trouble}")
    return code


def _mount(
    root: targets.Root,
    root_path: str,
    scratch: mounts.Scratch,
    spec: SandboxSpec,
    *,
    is_crun: bool,
) -> Bundle:
    """Mount what a step asked for; what lies in /dev is prepared for the runtime, which makes it."""
    for name in ("proc", "sys", "dev"):
        os.close(targets.system_directory(root, name))
    directory, later = scratch.directory(), scratch.directory()
    shelf = targets.Root(os.open(later, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    binds: list[HostBind] = []
    for mount in (*init.name_files(spec), *spec.mounts):
        if not mount.target.startswith("/dev/"):
            mounts.make_mount(root, scratch, mount)
            continue
        place = f"/{len(binds)}"
        mounts.make_mount(shelf, scratch, replace(mount, target=place))
        readonly = isinstance(mount, MemoryFile) or mount.readonly
        noexec = system.is_noexec(later + place)
        binds.append(HostBind(later + place, mount.target, readonly, noexec=noexec))
    os.close(shelf.fd)
    # Bound, as this runtime takes the root of a namespace with all ids for one who can make them.
    devices = [f"/dev/{name}" for name in system.NODES] if is_crun else []
    if spec.network is NetworkMode.HOST:
        # The runtime would leave what is mounted in it, such as groups, writable.
        sys = scratch.directory()
        system.clone_sys(sys, readonly=not spec.insecure)
        noexec = system.is_noexec(sys)
        binds.append(HostBind(sys, "/sys", readonly=not spec.insecure, noexec=noexec))
    if spec.insecure:
        more = (f"/dev/{name}" for name in system.INSECURE_NODES)
        devices += [path for path in more if os.path.exists(path)]
    binds += [HostBind(path, path, plain=False) for path in devices]
    return Bundle(directory, root_path, tuple(binds))


def _is_crun(program: str) -> bool:
    return os.path.basename(program).startswith("crun")


def _hide_groups(program: str) -> None:
    """Keep a runtime from making groups, which are ours to make."""
    if _is_crun(program):
        with contextlib.suppress(OSError):
            syscalls.mount("none", _GROUPS, "tmpfs", _STRICT | syscalls.MS_RDONLY)
    else:
        system.clone_sys("/sys", readonly=True)


def _own_proc() -> None:
    try:
        syscalls.mount("proc", "/proc", "proc", _STRICT)
    except OSError as error:
        raise HostUnsupportedError(
            "an OCI runtime needs a /proc of its own, which this host refuses",
            hint="leave out --runtime, or run the container with --security-opt systempaths="
            "unconfined, the pod with hostUsers: false and procMount: Unmasked",
        ) from error


def _missing_program(spec: SandboxSpec, ready: init.Ready, root: str) -> int:
    """Look for the program as the step will see it; 0, or the errno that says why not."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chroot(root)
            os.chdir(spec.process.cwd)
            process.take_ids(ready.credentials)
            search = dict(spec.process.env).get("PATH") or process.DEFAULT_PATH
            _, reason = process.find_program(spec.process.argv[0], search)
            os.write(write_end, struct.pack("=i", reason))
        finally:
            os._exit(0)
    os.close(write_end)
    told = os.read(read_end, len(_NO_ERROR)) or _NO_ERROR
    os.close(read_end)
    os.waitpid(pid, 0)
    (reason,) = struct.unpack("=i", told)
    return int(reason)


def _write_config(spec: SandboxSpec, ready: init.Ready, bundle: Bundle) -> None:
    kept = Confinement(
        hostname=spec.hostname,
        machine=syscalls.MACHINE,
        shm_size=spec.shm_size,
        mounts_sys=spec.network is not NetworkMode.HOST,
        insecure=spec.insecure,
        binds=bundle.binds,
        ulimits=spec.ulimits,
    )
    env = process.environment(spec.process, ready.credentials)
    env.setdefault("PATH", process.DEFAULT_PATH)
    document = config(
        bundle.root,
        spec.process.argv,
        tuple(env.items()),
        spec.process.cwd,
        ready.credentials,
        kept,
    )
    os.mkdir(f"{bundle.directory}/states", 0o700)
    with open(
        f"{bundle.directory}/config.json", "x", encoding="utf-8", errors="surrogateescape"
    ) as f:
        json.dump(document, f, ensure_ascii=False)


def _start(program: str, directory: str) -> int:
    """Run the runtime to the end; its status is that of the step."""
    name = os.path.basename(program)
    options = ["--root", f"{directory}/states", "--log", f"{directory}/log", "--log-format", "json"]
    more = next((more for known, more in _OPTIONS.items() if name.startswith(known)), [])
    argv = [program, *options, *more, "run", "--bundle", directory, _ID]
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(directory)
            _keep_null()
            syscalls.close_from(3)
            os.execve(program, argv, _VARIABLES)  # noqa: S606 - that is the point
        finally:
            os._exit(process.NOT_FOUND)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            break
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _keep_null() -> None:
    """Have no device as standard input: crun makes its streams the user's own, also the host's."""
    if stat.S_ISCHR(os.fstat(0).st_mode) and not os.isatty(0):
        reading, writing = os.pipe()
        os.dup2(reading, 0)
        os.close(reading)
        os.close(writing)


def _trouble(log: str) -> str:
    """What the runtime itself complained of last."""
    try:
        with open(log, "rb") as stream:
            lines = stream.read(_LOG_LIMIT).splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("level") in {"error", "fatal", None}:
            return str(row.get("msg", ""))[:500]
    return ""
