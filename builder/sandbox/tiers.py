"""Which tier a build gets: the best one that works, remembered until something changes.

Owns the order and the memory of the answer. What a tier needs is tried by trial.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from builder.errors import HostUnsupportedError
from builder.sandbox import host
from builder.sandbox.host import Tier
from builder.sandbox.trial import Answer, try_tier
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable

_DOMAIN = "tier"
ORDER = (Tier.USERNS, Tier.SINGLE, Tier.CHROOT, Tier.EMULATE)
_FACTS = frozenset({"Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters"})
# What an administrator changes on the advice of an error or of doctor.
_SETTINGS = (
    "/etc/subuid",
    "/etc/subgid",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/sys/kernel/yama/ptrace_scope",
    "/proc/self/attr/current",
)


class Memos(Protocol):
    """What is needed of the state's memos."""

    def get(self, domain: str, key: str) -> bytes | None:
        """Look up."""

    def put(self, domain: str, key: str, value: bytes) -> None:
        """Remember, replacing."""


@value
class Choice:
    """A tier, and where the changes of its steps are kept, as uppers.find says."""

    tier: Tier
    changes: str = ""


def choose(scratch: str, memos: Memos, trial: Callable[[Tier, str], Answer] = try_tier) -> Choice:
    """The best tier for a state directory's file system.

    Raises:
        HostUnsupportedError: none works; it says why the best and the least one do not.
    """
    key = _circumstances(scratch)
    known = _known(memos, _DOMAIN, key)
    if known is not None:
        return known
    answers: list[Answer] = []
    for tier in ORDER:
        answer = trial(tier, scratch)
        if answer.works:
            choice = Choice(tier, answer.changes)
            passing = any(earlier.passing for earlier in answers)
            return choice if passing else _noted(memos, _DOMAIN, key, choice)
        answers.append(answer)
    raise _nothing(answers)


def _nothing(answers: list[Answer]) -> HostUnsupportedError:
    """What stands in the way of the best tier and, where that is another thing, of the least."""
    ends = (answers[0], answers[-1])
    reasons = dict.fromkeys(answer.reason for answer in ends)
    hints = dict.fromkeys(answer.hint for answer in ends if answer.hint)
    return HostUnsupportedError(
        "; without it: ".join(reasons),
        hint="; ".join(["; or: ".join(hints), "`pybuild doctor` has the rest"]).lstrip("; "),
    )


def require(
    tier: Tier,
    scratch: str,
    memos: Memos,
    trial: Callable[[Tier, str], Answer] = try_tier,
    asked: str = "",
) -> Choice:
    """One tier and no other; `asked` is the flag that wants it, unless that is --sandbox.

    Raises:
        HostUnsupportedError: it does not work; it says what failed and what would help.
    """
    domain, key = f"{_DOMAIN} {tier}", _circumstances(scratch)
    known = _known(memos, domain, key)
    if known is not None:
        return known
    answer = trial(tier, scratch)
    if not answer.works:
        msg = f"{asked or f'--sandbox={tier}'} does not work here: {answer.reason}"
        raise HostUnsupportedError(msg, hint=answer.hint or None)
    return _noted(memos, domain, key, Choice(tier, answer.changes))


def _known(memos: Memos, domain: str, key: str) -> Choice | None:
    known = memos.get(domain, key)
    name, _, changes = (known or b"").decode("utf-8", "replace").partition(" ")
    if name not in {str(tier) for tier in ORDER}:
        return None
    is_there = changes in {"", "memory"} or os.path.isdir(os.path.dirname(changes))
    return Choice(Tier(name), changes) if is_there else None


def _noted(memos: Memos, domain: str, key: str, choice: Choice) -> Choice:
    memos.put(domain, key, f"{choice.tier} {choice.changes}".encode("utf-8", "replace"))
    return choice


def forget(scratch: str, memos: Memos) -> None:
    """The remembered tier did not work after all: try again the next time."""
    key = _circumstances(scratch)
    for domain in (_DOMAIN, *(f"{_DOMAIN} {tier}" for tier in ORDER)):
        if memos.get(domain, key):
            memos.put(domain, key, b"")


def _circumstances(scratch: str) -> str:
    """What the answer depends on: this boot, our rights and namespace, settings, the file system."""
    facts = [_read("/proc/sys/kernel/random/boot_id")]
    facts += [
        line for line in _read("/proc/self/status").splitlines() if line.partition(":")[0] in _FACTS
    ]
    for name in ("/proc/self/ns/user", "/proc/self/ns/mnt"):
        try:
            facts.append(os.readlink(name))
        except OSError:
            facts.append("")
    facts += [_read(name) for name in _SETTINGS]
    facts += [host.identity(name) for name in ("newuidmap", "newgidmap")]
    facts.append(str(os.stat(scratch).st_dev))
    from cache.spec.digest import framed  # noqa: PLC0415 - only with a RUN to do

    return framed("pybuild.tier.v1", [fact.encode() for fact in facts]).hex


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
