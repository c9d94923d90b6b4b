"""Entering the namespace, and being told why not."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
from support import sandbox_accounts

from builder.sandbox import seccomp, syscalls


@pytest.fixture(scope="module", params=["root", "ordinary"])
def bench(request):
    with sandbox_accounts.bench(request.param) as made:
        yield made


def python(bench, text, prefix=()):
    """Standard output of a script run as the account."""
    command = [*prefix, *bench.account.command(["-c", text])]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd="/",
        env=bench.account.environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_entering_makes_root_once(bench):
    """We are 0:0 without other groups, with a full map and a private mount namespace."""
    out = python(
        bench,
        "import os\n"
        "from builder.sandbox.namespace import enter_namespace\n"
        "before = os.readlink('/proc/self/ns/mnt')\n"
        "a = enter_namespace(); b = enter_namespace()\n"
        "print(a is b, os.getresuid(), os.getresgid(), os.getgroups(), a.outer_uid, a.ids >= 65536)\n"
        "print(before != os.readlink('/proc/self/ns/mnt'))\n"
        "open('f', 'w').close() if os.chdir(os.environ['HOME']) else None\n"
        "os.close(os.open('f', os.O_CREAT)); os.chown('f', 1234, 65534); print(os.stat('f').st_uid)\n"
        "os.unlink('f')",
    )
    assert out.splitlines() == [
        f"True (0, 0, 0) (0, 0, 0) [] {bench.account.uid} True",
        "True",
        "1234",
    ]


def test_threads_are_refused_by_name(bench):
    """A threaded process gets an error that says so, not the kernel's EINVAL."""
    out = python(
        bench,
        "import threading\n"
        "from builder.errors import SandboxError\n"
        "from builder.sandbox.namespace import enter_namespace\n"
        "stop = threading.Event(); threading.Thread(target=stop.wait, daemon=True).start()\n"
        "try: enter_namespace()\n"
        "except SandboxError as error: print(error.message)\n"
        "stop.set()",
    )
    assert "before threads" in out


ENTER = (
    "from builder.errors import HostUnsupportedError\n"
    "from builder.sandbox.namespace import enter_namespace\n"
    "try: enter_namespace()\n"
    "except HostUnsupportedError as error: print(error.message, '|', error.hint)\n"
)


def test_no_new_privileges_is_explained(bench):
    """Where newuidmap may not gain rights, the message says what is refused (D27)."""
    if bench.account.is_root:
        pytest.skip("root needs no newuidmap")
    out = python(bench, ENTER, ["setpriv", "--no-new-privs"])
    assert out.startswith("cannot map ids into the user namespace: ")
    assert "no_new_privs" in out


def test_a_user_without_ranges_is_explained(bench):
    """Someone with no line in /etc/subuid is given the command that adds one (D27)."""
    if bench.account.is_root:
        pytest.skip("root needs no ranges")
    command = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]
    done = subprocess.run(
        [*command, bench.account.python, "-c", ENTER],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd="/",
        env=bench.account.environment(),
    )
    assert 'user "54321" has 0 subordinate ids in /etc/subuid' in done.stdout
    assert "usermod --add-subuids" in done.stdout


def test_switched_off_namespaces_are_explained(bench):
    """A limit of no namespaces (here: of a parent namespace) names the sysctl (D27)."""
    if not bench.account.is_root:
        pytest.skip("lowering the limit needs root")
    script = (
        "import os\n"
        "from builder.sandbox.namespace import enter_namespace\n"
        "enter_namespace()\n"
        "open('/proc/sys/user/max_user_namespaces', 'w').write('0')\n"
        "enter_namespace.cache_clear()\n" + ENTER
    )
    assert "sysctl -w user.max_user_namespaces" in python(bench, script)


FILTERED = f"""
import ctypes, errno, os, socket
from builder.sandbox import seccomp, syscalls
code = seccomp.program(syscalls.MACHINE)
if os.geteuid(): ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no_new_privs stands in for root
syscalls.install_filter((ctypes.c_char * len(code)).from_buffer_copy(code))
for name, call in (
    ("alg", lambda: socket.socket(38, socket.SOCK_SEQPACKET)),
    ("vsock", lambda: socket.socket(40, socket.SOCK_STREAM)),
    ("unshare", lambda: syscalls.unshare({syscalls.CLONE_NEWUSER})),
    ("keyctl", syscalls.join_new_session_keyring),
    ("unknown", lambda: syscalls._call("x", 1000)),
    ("inet", lambda: socket.socket().close()),
    ("fork", lambda: os.fork() or os._exit(0)),
):
    try: call(); print(name, 0)
    except OSError as error: print(name, errno.errorcode[error.errno])
"""


@pytest.mark.skipif(syscalls.MACHINE not in seccomp._MACHINES, reason="no table")
def test_the_filter_in_the_kernel():
    """The kernel takes the program, and it decides as the interpreter says (D11)."""
    done = subprocess.run(
        [sys.executable, "-c", FILTERED],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd=sandbox_accounts.ordinary_user.REPOSITORY,
    )
    assert dict(line.split() for line in done.stdout.splitlines()) == {
        "alg": "EPERM",
        "vsock": "EPERM",
        "unshare": "EPERM",
        "keyctl": "EPERM",
        "unknown": errno.errorcode[errno.ENOSYS],
        "inet": "0",
        "fork": "0",
    }
