"""The command lines of every command but `build`: argparse made strict."""

from __future__ import annotations

import argparse
from typing import NoReturn

from builder.errors import UsageError


class _Parser(argparse.ArgumentParser):
    """An argparse parser that raises instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise a UsageError with argparse's text."""
        raise UsageError(message, hint=f"see `{self.prog} --help`")


class _Directory(argparse.Action):
    """Takes a name that is not empty: an empty one is an unset variable more often than not."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Store it."""
        if not values:
            parser.error(f"{option_string}: a directory is needed")
        setattr(namespace, self.dest, values)


def parser(command: str, *, with_state: bool = True) -> argparse.ArgumentParser:
    """Make a strict parser: no abbreviations, no own help or exit; --root where there is state."""
    made = _Parser(
        prog=f"pybuild {command}",
        add_help=False,
        allow_abbrev=False,
        # argparse makes a formatter for each option; asking the terminal each time is slow
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80),
    )
    if with_state:
        made.add_argument("--root", action=_Directory, default="")
    return made
