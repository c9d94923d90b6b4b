"""Build secrets: read once, before anything runs, from where the user said (M13, I05)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.dockerfile_input import read_regular
from builder.errors import UsageError
from builder.request import MAX_SECRET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from builder.request import SecretSource


def read_secrets(sources: Iterable[SecretSource], environ: Mapping[str, str]) -> dict[str, bytes]:
    """Read every secret; without src and env, a variable named by the id, else a file of that name.

    Raises:
        UsageError: a file or variable is absent, or larger than 500 KiB.
    """
    return {source.id: _read(source, environ) for source in sources}


def _read(source: SecretSource, environ: Mapping[str, str]) -> bytes:
    name = source.env or ("" if source.path or source.id not in environ else source.id)
    if name:
        if name not in environ:
            msg = f"secret {source.id}: environment variable {name} is not set"
            raise UsageError(msg, hint="set it, or use src=PATH")
        value = environ[name].encode("utf-8", "surrogateescape")
    else:
        path = source.path or source.id
        data = read_regular(path, MAX_SECRET)
        if data is None:
            msg = f"secret {source.id}: {path} not found"
            raise UsageError(msg, hint="check src=PATH, or use env=NAME")
        value = data
    if len(value) > MAX_SECRET:
        msg = f"secret {source.id} is larger than {MAX_SECRET} bytes"
        raise UsageError(msg)
    return value
