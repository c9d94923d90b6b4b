"""Which tier a build gets: the best one that works, remembered until something changes.

Owns the order and the memory of the answer. What a tier needs is tried by trial.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from builder.errors import HostUnsupportedError
from builder.sandbox.host import Tier
from builder.sandbox.trial import Answer, try_tier

if TYPE_CHECKING:
    from collections.abc import Callable

_DOMAIN = "tier"
ORDER = (Tier.USERNS, Tier.EMULATE)
_FACTS = frozenset({"Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters"})


class Memos(Protocol):
    """What is needed of the state's memos."""

    def get(self, domain: str, key: str) -> bytes | None:
        """Look up."""

    def put(self, domain: str, key: str, value: bytes) -> None:
        """Remember, replacing."""


def choose(scratch: str, memos: Memos, trial: Callable[[Tier, str], Answer] = try_tier) -> Tier:
    """The best tier for a state directory's file system.

    Raises:
        HostUnsupportedError: none works; it says why the best one does not.
    """
    key = _circumstances(scratch)
    known = memos.get(_DOMAIN, key)
    if known is not None and known.decode("ascii", "replace") in {str(tier) for tier in ORDER}:
        return Tier(known.decode("ascii"))
    answers: list[Answer] = []
    for tier in ORDER:
        answer = trial(tier, scratch)
        if answer.works:
            memos.put(_DOMAIN, key, str(tier).encode())
            return tier
        answers.append(answer)
    raise HostUnsupportedError(
        answers[0].reason, hint=f"{answers[0].hint}; `pybuild doctor` has the rest".lstrip("; ")
    )


def forget(scratch: str, memos: Memos) -> None:
    """The remembered tier did not work after all: try again the next time."""
    memos.put(_DOMAIN, _circumstances(scratch), b"")


def _circumstances(scratch: str) -> str:
    """What the answer depends on: this boot, our rights and namespace, the state's file system."""
    facts = [_read("/proc/sys/kernel/random/boot_id")]
    facts += [
        line for line in _read("/proc/self/status").splitlines() if line.partition(":")[0] in _FACTS
    ]
    for name in ("/proc/self/ns/user", "/proc/self/ns/mnt"):
        try:
            facts.append(os.readlink(name))
        except OSError:
            facts.append("")
    for name in ("/etc/subuid", "/etc/subgid"):
        facts.append(_read(name))
    facts.append(str(os.stat(scratch).st_dev))
    from cache.spec.digest import framed  # noqa: PLC0415 - only with a RUN to do

    return framed("pybuild.tier.v1", [fact.encode() for fact in facts]).hex


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
