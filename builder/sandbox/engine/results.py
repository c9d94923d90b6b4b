"""What the scripts of a step told: where a supervisor reads how its program was started and ended."""

from __future__ import annotations

import os

from builder.sandbox import becoming, interpreter, wire
from builder.sandbox.script import Script


class Results:
    """A file that the interpreter tells its results in; the scripts are those it runs."""

    def __init__(self, program: str) -> None:
        """Make the file, for a step of a program."""
        self.fd = os.memfd_create("results", os.MFD_CLOEXEC)
        self.second = Script()
        self.third = Script()
        self._program = program

    def trouble(self) -> wire.Report | None:
        """What went wrong before there was a program."""
        error = self._told(0).error
        return None if error is None else wire.Report(error=error)

    def code(self, code: int) -> int:
        """The program's exit code, given the interpreter's; says on stderr what could not start."""
        told = self._told(code)
        os.write(2, told.text.encode("utf-8", "surrogateescape"))
        return told.code

    def _told(self, code: int) -> becoming.Told:
        scripts = ((interpreter.SECOND, self.second), (interpreter.THIRD, self.third))
        return becoming.outcome(self.fd, scripts, self._program, code)
