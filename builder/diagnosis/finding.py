"""What a diagnosis is made of; the names are what `pybuild doctor --json` promises to keep."""

from __future__ import annotations

from cache.value import value


@value
class Finding:
    """One thing that was looked at.

    `name` is unique and stays as it is from version to version. `works` is false for what is
    missing or refused, `detail` says what was found, `error` is the name of the kernel's error
    ("EPERM"), `hint` what would help.
    """

    group: str
    name: str
    works: bool
    detail: str = ""
    error: str = ""
    hint: str = ""


@value
class Remedy:
    """A setting that unlocks a better tier: where it stands, and its exact text."""

    tier: str
    obstacle: str
    where: str
    setting: str


@value
class Diagnosis:
    """Everything found; `tier` is what a build would use, "" for none.

    `place` is where the state directory is, `notes` are about what works but could be better.
    """

    tier: str
    place: str
    findings: tuple[Finding, ...]
    remedies: tuple[Remedy, ...] = ()
    notes: tuple[str, ...] = ()

    def finding(self, name: str) -> Finding:
        """What was found under a name; nothing found is nothing that works."""
        return next((f for f in self.findings if f.name == name), Finding("", name, works=False))
