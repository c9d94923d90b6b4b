"""Build arguments that no ARG takes: a name misspelt, or a Dockerfile that no longer asks (V36)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cache.spec.oci import Platform
from frontend.dockerfile.environment import PROXIES
from frontend.dockerfile.instructions import parse_trigger
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.stages import platform_args
from frontend.dockerfile.syntax import Arg, OnBuild

if TYPE_CHECKING:
    from collections.abc import Iterable

    from frontend.dockerfile.syntax import Parsed

_PREDEFINED = frozenset({"SOURCE_DATE_EPOCH", *platform_args(Platform(), Platform(), "")})
_RESERVED = "BUILDKIT_"


def unconsumed(
    parsed: Parsed, triggers: Iterable[str], build_args: Iterable[str]
) -> tuple[str, ...]:
    """Give the names that neither an ARG, wherever it stands, nor pybuild itself asks for.

    `triggers` are the ONBUILD instructions of the base images. Those of the Dockerfile itself count
    as well: a later stage may stand on the one that has them.
    """
    names = [name for name in build_args if not _is_predefined(name)]
    if not names:
        return ()
    declared = {
        name
        for instruction in parsed.instructions
        if isinstance(instruction, Arg)
        for name, _ in instruction.args
    }
    own = (step.trigger for step in parsed.instructions if isinstance(step, OnBuild))
    for text in (*triggers, *own):
        with contextlib.suppress(MistakeError):
            trigger = parse_trigger(text, parsed.directives)
            if isinstance(trigger, Arg):
                declared.update(name for name, _ in trigger.args)
    return tuple(name for name in names if name not in declared)


def _is_predefined(name: str) -> bool:
    return name in _PREDEFINED or name.upper() in PROXIES or name.startswith(_RESERVED)
