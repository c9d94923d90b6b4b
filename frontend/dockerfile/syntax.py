"""Typed Dockerfile instructions: frozen, not yet expanded, each with its place.

Made by `instructions.parse`, read by `stages` and `lower`. Texts are as written except that
continuations are joined; words of COPY, ADD, ENV, LABEL... still carry quotes and `$`.
"""

from __future__ import annotations

from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from frontend.source import Span


@value
class Heredoc:
    """A heredoc: its name, raw body (tabs stripped if `chomp` and used as a file), quoting."""

    name: str
    body: str
    expand: bool  # the name was not quoted
    chomp: bool  # <<-
    descriptor: str = ""  # digits before <<


@value
class Node:
    """One logical line: keyword upper-cased, flags split off, the rest, heredocs, place.

    `original` is the logical line as written (continuations joined), for ONBUILD and names.
    `comments` are the doc-comment lines directly above it (P27).
    """

    keyword: str
    flags: tuple[str, ...]  # "--name=value" or "--name", quotes removed (P31)
    rest: str
    heredocs: tuple[Heredoc, ...]
    span: Span
    original: str
    written_keyword: str = ""  # as typed, for casing rules
    comments: tuple[str, ...] = ()
    trailing: str = ""  # blanks at the end of an ONBUILD line, which are stored (P59)
    empty_continuation: bool = False  # a blank line inside (P23)


@value
class Command:
    """Arguments of RUN, CMD, ENTRYPOINT, HEALTHCHECK CMD: exec form words or one shell text."""

    words: tuple[str, ...]
    shell_form: bool


@value
class From:
    """FROM [--platform=P] image [AS name]."""

    image: str
    platform: str
    stage: str  # lower-cased, "" when unnamed
    node: Node


@value
class MountOption:
    """One `key` or `key=value` of --mount, in order; value None for a bare key."""

    key: str
    value: str | None


@value
class Run:
    """RUN; `mounts` holds the CSV fields of each --mount, unexpanded."""

    command: Command
    mounts: tuple[tuple[MountOption, ...], ...]
    network: str  # "" when not given
    security: str
    heredocs: tuple[Heredoc, ...]
    node: Node


@value
class Copy:
    """COPY or ADD (`node.keyword` tells). Heredoc words stand in `heredocs`, not in `sources`."""

    sources: tuple[str, ...]
    dest: str
    heredocs: tuple[Heredoc, ...]
    source_from: str  # --from, "" for the context
    owner: str
    mode: str
    link: bool
    parents: bool
    excludes: tuple[str, ...]
    checksum: str
    keep_git_dir: bool | None
    unpack: bool | None
    node: Node


@value
class Pairs:
    """ENV or LABEL: (key, value) words, unexpanded; `legacy` for `ENV key value`."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool
    node: Node


@value
class Arg:
    """ARG: names with default words, None when there is no `=`."""

    args: tuple[tuple[str, str | None], ...]
    node: Node


@value
class Process:
    """CMD or ENTRYPOINT."""

    command: Command
    node: Node


@value
class Words:
    """EXPOSE, VOLUME or SHELL: a list of words."""

    words: tuple[str, ...]
    node: Node


@value
class Text:
    """WORKDIR, USER, STOPSIGNAL or MAINTAINER: one text."""

    text: str
    node: Node


@value
class HealthcheckInstruction:
    """HEALTHCHECK; `none` for NONE; durations in nanoseconds, 0 when not given."""

    none: bool
    command: Command | None
    interval: int
    timeout: int
    start_period: int
    start_interval: int
    retries: int
    node: Node


@value
class OnBuild:
    """ONBUILD: the trigger text as it is stored in the config (P59)."""

    trigger: str
    node: Node


Instruction = (
    From | Run | Copy | Pairs | Arg | Process | Words | Text | HealthcheckInstruction | OnBuild
)


@value
class Directives:
    """Parser directives of the file (P10-P15)."""

    escape: str = "\\"
    syntax: str = ""
    check: str = ""


@value
class Parsed:
    """A Dockerfile as instructions in order."""

    directives: Directives
    instructions: tuple[Instruction, ...]
