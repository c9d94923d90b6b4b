"""Networks of steps apart from the host's: namespaces connected through pasta or slirp4netns.

A step sees the world from 10.0.2.100 behind the gateway 10.0.2.2, and asks 10.0.2.3 for names;
nothing of the host's loopback can be reached. The namespace is made by a thread that ends, as
one cannot come back from it, and is held by a mount; the connecting program ends with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from builder.errors import HostUnsupportedError, SandboxError
from builder.resources import GATEWAY
from builder.sandbox import syscalls
from builder.sandbox.loopback import raise_loopback
from builder.sandbox.network import resolv_conf_of
from builder.sandbox.spec import NetworkMode
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from builder.sandbox.spec import Outcome, Sandbox, SandboxSpec

_ADDRESS, _PREFIX, _RESOLVER = "10.0.2.100", 24, "10.0.2.3"
_INTERFACE = "tap0"
_TUN = "/dev/net/tun"
_PLACES = ("/usr/bin", "/usr/local/bin", "/bin")
_PATIENCE = 10.0  # seconds for the connecting program to be ready
_PAUSE = 0.005
_MESSAGE = 2000  # bytes of a program's complaint that are shown
_MTU = 65520
# Started through Python to end with the thread that started it, and with signals as at the start:
# an older pasta takes an ignored SIGPIPE for a failure.
_TIED = (
    "import ctypes,os,signal,sys;ctypes.CDLL(None).prctl(1,9,0,0,0);"
    "signal.signal(signal.SIGPIPE,signal.SIG_DFL);os.execv(sys.argv[1],sys.argv[1:])"
)
_HINT = "install passt or slirp4netns (apt install passt), or choose --network host or none"


@value
class Connector:
    """A program that connects namespaces. `ports` are (host's, step's) TCP ports to publish."""

    path: str
    is_pasta: bool
    ports: tuple[tuple[int, int], ...] = ()


def find_connector(
    ports: tuple[tuple[int, int], ...] = (), places: tuple[str, ...] = _PLACES, tun: str = _TUN
) -> Connector:
    """What this host has to connect namespaces with.

    Raises:
        HostUnsupportedError: nothing; the hint says what to do.
    """
    try:
        os.close(os.open(tun, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HostUnsupportedError(
            f"--network=sandbox needs {tun}, which cannot be opened: {reason}",
            hint="give the container the device (--device /dev/net/tun), or choose --network host or"
            " none",
        ) from error
    for name in ("pasta", "slirp4netns"):
        for place in places:
            if os.access(f"{place}/{name}", os.X_OK):
                if ports and name != "pasta":
                    raise HostUnsupportedError(
                        "ports can be published through pasta only", hint="apt install passt"
                    )
                return Connector(f"{place}/{name}", name == "pasta", ports)
    raise HostUnsupportedError("--network=sandbox needs pasta or slirp4netns", hint=_HINT)


def pasta_arguments(connector: Connector, path: str, pid_file: str) -> list[str]:
    """How pasta is called: nothing of the host's loopback, no port but those asked for."""
    published = ",".join(f"{outer}:{inner}" for outer, inner in connector.ports) or "none"
    return [
        connector.path, "--config-net", "--address", _ADDRESS, "--netmask", str(_PREFIX),
        "--gateway", GATEWAY, "--dns-forward", _RESOLVER, "--no-map-gw", "--ns-ifname", _INTERFACE,
        "-t", published, "-u", "none", "-T", "none", "-U", "none", "--foreground", "--quiet",
        "--pid", pid_file, "--runas", "0", "--netns", path,
    ]  # fmt: skip


def slirp_arguments(connector: Connector, path: str, ready: int) -> list[str]:
    """How slirp4netns is called; the interface is left for us to configure."""
    return [
        connector.path, "--disable-host-loopback", f"--mtu={_MTU}", f"--ready-fd={ready}",
        "--netns-type=path", path, _INTERFACE,
    ]  # fmt: skip


class IsolatedNetworks:
    """Makes a connected network for each step, in `directory`, which may be written to."""

    def __init__(self, directory: str, connector: Connector) -> None:
        """Remember, and clear away what builders that were killed left."""
        self._directory = directory
        self._connector = connector
        self._numbers = itertools.count(1)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for name in os.listdir(directory):
            if not _is_running(name.partition("-")[0]):
                _remove(f"{directory}/{name}")

    @contextlib.contextmanager
    def step(self) -> Iterator[str]:
        """Give the path of a connected namespace.

        Raises:
            SandboxError: it could not be connected.
        """
        path = f"{self._directory}/{os.getpid()}-{next(self._numbers)}"
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        with contextlib.ExitStack() as stack:
            stack.callback(_remove, path)
            _in_thread(lambda: _make(path))
            connect = self._pasta if self._connector.is_pasta else self._slirp
            stack.callback(_end, connect(path))
            yield path

    def _pasta(self, path: str) -> subprocess.Popen[bytes]:
        pid_file = f"{path}.pid"
        process = _start(pasta_arguments(self._connector, path, pid_file))
        deadline = time.monotonic() + _PATIENCE
        try:
            while not _size(pid_file):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise _refusal(process)
                time.sleep(_PAUSE)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(pid_file)
        return process

    def _slirp(self, path: str) -> subprocess.Popen[bytes]:
        ready, told = os.pipe()
        try:
            process = _start(slirp_arguments(self._connector, path, told), told)
            os.close(told)
            told = -1
            if not select.select([ready], [], [], _PATIENCE)[0] or not os.read(ready, 1):
                raise _refusal(process)
            try:
                _in_thread(lambda: _configure(path))
            except BaseException:
                _end(process)
                raise
        finally:
            os.close(ready)
            if told >= 0:
                os.close(told)
        return process


def _in_thread(work: Callable[[], None]) -> None:
    """Do something in a thread of its own, which ends wherever it went."""
    trouble: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again by the caller's thread
            trouble.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if trouble:
        reason = str(getattr(trouble[0], "strerror", None) or trouble[0]).lower()
        raise SandboxError(f"cannot make a network for the step: {reason}") from trouble[0]


def _make(path: str) -> None:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    raise_loopback()
    syscalls.mount("/proc/thread-self/ns/net", path, "", syscalls.MS_BIND)


def _configure(path: str) -> None:
    """Give the interface its address and the way out."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - a third of a second, and rarely needed

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
    finally:
        os.close(fd)
    with IPRoute() as links:
        (index,) = links.link_lookup(ifname=_INTERFACE)
        links.addr("add", index=index, address=_ADDRESS, prefixlen=_PREFIX)
        links.link("set", index=index, mtu=_MTU, state="up")
        links.route("add", dst="default", gateway=GATEWAY)


def _start(arguments: list[str], *fds: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _TIED, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=fds,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill: pasta is the first process of a namespace of its own and heeds nothing less."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _refusal(process: subprocess.Popen[bytes]) -> SandboxError:
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = b""
    if process.stderr is not None:
        os.set_blocking(process.stderr.fileno(), False)
        text = process.stderr.read(_MESSAGE) or b""
        process.stderr.close()
    lines = text.decode("utf-8", "replace").strip().splitlines()
    said = f": {lines[-1]}" if lines else ""
    return SandboxError(f"cannot connect the network of a step{said}", hint=_HINT)


def _is_running(pid: str) -> bool:
    if not pid.isdecimal():
        return True  # not ours to judge
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        syscalls.umount(path, syscalls.MNT_DETACH)
    with contextlib.suppress(OSError):
        os.unlink(path)


class ConnectedSandbox:
    """A sandbox whose steps may have a network apart from the host's (implements Sandbox)."""

    def __init__(self, inner: Sandbox, networks: IsolatedNetworks) -> None:
        """Wrap a sandbox."""
        self._inner = inner
        self._networks = networks

    def run(self, spec: SandboxSpec, output: Callable[[int, bytes], None]) -> Outcome:
        """Run one step, connected if it is to be."""
        if spec.network is not NetworkMode.SANDBOX:
            return self._inner.run(spec, output)
        with self._networks.step() as path:
            names = resolv_conf_of(_RESOLVER, spec.resolv_conf)
            return self._inner.run(replace(spec, netns=path, resolv_conf=names), output)

    def cancel(self) -> None:
        """Kill every running step."""
        self._inner.cancel()

    def close(self) -> None:
        """End the sandbox."""
        self._inner.close()
