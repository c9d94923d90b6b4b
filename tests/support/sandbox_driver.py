"""A builder reduced to its sandbox: a script run as a child, because entering is for good.

With FORKED in the environment every step has a process 1 in Python.

Arguments: the state directory and a Python expression, evaluated with the names of
builder.sandbox.spec, `state`, `step(...)`, `sh(...)` and `run(...)`; its repr is printed.
"""

from __future__ import annotations

import ast
import functools
import itertools
import os
import sys
import threading
import time

from builder.errors import HostUnsupportedError, SandboxError
from builder.sandbox import init
from builder.sandbox import spec as specs
from builder.sandbox.launch import LaunchedSandbox
from builder.sandbox.namespace import enter_namespace

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NUMBERS = itertools.count()


def make_step(state, *argv, lowers=("busybox",), env=(("PATH", PATH),), **settings):
    """A specification on a fresh active snapshot under `state`."""
    number = f"{os.getpid()}-{next(_NUMBERS)}"
    for kind in ("upper", "work"):
        os.mkdir(f"{state}/{kind}{number}", 0o755)
    process = {name: settings.pop(name) for name in ("cwd", "user") if name in settings}
    return specs.SandboxSpec(
        root=specs.Overlay(
            f"{state}/base", lowers, f"{state}/upper{number}", f"{state}/work{number}"
        ),
        process=specs.Process(argv, tuple(env), **process),
        **settings,
    )


def run_step(sandbox, spec):
    """Run and give (exit code, stdout, stderr, stubs), or ("error", kind, message, hint)."""
    output = {1: b"", 2: b""}

    def collect(stream, data):
        output[stream] += data

    try:
        outcome = sandbox.run(spec, collect)
    except (SandboxError, HostUnsupportedError) as error:
        return ("error", type(error).__name__, error.message, error.hint)
    return (outcome.exit_code, output[1].decode(), output[2].decode(), outcome.stubs)


def run_all(sandbox, steps):
    """Run several at the same time."""
    results = [None] * len(steps)

    def work(index):
        results[index] = run_step(sandbox, steps[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def cancel_after(sandbox, spec, seconds):
    """Run, cancel after a while; (result, seconds the cancelled run took to return)."""
    moment = []

    def cancel():
        moment.append(time.monotonic())
        sandbox.cancel()

    timer = threading.Timer(seconds, cancel)
    timer.start()
    result = run_step(sandbox, spec)
    return result, time.monotonic() - moment[0]


def time_steps(sandbox, steps):
    """Milliseconds each step takes, one after the other."""
    found = []
    for spec in steps:
        start = time.perf_counter()
        sandbox.run(spec, lambda _stream, _data: None)
        found.append((time.perf_counter() - start) * 1000)
    return found


def main():
    """Enter, run the expression, print the result."""
    state = sys.argv[1]
    expression = sys.argv[2]
    enter_namespace()
    runner = functools.partial(init.run) if "FORKED" in os.environ else init.run
    sandbox = LaunchedSandbox.start(f"{state}/scratch", runner)
    names = dict(vars(specs)) | {
        "state": state,
        "sandbox": sandbox,
        "os": os,
        "step": lambda *argv, **settings: make_step(state, *argv, **settings),
        "sh": lambda text, **settings: make_step(state, "/bin/sh", "-c", text, **settings),
        "run": lambda spec: run_step(sandbox, spec),
        "run_all": lambda steps: run_all(sandbox, steps),
        "cancel_after": lambda spec, seconds: cancel_after(sandbox, spec, seconds),
        "time_steps": lambda steps: time_steps(sandbox, steps),
    }
    tree = compile(ast.parse(expression.strip(), mode="eval"), "expression", "eval")
    try:
        print(repr(eval(tree, names)))  # noqa: S307, T201 - our own tests' text
    finally:
        sandbox.close()


if __name__ == "__main__":
    main()
