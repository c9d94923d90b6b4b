"""The whole diagnosis: state directory, tiers, every question, and what would unlock more."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

from builder import places
from builder import state as states
from builder.diagnosis import account, kernel, namespaces, programs, remedies, show, statedir
from builder.diagnosis.finding import Diagnosis, Finding
from builder.sandbox import host, tiers
from builder.sandbox.host import Tier
from builder.sandbox.trial import Answer, beside, playground, try_tier
from cache.errors import PybuildError
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_MARKS = ("/var/run/secrets/kubernetes.io", "/.dockerenv", "/run/.containerenv")


def diagnose(
    environ: Mapping[str, str],
    trial: Callable[[Tier, str], Answer] = try_tier,
    *,
    root: str = "",
) -> Diagnosis:
    """Look at everything; leaves nothing behind.

    Raises:
        OSError: there is no directory at all to try anything in.
    """
    facts = host.probe()
    with _scratch(environ, root) as (scratch, place, state), playground(scratch) as playing:
        tried = _beside(trial, scratch)  # trials mostly wait for the kernel
        asked = namespaces.identities(facts)
        asked += namespaces.inside(facts, asked, playing)
        asked += [*kernel.rights(playing), *kernel.engine(playing)]
        answers = tried()
    tier = next((str(tier) for tier in tiers.ORDER if answers[tier].works), "")
    who = account.account(facts, places.read_text)
    where = remedies.surroundings(environ, {path: os.path.exists(path) for path in _MARKS})
    more = [*programs.helpers(facts), *programs.limits(where), *programs.optional(where)]
    changes = statedir.changes(answers[Tier(tier)].changes) if tier else None
    last = (*state, changes) if changes else tuple(state)
    found = Diagnosis(tier, place, (*_tiers(answers), *who, *asked, *more, *last))
    case = remedies.Case(found, facts, where)
    return replace(found, remedies=remedies.remedies(case), notes=remedies.notes(case))


def _beside(trial: Callable[[Tier, str], Answer], scratch: str) -> Callable[[], dict[Tier, Answer]]:
    """Begin to try every kind of sandbox; what is returned waits for the answers."""

    def rows() -> list[tuple[object, ...]]:
        tried = [trial(tier, scratch) for tier in tiers.ORDER]
        return [(a.works, a.reason, a.hint, a.changes, a.passing) for a in tried]

    waited = beside(rows)

    def answers() -> dict[Tier, Answer]:
        known = waited()
        if known is None:  # who tried was killed
            return {tier: trial(tier, scratch) for tier in tiers.ORDER}
        return {tier: Answer(*row) for tier, row in zip(tiers.ORDER, known, strict=True)}

    return answers


def _tiers(answers: Mapping[Tier, Answer]) -> Iterator[Finding]:
    for tier, answer in answers.items():
        detail = show.MEANING[tier] if answer.works else answer.reason
        yield Finding("sandbox", f"sandbox {tier}", answer.works, detail, "", answer.hint)


@contextlib.contextmanager
def _scratch(environ: Mapping[str, str], root: str) -> Iterator[tuple[str, str, list[Finding]]]:
    """A directory to try things in, the state directory, and what is to be said about it."""
    with contextlib.ExitStack() as stack:
        try:
            place = states.place(environ, root)
            state = stack.enter_context(states.opened(place.path))
        except PybuildError as error:
            finding = statedir.missing(error.message, error.hint or "")
            yield stack.enter_context(tempfile.TemporaryDirectory()), "", [finding]
            return
        scratch = f"{place.path}/scratch"
        os.makedirs(scratch, mode=0o700, exist_ok=True)
        tiers.forget(scratch, state.memos)  # the next build is to get what is found now
        yield scratch, place.path, statedir.facts(place.path, place.reason)
