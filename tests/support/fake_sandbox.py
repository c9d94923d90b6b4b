"""A sandbox that runs nothing: programs are Python functions, chosen by the step's argv.

Passes tests/contract/sandbox.py. Keeps the specifications it was given in `specs`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from builder.errors import SandboxError
from builder.sandbox.spec import Outcome

KILLED = 137


@dataclass(frozen=True, slots=True)
class Program:
    """What a program does: output in order, then its end; `blocks` waits for cancel().

    `writes` are (path under the upper directory, bytes) it leaves behind.
    """

    output: tuple[tuple[int, bytes], ...] = ()
    exit_code: int = 0
    stubs: tuple[tuple[str, int], ...] = ()
    blocks: bool = False
    writes: tuple[tuple[str, bytes], ...] = ()
    error: Exception | None = None


@dataclass(slots=True)
class FakeSandbox:
    """Implements Sandbox. `programs` by argv; others are "not found" with code 127."""

    programs: dict[tuple[str, ...], Program] = field(default_factory=dict)
    specs: list = field(default_factory=list)
    closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: set = field(default_factory=set)

    def run(self, spec, output):
        """Play the program of the specification."""
        program = self.programs.get(spec.process.argv, Program(exit_code=127))
        stop = threading.Event()
        with self._lock:
            if self.closed:
                raise SandboxError("the sandbox is closed")
            self.specs.append(spec)
            self._running.add(stop)
        try:
            if program.error is not None:
                raise program.error
            for stream, data in program.output:
                output(stream, data)
            for path, data in program.writes:
                with open(f"{spec.root.upper}/{path}", "wb") as file:
                    file.write(data)
            if program.blocks:
                stop.wait()
            return Outcome(KILLED) if stop.is_set() else Outcome(program.exit_code, program.stubs)
        finally:
            with self._lock:
                self._running.discard(stop)

    def cancel(self):
        """End every blocked program."""
        with self._lock:
            for stop in self._running:
                stop.set()

    def close(self):
        """Cancel and refuse further steps."""
        self.cancel()
        self.closed = True
