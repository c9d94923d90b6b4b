"""The contract of Sandbox, held by the fake here and by the real one in a child."""

from __future__ import annotations

import functools
import os
import sys

import pytest
from contract import sandbox as contract
from support import busybox_root, ordinary_user, sandbox_driver
from support.fake_sandbox import FakeSandbox, Program

from builder.errors import SandboxError
from builder.sandbox import init
from builder.sandbox.host import Tier
from builder.sandbox.launch import LaunchedSandbox
from builder.sandbox.namespace import enter_namespace
from builder.sandbox.spec import Overlay, PlainRoot, Process, SandboxSpec

COMMANDS = {
    "talk": ("/bin/sh", "-c", "echo out; echo err >&2"),
    "fail": ("/bin/sh", "-c", "exit 7"),
    "lost": ("lost",),
    "sleep": ("/bin/sh", "-c", "echo up; sleep 1000"),
    "empty": (),
}
FAKES = {
    COMMANDS["talk"]: Program(output=((1, b"out\n"), (2, b"err\n"))),
    COMMANDS["fail"]: Program(exit_code=7),
    COMMANDS["sleep"]: Program(output=((1, b"up\n"),), blocks=True),
    COMMANDS["empty"]: Program(error=SandboxError("no")),
}


def make_fake():
    def step(name):
        return SandboxSpec(Overlay("/", (), "/", "/"), Process(COMMANDS[name], ()))

    return FakeSandbox(dict(FAKES)), step


@pytest.mark.parametrize("name", contract.CHECKS)
def test_the_fake_keeps_the_contract(name):
    """FakeSandbox can stand in for the real one."""
    contract.CHECKS[name](make_fake)


def _start_single(scratch):
    return LaunchedSandbox.start_single(scratch)


def _start_forked(scratch):
    return LaunchedSandbox.start(scratch, functools.partial(init.run))


def _start_chroot(scratch):
    return LaunchedSandbox.start_chroot(scratch)


def _start_plain(scratch):
    return LaunchedSandbox.start_plain(scratch)


PLAIN = (_start_chroot, _start_plain)  # where nothing can be mounted
STARTS = [LaunchedSandbox.start, _start_forked, _start_single, *PLAIN]


def _check_in_child(state, name, start):
    if start not in PLAIN:
        enter_namespace(Tier.SINGLE if start is _start_single else Tier.USERNS)

    def step(program):
        if start not in PLAIN:
            return sandbox_driver.make_step(str(state), *COMMANDS[program])
        process = Process(COMMANDS[program], (("PATH", sandbox_driver.PATH),))
        return SandboxSpec(PlainRoot(f"{state}/base/busybox"), process)

    contract.CHECKS[name](lambda: (start(f"{state}/scratch"), step))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", contract.CHECKS)
def test_the_real_one_keeps_the_contract(name, start, tmp_path):
    """In a forked child, which has no other thread: every kind, and namespaces with a Python init."""
    if not (busybox_root.available() and ordinary_user.can_make_users()):
        pytest.skip("needs root and busybox-static")
    state = busybox_root.make_state(tmp_path)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _check_in_child(state, name, start)
            code = 0
        except BaseException as error:  # noqa: BLE001 - nothing may escape the child
            print(repr(error), file=sys.__stderr__)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0
