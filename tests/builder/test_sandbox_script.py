"""The small program that is process 1 of most steps, run with scripts of the tests' own."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.sandbox import interpreter, syscalls, trampoline
from builder.sandbox.script import NEXT, Script, Slot, Texts

MACHINES = ("x86_64", "aarch64")
QEMU = "/usr/bin/qemu-aarch64-static"  # runs the code of the machine that this is not
SLOT, OTHER, STATUS = 24, 32, 40


@pytest.fixture(params=MACHINES)
def run(request):
    """Run a script on a machine: exit code, standard output, and what is in the results."""
    return functools.partial(run_on, request.param)


def run_on(machine, script, *, told=b"1"):
    """Run a script in the machine's code."""
    control, theirs = socket.socketpair()
    program = trampoline.sealed(interpreter.image(machine))
    results, text = os.memfd_create("results"), os.memfd_create("script")
    output, end = os.pipe()
    os.pwrite(text, script.build(machine, interpreter.FIRST), 0)
    null = os.open("/dev/null", os.O_RDONLY)
    wanted = (null, end, end, results, theirs.fileno(), text, program)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50) for fd in wanted]
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(high[:6])]
    place = f"/proc/self/fd/{high[6]}"
    if machine != syscalls.MACHINE:
        actions.append((os.POSIX_SPAWN_DUP2, program, program))
        os.set_inheritable(program, True)  # noqa: FBT003 - it has no name
        place = f"/proc/self/fd/{program}"
    words = [place] if machine == syscalls.MACHINE else [QEMU, place]
    pid = os.posix_spawn(words[0], words, {}, file_actions=actions)
    for fd in (*high, null, end, text, program):
        os.close(fd)
    theirs.close()
    if told:
        with contextlib.suppress(OSError):
            control.send(told)
    control.close()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = os.read(output, 1000)
    os.close(output)
    found = os.pread(results, 1000, 0)
    os.close(results)
    return code, said, found


def ending(script, code):
    """A script with an end."""
    script.call("exit_group", code)
    return script


@pytest.mark.parametrize("machine", MACHINES)
def test_the_code_of_the_interpreter_is_not_writable(machine):
    """One segment is read and executed, the other is memory without a byte of the file (D04)."""
    image = interpreter.image(machine)
    code = struct.unpack_from("<IIQQQQQQ", image, 64)
    memory = struct.unpack_from("<IIQQQQQQ", image, 64 + 56)
    assert (code[0], code[1], code[5]) == (1, 5, len(image))
    assert (memory[0], memory[1], memory[5]) == (1, 6, 0)


def test_calls_are_made_in_turn(run):
    """Text passed by address, lists of texts as exec takes them."""
    script = Script()
    script.call("write", 1, b"one ", 4)
    script.call("execve", b"/bin/echo\0", Texts((b"echo", b"two")), Texts((b"A=b",)))
    assert run(script) == (0, b"one two\n", b"")


def test_an_error_is_fatal_and_names_its_entry(run):
    """The address and the error are in the results, so that it can be told which call it was."""
    script = Script()
    script.call("umask", 0o22)
    script.call("close", 999)
    script.call("write", 1, b"never", 5)
    code, said, results = run(script)
    address, error = struct.unpack("=Qq", results)
    assert (code, said, error) == (126, b"", -9)
    assert script.name_at(interpreter.FIRST, address) == "close"
    assert script.name_at(interpreter.FIRST, address + 1000) == ""


def test_an_error_can_be_let_pass_or_lead_elsewhere(run):
    """What may fail says so."""
    script = Script()
    script.call("close", 999, on_error=NEXT)
    script.call("close", 999, on_error="there")
    script.call("write", 1, b"never", 5)
    script.label("there")
    assert run(ending(script, 3)) == (3, b"", b"")


def test_a_child_goes_its_own_way_and_is_waited_for(run):
    """A result of zero leads elsewhere; results are kept in slots and compared."""
    script = Script()
    script.call("clone", 17, store=SLOT, on_zero="child")
    script.call("wait4", -1, interpreter.SLOTS + STATUS, store=OTHER)
    script.jump("right", Slot(OTHER), Slot(SLOT))
    script.call("exit_group", 1)
    script.label("right")
    script.call("write", interpreter.RESULTS, interpreter.SLOTS + STATUS, 8)
    script.call("exit_group", 0)
    script.label("child")
    script.call("exit_group", 5)
    code, _, results = run(script)
    assert (code, os.waitstatus_to_exitcode(int.from_bytes(results, "little"))) == (0, 5)


@pytest.mark.parametrize("machine", MACHINES)
@settings(deadline=None, max_examples=25)
@given(left=st.integers(-(2**63), 2**63 - 1), right=st.integers(-(2**63), 2**63 - 1))
def test_values_are_stored_and_compared_whole(machine, left, right):
    """64 bits of either sign."""
    script = Script()
    script.store(SLOT, left)
    script.jump("equal", Slot(SLOT), right)
    script.call("exit_group", 1)
    script.label("equal")
    assert run_on(machine, ending(script, 2))[0] == (2 if left == right else 1)


def test_it_does_nothing_before_it_is_told(run):
    """An end of the launcher is the end of what waits for it."""
    script = Script()
    script.call("write", 1, b"never", 5)
    assert run(ending(script, 0), told=b"") == (126, b"", b"")


def test_it_refuses_to_run_without_results():
    """As it would when the image named /proc/self/exe: descriptor 3 is closed by then (D04)."""
    program = trampoline.sealed(interpreter.image(syscalls.MACHINE))
    high = fcntl.fcntl(program, fcntl.F_DUPFD_CLOEXEC, 50)
    actions = [(os.POSIX_SPAWN_CLOSE, fd) for fd in (3, 4, 5)]
    pid = os.posix_spawn(f"/proc/self/fd/{high}", ["x"], {}, file_actions=actions)
    os.close(program)
    os.close(high)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 126
