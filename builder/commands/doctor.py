"""`pybuild doctor`: what this host allows a RUN, why not more, and what would change that."""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

from builder import state as states
from builder.arguments import parser
from builder.sandbox import host
from builder.sandbox.host import Tier
from builder.sandbox.tiers import ORDER
from builder.sandbox.trial import try_tier
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MEANING = {
    Tier.USERNS: "namespaces with a full range of ids",
    Tier.SINGLE: "namespaces with one id, owners recorded",
    Tier.CHROOT: "root without mounts",
    Tier.EMULATE: "no privilege at all, system calls answered by pybuild",
}
_OPTIONAL = (
    ("newuidmap", "a full range of ids for a user: package uidmap"),
    ("git", "git contexts and ADD of git repositories: package git"),
    ("qemu-aarch64-static", "RUN for linux/arm64: package qemu-user-static"),
    ("pasta", "--network sandbox: package passt"),
    ("runc", "--runtime runc: package runc"),
    ("crun", "--runtime crun: package crun"),
)


@value
class Finding:
    """One thing that was looked at."""

    name: str
    works: bool
    detail: str = ""
    hint: str = ""


@value
class Diagnosis:
    """Everything found; `tier` is what a build would use, "" for none."""

    tier: str
    findings: tuple[Finding, ...]


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the diagnosis; 0 when RUN works here, else 3."""
    options = parser("doctor")
    options.add_argument("--json", action="store_true")
    as_json = options.parse_args(list(argv)).json
    found = diagnose(environ)
    sys.stdout.write(_json(found) if as_json else _text(found))
    return 0 if found.tier else 3


def diagnose(environ: Mapping[str, str]) -> Diagnosis:
    """Look at everything.

    Raises:
        StoreError: there is no state directory to try anything in.
    """
    root = states.locate(environ)
    with states.opened(root):
        scratch = f"{root}/scratch"
        os.makedirs(scratch, mode=0o700, exist_ok=True)
        answers = {tier: try_tier(tier, scratch) for tier in ORDER}
    tier = next((str(tier) for tier in ORDER if answers[tier].works), "")
    findings = [
        Finding(f"sandbox {t}", a.works, _MEANING[t] if a.works else a.reason, a.hint)
        for t, a in answers.items()
    ]
    findings += [_user(), _state(root), *_programs()]
    return Diagnosis(tier, tuple(findings))


def _user() -> Finding:
    facts = host.probe()
    ranges = sum(n for _, n in host.subordinate_ranges(facts.subuid, facts.user, facts.uid))
    detail = f"{facts.user} (uid {facts.uid}), {ranges} subordinate ids"
    return Finding("user", works=True, detail=detail)


def _state(root: str) -> Finding:
    usage = shutil.disk_usage(root)
    free = usage.free // (1 << 20)
    options = os.statvfs(root).f_flag
    if options & os.ST_NOEXEC:
        hint = "programs of RUN cannot be started there: set PYBUILD_ROOT to another directory"
        return Finding("state directory", works=False, detail=f"{root} is noexec", hint=hint)
    return Finding("state directory", works=True, detail=f"{root}, {free} MiB free")


def _programs() -> list[Finding]:
    found = []
    for name, purpose in _OPTIONAL:
        path = shutil.which(name) or ""
        found.append(Finding(name, bool(path), path or "not installed", "" if path else purpose))
    return found


def _json(found: Diagnosis) -> str:
    rows = [
        {"name": f.name, "works": f.works, "detail": f.detail, "hint": f.hint}
        for f in found.findings
    ]
    return json.dumps({"tier": found.tier, "findings": rows}, indent=2) + "\n"


def _text(found: Diagnosis) -> str:
    lines = []
    for finding in found.findings:
        mark = "yes" if finding.works else "no "
        lines.append(f"{mark}  {finding.name:<20} {finding.detail}\n")
        if finding.hint:
            lines.append(f"     {'':<20} -> {finding.hint}\n")
    verdict = (
        f"RUN works here: {_MEANING[Tier(found.tier)]} ({found.tier})"
        if found.tier
        else ("RUN does not work here; Dockerfiles without RUN build anyway")
    )
    return "".join([*lines, f"\n{verdict}\n"])
