"""Who we are here: ids, rights, and what holds them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.diagnosis.finding import Finding
from builder.sandbox import host

if TYPE_CHECKING:
    from collections.abc import Callable

_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_NO_CHILDREN = 3  # from there on Yama lets nobody trace
_YAMA_WORDS = {"0": "any process", "1": "own children", "2": "with CAP_SYS_PTRACE", "3": "nobody"}
_CAPABILITIES = 41


def account(facts: host.Host, read: Callable[[str], str]) -> list[Finding]:
    """What the kernel knows about this process; `read` gives a file's text or ""."""
    held = facts.capabilities.bit_count()
    bounded = (facts.bounding & ((1 << _CAPABILITIES) - 1)).bit_count()
    profile = (read("/proc/self/attr/apparmor/current") or read("/proc/self/attr/current")).strip(
        "\0\n "
    )
    own = sum(extent.count for extent in facts.uid_map)
    return [
        Finding("ids", "user", works=True, detail=f"{facts.user} ({facts.uid}:{facts.gid})"),
        Finding("ids", "own ids", works=own >= host.NEEDED_IDS, detail=f"{own} exist here"),
        _ranges("subuid", facts.subuid, facts),
        _ranges("subgid", facts.subgid, facts),
        Finding(
            "rights", "capabilities", works=bool(held), detail=f"{held} held, {bounded} obtainable"
        ),
        Finding(
            "rights",
            "new privileges",
            works=not facts.no_new_privileges,
            detail="no_new_privs is set" if facts.no_new_privileges else "",
        ),
        Finding(
            "rights",
            "seccomp profile",
            works=not facts.filtered,
            detail="on" if facts.filtered else "none",
        ),
        Finding("rights", "apparmor", works=not facts.apparmor_restricts, detail=profile or "none"),
        _yama(read(_YAMA).strip()),
    ]


def _ranges(name: str, text: str, facts: host.Host) -> Finding:
    ranges = host.subordinate_ranges(text, facts.user, facts.uid)
    count = sum(size for _, size in ranges)
    shown = ", ".join(f"{start}+{size}" for start, size in ranges)
    if not ranges and host.direct(facts):
        return Finding("ids", name, works=True, detail="not needed")
    detail = f"{count} ids ({shown})" if ranges else f"no line in /etc/{name}"
    return Finding("ids", name, works=count >= host.NEEDED_IDS - 1, detail=detail)


def _yama(scope: str) -> Finding:
    if not scope:
        return Finding("engine", "yama", works=True, detail="none")
    works = not scope.isdigit() or int(scope) < _NO_CHILDREN
    hint = "" if works else "as root: sysctl -w kernel.yama.ptrace_scope=1"
    detail = f"ptrace_scope {scope}: {_YAMA_WORDS.get(scope, 'unknown')}"
    return Finding("engine", "yama", works, detail, "", hint)
