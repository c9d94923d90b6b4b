"""The flags that limit what a step uses: --memory, --cpus, --pids-limit, --resource and their like.

Texts to values without effects. Loaded only when such a flag is given.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from builder.errors import UsageError
from builder.flagvalues import parse_size
from builder.resources import PERIOD, Limits

if TYPE_CHECKING:
    from collections.abc import Sequence

# What --resource takes; each is a flag of its own too.
RESOURCES = (
    "cpu-period", "cpu-quota", "cpu-shares", "cpuset-cpus", "cpuset-mems", "memory", "memory-swap",
)  # fmt: skip
FLAGS = frozenset({*RESOURCES, "cpus", "pids-limit", "resource"})
_MIN_MEMORY = 6 << 20  # bytes; docker's: below, nothing starts
_MIN_PERIOD, _MAX_PERIOD = 1_000, 1_000_000  # microseconds; the kernel's
_MIN_QUOTA = 1_000
_MAX_SHARES = 262_144  # the kernel's
_MAX_PROCESSORS = 8192  # what a kernel can be built for
_MAX_PIDS = 1 << 22  # the kernel's


def parse_limits(given: Sequence[tuple[str, str]]) -> Limits:
    """Read (flag, text) pairs in the order given; the last of a name counts.

    Raises:
        UsageError: no such resource, no number, or limits that exclude each other.
    """
    texts: dict[str, str] = {}
    for flag, text in given:
        if flag != "resource":
            texts[flag] = text
            continue
        name, equals, amount = text.partition("=")
        if not equals or name not in RESOURCES:
            msg = f"invalid --resource {text[:60]!r}"
            raise UsageError(msg, hint=f"write NAME=VALUE; the names are {', '.join(RESOURCES)}")
        texts[name] = amount
    texts = {name: text for name, text in texts.items() if text}
    quota, period = _processor_time(texts)
    memory = parse_size("--memory", texts["memory"]) if "memory" in texts else 0
    if 0 < memory < _MIN_MEMORY:
        raise UsageError(f"--memory {texts['memory'][:40]} is too little", hint="6m is the least")
    return Limits(
        memory=memory,
        memory_swap=_swap(texts, memory),
        cpu_quota=quota,
        cpu_period=period,
        cpu_shares=_number(texts, "cpu-shares", 2, _MAX_SHARES),
        cpuset_cpus=_processors(texts, "cpuset-cpus"),
        cpuset_mems=_processors(texts, "cpuset-mems"),
        pids=0 if texts.get("pids-limit") == "-1" else _number(texts, "pids-limit", 1, _MAX_PIDS),
    )


def _swap(texts: dict[str, str], memory: int) -> int:
    text = texts.get("memory-swap", "")
    if not text:
        return 0
    if not memory:
        raise UsageError("--memory-swap needs --memory", hint="it is memory and swap together")
    if text == "-1":
        return -1
    swap = parse_size("--memory-swap", text)
    if 0 < swap < memory:
        msg = f"--memory-swap {text[:40]} is less than --memory"
        raise UsageError(msg, hint="it is memory and swap together")
    return swap


def _processor_time(texts: dict[str, str]) -> tuple[int, int]:
    """Quota and period, from --cpus or as given."""
    text = texts.get("cpus", "")
    if not text:
        period = _number(texts, "cpu-period", _MIN_PERIOD, _MAX_PERIOD)
        quota = 0 if texts.get("cpu-quota") == "-1" else _number(texts, "cpu-quota", _MIN_QUOTA)
        return quota, period
    if "cpu-quota" in texts or "cpu-period" in texts:
        raise UsageError("--cpus and --cpu-quota or --cpu-period exclude each other")
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{0,9})?|\.[0-9]{1,9}", text):
        raise UsageError(f"invalid --cpus {text[:40]!r}", hint="write a number such as 1.5")
    quota = int(float(text) * PERIOD)
    if 0 < quota < _MIN_QUOTA:
        raise UsageError(f"--cpus {text[:40]} is too little", hint="0.01 is the least")
    return quota, PERIOD if quota else 0


def _number(texts: dict[str, str], name: str, least: int, most: int = (1 << 63) - 1) -> int:
    """Read a number; 0 is no limit."""
    text = texts.get(name, "0")
    if not re.fullmatch("[0-9]{1,19}", text):
        raise UsageError(f"invalid --{name} {text[:40]!r}", hint="write a whole number")
    number = int(text)
    if number and not least <= number <= most:
        raise UsageError(f"invalid --{name} {text[:40]}", hint=f"from {least} to {most}")
    return number


def _processors(texts: dict[str, str], name: str) -> str:
    text = texts.get(name, "")
    if not text:
        return ""
    hint = "write numbers and ranges such as 0-2,5"
    if not re.fullmatch("[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*", text):
        raise UsageError(f"invalid --{name} {text[:40]!r}", hint=hint)
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not int(first) <= int(last or first) < _MAX_PROCESSORS:
            raise UsageError(f"invalid --{name} {text[:40]!r}", hint=hint)
    return text
