"""Warnings about single instructions of the stages that are looked at; values may be needed.

Knows a stage as far as it was lowered; changes nothing in it but its own notes.
"""

from __future__ import annotations

import posixpath

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from frontend.dockerfile import remote, shell
from frontend.dockerfile.syntax import (
    Arg,
    Copy,
    HealthcheckInstruction,
    Pairs,
    Process,
    Text,
    Words,
)

if TYPE_CHECKING:
    from frontend.dockerfile.session import Session, StageWork
    from frontend.dockerfile.syntax import Instruction

_SECRET_WORDS = frozenset(
    {
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    }
)
_PUBLIC_WORDS = frozenset({"public", "file", "version"})


def check(session: Session, work: StageWork, step: Instruction) -> None:
    """Apply the rules that concern one instruction, which was applied already."""
    match step:
        case Pairs():
            _pairs(session, work, step)
        case Arg():
            for name, _ in step.args:
                _secret(session, step, "ARG", name)
        case Process() | HealthcheckInstruction():
            _process(session, work, step)
        case Text() if step.node.keyword == "WORKDIR":
            _workdir(session, work, step)
        case Words() if step.node.keyword == "EXPOSE":
            _expose(session, work, step)
        case Copy():
            _copy(session, work, step)
        case _:
            pass


def _pairs(session: Session, work: StageWork, step: Pairs) -> None:
    word = step.node.written_keyword or step.node.keyword
    for name, _ in step.pairs:
        if step.legacy:
            session.problems.warn(
                "LegacyKeyValueFormat",
                f'"{word} key=value" should be used instead of legacy "{word} key value" format',
                step.node.span,
            )
        if step.node.keyword == "ENV":
            for expanded in _expanded(session, work, name):
                _secret(session, step, "ENV", expanded)


def _secret(session: Session, step: Instruction, keyword: str, name: str) -> None:
    words = frozenset(name.lower().split("_"))
    if words & _SECRET_WORDS and not words & _PUBLIC_WORDS:
        session.problems.warn(
            "SecretsUsedInArgOrEnv",
            f'Do not use ARG or ENV instructions for sensitive data ({keyword} "{name}")',
            step.node.span,
        )


def _process(session: Session, work: StageWork, step: Process | HealthcheckInstruction) -> None:
    node = step.node
    word = node.written_keyword or node.keyword
    earlier = work.seen_once.get(node.keyword)
    if earlier is not None:
        session.problems.warn(
            "MultipleInstructionsDisallowed",
            f"Multiple {word} instructions should not be used in the same stage because only the"
            " last one will be used",
            earlier,
            asked_by=node.span,
        )
    work.seen_once[node.keyword] = node.span
    if isinstance(step, Process) and step.command.shell_form and not work.draft.config.shell:
        session.problems.warn(
            "JSONArgsRecommended",
            f"JSON arguments recommended for {word} to prevent unintended behavior related to OS"
            " signals",
            node.span,
        )


def _workdir(session: Session, work: StageWork, step: Text) -> None:
    """Only the first WORKDIR of a chain of stages counts: fixing it fixes all (I05)."""
    if work.has_workdir:
        return
    work.has_workdir = True
    for path in _expanded(session, work, step.text):
        if not path.startswith("/"):
            session.problems.warn(
                "WorkdirRelativePath",
                f'Relative workdir "{path}" can have unexpected results if the base image changes',
                step.node.span,
            )


def _expose(session: Session, work: StageWork, step: Words) -> None:
    for written in sorted(step.words):
        for port in _split(session, work, written):
            address, _, protocol = port.partition("/")
            if protocol != protocol.lower():
                session.problems.warn(
                    "ExposeProtoCasing",
                    f"Defined protocol '{port}' in EXPOSE instruction should be lowercase",
                    step.node.span,
                )
            if address.rpartition(":")[0].strip(":"):
                session.problems.warn(
                    "ExposeInvalidFormat",
                    "EXPOSE instruction should not define an IP address or host-port mapping,"
                    f" found '{port}'",
                    step.node.span,
                )


def _copy(session: Session, work: StageWork, step: Copy) -> None:
    if step.source_from or not step.sources:
        return
    verb = "Add" if step.node.keyword == "ADD" else "Copy"
    for source in (path for written in step.sources for path in _expanded(session, work, written)):
        if remote.is_git(source) or remote.is_http(source):
            continue
        path = posixpath.normpath(source)
        if session.ignore_file.ignores(path):
            session.problems.warn(
                "CopyIgnoredFile",
                f'Attempting to {verb} file "{path}" that is excluded by .dockerignore',
                step.node.span,
            )


def _expanded(session: Session, work: StageWork, text: str) -> tuple[str, ...]:
    """Expand one word again, to nothing if it cannot be; its variables were reported before."""
    scope = work.draft.environment.scope
    try:
        return (shell.expand(text, scope, escape=session.directives.escape),)
    except PybuildError:
        return ()


def _split(session: Session, work: StageWork, text: str) -> tuple[str, ...]:
    scope = work.draft.environment.scope
    try:
        return shell.expand_words(text, scope, escape=session.directives.escape)
    except PybuildError:
        return ()
