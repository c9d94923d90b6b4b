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


def parser(command: str) -> argparse.ArgumentParser:
    """Make a strict parser: no abbreviations, no own help or exit."""
    return _Parser(
        prog=f"pybuild {command}",
        add_help=False,
        allow_abbrev=False,
        # argparse makes a formatter for each option; asking the terminal each time is slow
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80),
    )
