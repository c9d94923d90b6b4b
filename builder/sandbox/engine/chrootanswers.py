"""What the native library knows of a step in a changed root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder.sandbox.engine.answered import Call, Facts, Kind, Texts
from builder.sandbox.engine.callpaths import ALONE, BESIDE, PAIRS, REMOVES, Name, name_of
from builder.sandbox.engine.passthrough import ACCESS, CHANGES, MODES, READS, SHOWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.sandbox.engine.answered import Answers
    from builder.sandbox.engine.passthrough import Passthrough
    from builder.sandbox.engine.step import Step

_ENTERING = ("open", "openat", "creat", "chdir")
_NOWHERE = Name(-1, -1)


def _at(kind: Kind, name: Name, other: Name = _NOWHERE) -> Call:
    return Call(
        kind, name.directory, name.path, other_directory=other.directory, other_path=other.path
    )


_LOOK, _RECORD, _PAIR = Kind.CHROOT_LOOK, Kind.CHROOT_RECORD, Kind.CHROOT_PAIR
CALLS: dict[str, Call] = {
    **{name: _at(_LOOK, name_of(name)) for name in (*READS, *CHANGES, *ACCESS, *_ENTERING)},
    **{name: _at(_RECORD, name_of(name)) for name in (*SHOWS, *MODES)},
    **{name: _at(_RECORD, at) for name, at in REMOVES.items()},
    **{name: _at(_PAIR, *pair) for name, pair in PAIRS.items()},
    "execve": _at(_LOOK, ALONE),
    "execveat": _at(_LOOK, BESIDE),
    "prlimit64": Call(Kind.CHROOT_LIMITS),
}


def mirror(step: Step, passing: Passthrough, answers: Answers) -> Callable[[], None]:
    """Tell what is known now; what is returned tells what has changed."""
    answers.calls(CALLS)
    answers.names(step.views[b""].root, passing.links.places)
    records, links = step.records, passing.links
    told: dict[Texts, set[bytes]] = {Texts.LINKS: set(), Texts.HOT: set()}

    def refresh() -> None:
        answers.tell(
            Facts(roots_differ=passing.rooted, has_records=bool(records), roams=passing.roams)
        )
        for which, names in ((Texts.LINKS, links.names), (Texts.HOT, links.hot)):
            if len(names) != len(told[which]):  # they only grow
                answers.texts(which, names - told[which])
                told[which] |= names

    return refresh
