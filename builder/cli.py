"""The `pybuild` command: dispatch, error rendering, exit status; the only place that exits.

Exit status: 0 done, 1 the build failed, 2 Dockerfile or usage, 3 this host cannot,
128+n ended by signal n.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import sys

from cache.errors import PybuildError, advice_on, reason_of
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.errors import SolveError

VERSION = "0.1.0"
COMMANDS = (
    "build",
    "push",
    "pull",
    "run",
    "images",
    "inspect",
    "rmi",
    "prune",
    "login",
    "logout",
    "doctor",
    "bundle",
)
_FAILED, _USAGE, _HOST, _SIGNAL = 1, 2, 3, 128
_COLLECT_AFTER = 50_000  # objects: some megabytes


def main(argv: Sequence[str] | None = None, *, at_end: Callable[[], None] | None = None) -> int:
    """Run one command and return its exit status; without `argv`, as the whole process.

    `at_end` is called before that ends.
    """
    if argv is not None:
        try:
            return _run(list(argv))
        finally:
            _go_on()
    # A cached build makes a hundred thousand objects that stay and hardly a cycle.
    gc.set_threshold(_COLLECT_AFTER)
    status = _run(sys.argv[1:])
    if at_end is not None:
        at_end()
    return _leave(status)


def _run(words: list[str]) -> int:
    """Run one command; every error becomes a message and a status."""
    _fill_standard_streams()
    try:
        return _flushed(_dispatch(words))
    except KeyboardInterrupt as error:
        return _say("interrupted", None, _SIGNAL + getattr(error, "signal", 2))
    except BrokenPipeError:
        return _SIGNAL + 13
    except PybuildError as error:
        return _report(error)
    except RecursionError:
        return _say("the input is nested too deeply", None, _FAILED)
    except OSError as error:
        # A full disk has a name; what has none may be standard output, which prune cannot help.
        is_output = error.filename is None and error.errno == errno.ENOSPC
        return _say(reason_of(error), None if is_output else advice_on(error), _FAILED)
    except MemoryError:
        return _say("out of memory", "give the build more memory", _FAILED)


def _dispatch(words: list[str]) -> int:
    first = words[0] if words else ""
    if first in {"-h", "--help", "help"} or not words:
        _show_help(words[1] if first == "help" and words[1:] else "build")
        return 0 if words else _USAGE
    if first in {"version", "--version"}:
        if words[1:]:
            from builder.commandhelp import alone  # noqa: PLC0415 - only when something is wrong

            raise alone(first, words[1])
        print(f"pybuild {VERSION}")
        return 0
    if first in {"-D", "--debug"} and words[1:2] == ["build"]:
        words[:2] = ["build", first]  # where docker has it
        first = "build"
    words = _root_behind(words)
    first = words[0]
    command = first if first in COMMANDS else "build"
    rest = words[1:] if first in COMMANDS else words
    if any(word in {"-h", "--help"} for word in rest) and command not in {"build", "run"}:
        _show_help(command)
        return 0
    if rest is words and first.isalpha() and not os.path.lexists(first):
        from builder.commandhelp import unknown  # noqa: PLC0415 - only when something is wrong

        raise unknown(first, COMMANDS)
    module = importlib.import_module(f"builder.commands.{command}")
    status: int = module.run(rest, dict(os.environ))
    return status


def _root_behind(words: list[str]) -> list[str]:
    """Let --root, which may stand before the command, stand behind it as any other option."""
    length = {"--root": 2}.get(words[0], 1 if words[0].startswith("--root=") else 0)
    if length and words[length : length + 1] and words[length] in COMMANDS:
        return [words[length], *words[:length], *words[length + 1 :]]
    return words


def _show_help(command: str) -> None:
    if command in COMMANDS[1:]:
        from builder.commandhelp import page  # noqa: PLC0415 - nothing else is needed for it

        print(page(command), end="")
    else:
        from builder.usage import HELP  # noqa: PLC0415 - nothing else is needed for it

        print(HELP, end="")


def _report(error: PybuildError) -> int:
    """Print an error the way its kind deserves and choose the status."""
    from builder.errors import (  # noqa: PLC0415 - only when something went wrong
        HostUnsupportedError,
        SolveError,
        UsageError,
    )
    from frontend.dockerfile.problems import LoweringError, MistakeError  # noqa: PLC0415 - the same
    from frontend.source import DockerfileError  # noqa: PLC0415 - the same

    match error:
        case DockerfileError():
            _tell(error.render())
            return _USAGE
        case LoweringError():
            _tell(error.render())
            if not isinstance(error.cause, HostUnsupportedError):
                return _FAILED
            if "pybuild doctor" not in (error.hint or ""):
                _tell(f"hint: {_with_doctor(None)}")
            return _HOST
        case MistakeError():
            return _say(error.message, error.hint, _USAGE)
        case SolveError():
            _show_failure(error)
            if isinstance(error.cause, HostUnsupportedError):
                return _say(error.message, _with_doctor(error.hint), _HOST)
            return _say(error.message, error.hint, _FAILED)
        case HostUnsupportedError():
            return _say(error.message, _with_doctor(error.hint), _HOST)
        case UsageError():
            return _say(error.message, error.hint, _USAGE)
        case _:
            return _say(error.message, error.hint, _FAILED)


def _with_doctor(hint: str | None) -> str:
    """What this host cannot, doctor knows more about."""
    if hint and "pybuild doctor" in hint:
        return hint
    return f"{hint}; `pybuild doctor` says more" if hint else "`pybuild doctor` says more"


def _show_failure(error: SolveError) -> None:
    """Repeat the failed step's last output and show its lines (O73)."""
    from builder.progress.summary import failure_text  # noqa: PLC0415 - only when a step failed

    if error.log_tail:
        _tell(failure_text(error.vertex.name, error.log_tail))
    if error.excerpt:
        _tell(error.excerpt)


def _say(message: str, hint: str | None, status: int) -> int:
    from frontend.source import printable  # noqa: PLC0415 - only when something went wrong

    lines = [
        f"pybuild: error: {line}" if not n else line for n, line in enumerate(message.split("\n"))
    ]
    if hint:
        lines.append(f"hint: {hint}")
    for line in lines:
        _tell(printable(line).encode("utf-8", "replace").decode())
    return status


def _tell(text: str) -> None:
    """Print a message; where nobody can have it, the status alone tells."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr)


def _fill_standard_streams() -> None:
    """Open /dev/null for descriptors 0 to 2 the caller closed, lest another file takes their number.

    Messages may get lost there. What a command is for may not: standard output takes nothing.
    """
    for number, flags in enumerate((os.O_RDWR, os.O_RDONLY, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the same


def _flushed(status: int) -> int:
    """Write what is left while a failure can still be reported; give `status` back."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence(1)
        return _say(f"cannot write to standard output: {error.strerror}", None, status or _FAILED)
    return status


def _leave(status: int) -> int:
    """End the process without taking the interpreter apart, which takes a tenth of a cached build."""
    _settle()
    threads = sys.modules.get("threading")
    if threads is not None and any(not thread.daemon for thread in threads.enumerate()[1:]):
        return status  # the ordinary way, which waits for it
    if "atexit" in sys.modules:
        sys.modules["atexit"]._run_exitfuncs()  # noqa: SLF001 - what others registered, as coverage does
    _settle()
    os._exit(status)


def _settle() -> None:
    """Write what is left, or lose it: where the interpreter fails to, it ends with a status of its own."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):  # the status was chosen with that in mind
            _silence(number)


def _go_on() -> None:
    """The process does not end with the command: a signal that ended that is forgotten."""
    import signal  # noqa: PLC0415 - only where the caller is a program

    signal.setitimer(signal.ITIMER_REAL, 0)


def _silence(number: int) -> None:
    """Keep the interpreter's own flush at exit from failing again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
