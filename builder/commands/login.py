"""`pybuild login`: check a credential with its registry and keep it in docker's config.json."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

from builder.arguments import parser
from builder.errors import UsageError
from builder.remote import Network
from cache.spec.reference import DEFAULT_REGISTRY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MAX_PASSWORD = 64 * 1024


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Log in; the password is asked for, or read with --password-stdin."""
    options = parser("login", with_state=False)
    options.add_argument("registry", nargs="?", default=DEFAULT_REGISTRY)
    options.add_argument("-u", "--username", default="")
    options.add_argument("--password-stdin", action="store_true")
    options.add_argument("--insecure-registry", action="append", default=[])
    chosen = options.parse_args(list(argv))
    network = Network(environ, tuple(chosen.insecure_registry))
    username, password = _credential(chosen.username, from_stdin=chosen.password_stdin)
    place = network.client.login(chosen.registry, username, password)
    sys.stdout.write(f"logged in to {chosen.registry}; kept in {place}\n")
    return 0


def _credential(username: str, *, from_stdin: bool) -> tuple[str, str]:
    if from_stdin:
        if not username:
            msg = "--password-stdin needs --username"
            raise UsageError(msg)
        return username, sys.stdin.read(_MAX_PASSWORD).rstrip("\r\n")
    if not sys.stdin.isatty():
        msg = "cannot ask for a password: standard input is no terminal"
        raise UsageError(msg, hint="use --username NAME --password-stdin")
    return username or input("Username: "), getpass.getpass("Password: ")
