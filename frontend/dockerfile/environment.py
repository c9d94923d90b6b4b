"""The variables of a stage: what ENV persists, what expansion and RUN see, which ARGs are declared.

Knows nothing of images or graphs (V24, V30-V38).
"""

from __future__ import annotations

from cache.hints import TYPE_CHECKING, Protocol, Self
from frontend.dockerfile.problems import MistakeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from frontend.dockerfile.problems import Budget

MAX_ENVIRONMENT = 2 * 1024 * 1024  # characters; no kernel starts a process with more
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")  # V42
_NEVER_SET = dict.fromkeys(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))  # V43


class Expander(Protocol):
    """Expands one word of the instruction at hand in the stage's environment."""

    def __call__(self, text: str, /) -> str:
        """Expand `$` forms and remove quotes."""


class Environment:
    """ENV and ARG of a stage in order; the last instruction wins (V34)."""

    def __init__(self, env: Iterable[tuple[str, str]], budget: Budget) -> None:
        """Start with a base image's ENV."""
        self.persisted: dict[str, str] = dict(env)
        self.scope: dict[str, str] = dict(self.persisted)
        self.declared: dict[str, None] = {}  # names of ARGs, in order
        self._budget = budget
        self._size = sum(len(k) + len(v) + 2 for k, v in self.scope.items())
        self._pairs: tuple[tuple[str, str], ...] | None = None

    def child(self) -> Self:
        """Copy for a stage built FROM this one: it inherits ARGs as well (V35)."""
        self._budget.spend(self._size)
        copy = type(self)(self.persisted.items(), self._budget)
        for name, value in self.scope.items():
            # What ENV persists is set again for the child and hides an ARG after it.
            copy.assign(name, self.persisted.get(name, value))
        copy.declared = dict(self.declared)
        return copy

    def set(self, name: str, value: str) -> None:
        """ENV: persist and make visible (I01)."""
        self.assign(name, value)
        self.persisted[name] = value

    def declare(self, name: str, value: str | None) -> None:
        """ARG: make visible, unless it has no value at all (V30)."""
        self.declared[name] = None
        if value is not None:
            self.assign(name, value)

    def assign(self, name: str, value: str) -> None:
        """Make a value visible to expansion and RUN."""
        check_variable(name, value)
        old = self.scope.get(name)
        self._size += len(value) - len(old) if old is not None else len(name) + len(value) + 2
        if self._size > MAX_ENVIRONMENT:
            raise MistakeError(
                "the environment is larger than 2 MiB, which no process can start with"
            )
        self.scope[name] = value
        self._pairs = None

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The environment of a process: ENV first, then ARGs, each once (R05)."""
        if self._pairs is None:
            self._budget.spend(self._size)
            scope = self.scope
            hidden = {**self.persisted, **_NEVER_SET}
            self._pairs = (
                *((name, scope[name]) for name in self.persisted),
                *((n, v) for n, v in scope.items() if n not in hidden),
            )
        return self._pairs

    def arguments(self) -> tuple[tuple[str, str], ...]:
        """Declared ARGs, first declaration first, with the values in force (O11)."""
        return tuple((name, self.scope.get(name, "")) for name in self.declared)


def check_variable(name: str, value: str) -> None:
    """Refuse what cannot be an environment entry.

    Raises:
        MistakeError: `=` in the name, or a zero byte.
    """
    if "=" in name or "\0" in name:
        raise MistakeError(f"invalid variable name {name[:60]!r}")
    if "\0" in value:
        raise MistakeError(f"value of {name[:60]!r} contains a zero byte")


def proxies(build_args: Mapping[str, str], scope: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Proxy variables for a RUN, in both cases, unless the Dockerfile sets them (V42)."""
    given: dict[str, str] = {}
    for name, value in build_args.items():
        if name.upper() in PROXIES:
            given.setdefault(name.upper(), value)
    both = ((case, value) for name, value in given.items() for case in (name, name.lower()))
    return tuple((name, value) for name, value in both if name not in scope)
