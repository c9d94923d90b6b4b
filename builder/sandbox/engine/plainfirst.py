"""The first process of a step without namespaces: the interpreter, which becomes the program.

What it does before the engine takes over, and what after that is the same for all steps, is for
the kind of sandbox to say.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from builder.errors import HostUnsupportedError
from builder.sandbox import becoming, beginning
from builder.sandbox.engine import netless, supervisor
from builder.sandbox.engine.results import Results
from builder.sandbox.script import NEXT, Script
from builder.sandbox.spec import NetworkMode
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from builder.sandbox import wire
    from builder.sandbox.credentials import Credentials
    from builder.sandbox.engine.step import Handler, Step
    from builder.sandbox.spec import SandboxSpec

    class _Taken(Protocol):
        def close(self) -> None:
            """Give it back."""


FIRST_GIVEN = 6  # the descriptor at which those begin that are given to scripts
_NO_NEW_PRIVS = 38  # prctl

Second = tuple[Script, bytes]


@value
class Way:
    """How a kind of sandbox begins a step.

    `before` writes what is done while calls are the kernel's, with the descriptors `given`; `second`
    is the script of handing over; `after` writes what is done before the program is executed.
    """

    before: Callable[[Script], None]
    given: tuple[int, ...]
    second: Second
    after: Callable[[Script], None]


class PlainFirst:
    """The first process of one step."""

    def __init__(
        self,
        interpreter: beginning.Interpreter | None,
        spec: SandboxSpec,
        owner: Credentials,
        way: Callable[[], Way],
        become: Callable[[supervisor.Ends], int],
    ) -> None:
        """Start nothing yet; `become` makes the process where the interpreter does not fit."""
        usual = not spec.ulimits and spec.network is NetworkMode.HOST
        usual = usual and becoming.fits(spec.process)
        self._interpreter = interpreter if usual else None
        self._spec = spec
        self._owner = owner
        self._way = way
        self._become = become
        self._results = Results(spec.process.argv[0])

    def start(self, ends: supervisor.Ends) -> int:
        """Make it."""
        if self._interpreter is None:
            return self._become(ends)
        way = self._way()
        script = self._results.third
        becoming.settle(script)
        way.before(script)
        becoming.go_on_second(script, "own")
        script.label("own")
        way.after(script)
        becoming.execute(script, self._spec.process, self._owner)
        self._results.second, built = way.second
        text = os.memfd_create("script", os.MFD_CLOEXEC)
        try:
            talk = beginning.Talk(ends.ours, text)
            talk.write(built, script)
            theirs = (self._results.fd, ends.theirs.fileno(), text)
            try:
                pid = self._interpreter.start((0, 1, 2), theirs, way.given)
            except OSError:  # a host where no file in memory is executed
                return self._become(ends)
            talk.begin(len(way.given))
        finally:
            os.close(text)
        return pid

    def ready(
        self,
        step: Step,
        handlers: Mapping[str, Handler],
        tasks: supervisor.Tasks,
        report: Callable[[], wire.Report],
        taken: tuple[_Taken, ...],
    ) -> supervisor.Ready:
        """The step that this begins; `taken` is closed in the end."""

        def close() -> None:
            for each in taken:
                each.close()

        results = self._results
        finish = lambda: results.trouble() or report()  # noqa: E731 - one expression
        lasts = self._interpreter is not None
        return supervisor.Ready(
            step, handlers, tasks, self.start, finish, close, results.code, lasts=lasts
        )


def refuse_what_needs_namespaces(spec: SandboxSpec) -> None:
    """Refuse what cannot be made up for here.

    Raises:
        HostUnsupportedError: says what it is, and where it can be had.
    """
    if spec.network is NetworkMode.NONE and not netless.can_be():
        raise netless.refusal()
    if spec.insecure:
        raise HostUnsupportedError(
            "--security=insecure cannot be had without namespaces",
            hint="leave it out, or run where user namespaces are allowed: see `pybuild doctor`",
        )


def confined(script: Script, ruleset: int | None) -> None:
    """Have the process confined by landlock, given the descriptor of rules if there are any."""
    if ruleset is not None:
        script.call("landlock_restrict_self", ruleset, 0, on_error=NEXT)


def no_new_privileges(script: Script) -> None:
    """Let no program of the step gain rights by being started."""
    script.call("prctl", _NO_NEW_PRIVS, 1)
