"""Logical lines to typed instructions (P03, P04, P32-P44, P59).

Owns the shapes of arguments. Nothing is expanded here, so whatever may hold a variable is only
checked once `lower` knows its value. Mistakes of all instructions are reported together.
"""

from __future__ import annotations

import re

from cache.hints import TYPE_CHECKING
from cache.value import replace, value
from frontend.dockerfile import parser, syntax
from frontend.dockerfile.copies import parse_copy
from frontend.dockerfile.duration import parse_duration
from frontend.dockerfile.flags import FlagSet, parse_flags
from frontend.dockerfile.jsonform import ShapeError, parse_json_form
from frontend.dockerfile.mountoptions import parse_mount
from frontend.dockerfile.problems import MAX_PROBLEMS, MistakeError, nearest
from frontend.dockerfile.shell import split_words
from frontend.dockerfile.words import cut, split_blanks
from frontend.source import Diagnostic, DockerfileError, SourceFile, Span

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontend.dockerfile.syntax import Directives, Instruction, Node

_NETWORKS = ("default", "none", "host")
_SECURITY = ("sandbox", "insecure")
_STAGE_NAME = r"[a-z][a-z0-9\-_.]*"
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_NO_FLAGS = FlagSet()
_FROM_FLAGS = FlagSet(texts=("platform",))
_RUN_FLAGS = FlagSet(texts=("network", "security"), lists=("mount", "device"))
_DURATIONS = ("interval", "timeout", "start-period", "start-interval")
_HEALTHCHECK_FLAGS = FlagSet(texts=(*_DURATIONS, "retries"))
_MIN_DURATION = 1_000_000  # a millisecond, in nanoseconds
_MAX_RETRIES = (1 << 31) - 1
_MAX_RETRIES_DIGITS = 19
_FROM_WORDS = 3


def parse_dockerfile(source: SourceFile) -> syntax.Parsed:
    """Read a whole Dockerfile.

    Raises:
        DockerfileError: with every problem found: those of the shape of lines, then the others.
    """
    attempt = try_parse(source)
    if attempt.problems:
        raise DockerfileError(source, attempt.problems)
    return attempt.parsed


@value
class Attempt:
    """The instructions that could be read, and what is wrong with the others.

    `misshapen` if there are lines of which nothing can be made, so that the rest is doubtful.
    """

    parsed: syntax.Parsed
    problems: tuple[Diagnostic, ...]
    misshapen: bool


def try_parse(source: SourceFile) -> Attempt:
    """Read a whole Dockerfile as far as it can be read."""
    split = parser.split(source)
    shapes = list(split.problems)
    problems: list[Diagnostic] = []
    instructions: list[Instruction] = []
    staged = False
    broken = {problem.span.start for problem in split.problems}
    for node in split.nodes:
        if node.span.start in broken:
            continue  # which says enough about it
        if len(problems) + len(shapes) >= MAX_PROBLEMS:
            break
        staged = staged or node.keyword == "FROM"
        try:
            instruction = parse_instruction(node, split.directives)
            _check_order(node, staged=staged)
        except MistakeError as error:
            kind = shapes if isinstance(error, ShapeError) else problems
            kind.append(Diagnostic(error.message, node.span, error.hint))
        else:
            instructions.append(instruction)
    if not (shapes or problems or staged):
        problems.append(_without_stages(split))
    found = (*sorted(shapes, key=lambda d: d.span), *sorted(problems, key=lambda d: d.span))
    return Attempt(syntax.Parsed(split.directives, tuple(instructions)), found, bool(shapes))


def _without_stages(split: parser.Split) -> Diagnostic:
    if not split.nodes:
        return Diagnostic("file with no instructions", Span(split.lines, split.lines))
    return Diagnostic("dockerfile contains no stages to build", split.nodes[-1].span)


def _check_order(node: Node, *, staged: bool) -> None:
    if not staged and node.keyword != "ARG":
        raise MistakeError(
            "no build stage in current context", hint="only ARG may stand before FROM"
        )


def parse_instruction(node: Node, directives: Directives) -> Instruction:
    """Read one logical line.

    Raises:
        MistakeError: without a place; the node has it.
    """
    parse = _PARSERS.get(node.keyword)
    if parse is None:
        guess = nearest(node.keyword, tuple(keyword.lower() for keyword in _PARSERS))
        raise MistakeError(
            f"unknown instruction: {node.written_keyword[:64]}",
            hint=guess and re.sub('"[a-z]+"', lambda word: word[0].upper(), guess),
        )
    return parse(node, directives)


def parse_trigger(text: str, directives: Directives) -> Instruction:
    """Read a stored ONBUILD trigger again, heredocs included (I13, P59).

    Raises:
        MistakeError: not one allowed instruction.
    """
    # The directives of the file hold for expansion only, as they do for a trigger of an image.
    directives = replace(directives, escape=syntax.Directives().escape)
    split = parser.split(SourceFile("ONBUILD", text), directives)
    if split.problems:
        raise MistakeError(split.problems[0].message, hint=split.problems[0].hint)
    if len(split.nodes) != 1:
        raise MistakeError("an ONBUILD trigger must be a single instruction")
    node = split.nodes[0]
    _check_trigger(node.keyword)
    return parse_instruction(node, directives)


def _check_trigger(keyword: str) -> None:
    if keyword == "ONBUILD":
        raise MistakeError("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("FROM", "MAINTAINER"):
        raise MistakeError(f"{keyword} isn't allowed as an ONBUILD trigger")


def _from(node: Node, _directives: Directives) -> Instruction:
    flags = parse_flags(node.flags, _FROM_FLAGS)
    words = split_blanks(node.rest)
    named = len(words) == _FROM_WORDS and words[1].lower() == "as"
    if len(words) != 1 and not named:
        raise MistakeError(
            "FROM requires either one or three arguments", hint="write FROM image AS name"
        )
    stage = words[2].lower() if named else ""
    if named and not re.fullmatch(_STAGE_NAME, stage):
        raise MistakeError(
            f'invalid name for build stage: "{words[2][:64]}", '
            "name can't start with a number or contain symbols"
        )
    return syntax.From(image=words[0], platform=flags.text("platform"), stage=stage, node=node)


def _command(text: str) -> syntax.Command:
    words = parse_json_form(text)
    if words is None:
        return syntax.Command((text,), shell_form=True)
    return syntax.Command(words, shell_form=False)


def _run(node: Node, _directives: Directives) -> Instruction:
    flags = parse_flags(node.flags, _RUN_FLAGS)
    if flags.every("device"):
        raise MistakeError(
            "device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
            hint="remove --device",
        )
    network, security = flags.text("network"), flags.text("security")
    if flags.every("network") and network not in _NETWORKS:
        hint = nearest(network, _NETWORKS) or "one of default, none, host"
        raise MistakeError(f'invalid network mode "{network[:64]}"', hint=hint)
    if flags.every("security") and security not in _SECURITY:
        hint = nearest(security, _SECURITY) or "one of sandbox, insecure"
        raise MistakeError(f'security "{security[:64]}" is not valid', hint=hint)
    return syntax.Run(
        command=_command(node.rest),
        mounts=tuple(parse_mount(text) for text in flags.every("mount")),
        network=network,
        security=security,
        heredocs=node.heredocs,
        node=node,
    )


def _copy(node: Node, _directives: Directives) -> Instruction:
    return parse_copy(node)


def _pairs(node: Node, directives: Directives) -> Instruction:
    parse_flags(node.flags, _NO_FLAGS)
    words = split_words(node.rest, directives.escape)
    if not words:
        raise MistakeError(f"{node.keyword} requires at least one argument")
    if "=" not in words[0]:
        parts = _BLANKS.split(node.rest, maxsplit=1)
        if len(parts) == 1:
            raise ShapeError(
                f"{node.keyword} must have two arguments", hint=f"write {node.keyword} name=value"
            )
        return syntax.Pairs(((parts[0], parts[1]),), legacy=True, node=node)
    return syntax.Pairs(tuple(_pair(word, node.keyword) for word in words), legacy=False, node=node)


def _pair(word: str, keyword: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ShapeError(
            f'syntax error - can\'t find = in "{word[:64]}", must be of the form: name=value',
            hint="quote values that contain blanks",
        )
    if not name:
        raise MistakeError(f"{keyword} names can not be blank")
    return name, value


def _arg(node: Node, directives: Directives) -> Instruction:
    # Flags are swallowed silently (P34).
    args: list[tuple[str, str | None]] = []
    for word in split_words(node.rest, directives.escape):
        if "=" in word:
            args.append(_pair(word, "ARG"))
        else:
            args.append((word, None))
    if not args:
        raise MistakeError("ARG requires at least one argument")
    return syntax.Arg(tuple(args), node)


def _process(node: Node, _directives: Directives) -> Instruction:
    parse_flags(node.flags, _NO_FLAGS)
    return syntax.Process(_command(node.rest), node)


def _shell(node: Node, _directives: Directives) -> Instruction:
    parse_flags(node.flags, _NO_FLAGS)
    words = parse_json_form(node.rest)
    if words is None and node.rest:
        raise MistakeError(
            "SHELL requires the arguments to be in JSON form", hint='write SHELL ["/bin/sh", "-c"]'
        )
    return syntax.Words(_some(words or (), "SHELL"), node)


def _expose(node: Node, _directives: Directives) -> Instruction:
    parse_flags(node.flags, _NO_FLAGS)
    return syntax.Words(_some(split_blanks(node.rest), "EXPOSE"), node)


def _volume(node: Node, _directives: Directives) -> Instruction:
    parse_flags(node.flags, _NO_FLAGS)
    words = parse_json_form(node.rest)
    if words is None:
        words = split_blanks(node.rest)
    volumes = tuple(word.strip() for word in _some(words, "VOLUME"))
    if not all(volumes):
        raise MistakeError("VOLUME specified can not be an empty string")
    return syntax.Words(volumes, node)


def _some(words: tuple[str, ...], keyword: str) -> tuple[str, ...]:
    if not words:
        raise MistakeError(f"{keyword} requires at least one argument")
    return words


def _text(node: Node, _directives: Directives) -> Instruction:
    if node.keyword != "STOPSIGNAL":  # which swallows flags silently (P34)
        parse_flags(node.flags, _NO_FLAGS)
    if not node.rest:
        raise MistakeError(f"{node.keyword} requires exactly one argument")
    return syntax.Text(node.rest, node)


def _healthcheck(node: Node, _directives: Directives) -> Instruction:
    if not node.rest:
        raise MistakeError("HEALTHCHECK requires at least one argument")
    kind, *others = _BLANKS.split(node.rest, maxsplit=1)
    rest = others[0] if others else ""
    if kind.upper() == "NONE":  # which swallows flags silently (P34)
        if rest:
            raise MistakeError("HEALTHCHECK NONE takes no arguments")
        return syntax.HealthcheckInstruction(
            none=True,
            command=None,
            interval=0,
            timeout=0,
            start_period=0,
            start_interval=0,
            retries=0,
            node=node,
        )
    flags = parse_flags(node.flags, _HEALTHCHECK_FLAGS)
    if kind.upper() != "CMD":
        raise MistakeError(f'unknown type "{kind[:64]}" in HEALTHCHECK', hint="try CMD or NONE")
    command = _command(rest)
    if not rest or not command.words:
        raise MistakeError("missing command after HEALTHCHECK CMD")
    interval, timeout, start_period, start_interval = (
        _interval(name, flags.text(name)) for name in _DURATIONS
    )
    return syntax.HealthcheckInstruction(
        none=False,
        command=command,
        interval=interval,
        timeout=timeout,
        start_period=start_period,
        start_interval=start_interval,
        retries=_retries(flags.text("retries")),
        node=node,
    )


def _interval(name: str, text: str) -> int:
    if not text:
        return 0
    try:
        nanoseconds = parse_duration(text)
    except ValueError as error:
        raise MistakeError(f"--{name}: {error}", hint="write it like 30s or 1m30s") from error
    if nanoseconds and nanoseconds < _MIN_DURATION:
        raise MistakeError(f'interval "{name}" cannot be less than 1ms')
    return nanoseconds


def _retries(text: str) -> int:
    if not text:
        return 0
    digits = text[1:] if text[0] in "+-" else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_RETRIES_DIGITS):
        raise MistakeError(f'--retries: "{text[:64]}" is not a number')
    retries = int(text)
    if retries < 0:
        raise MistakeError(f"--retries cannot be negative ({retries})")
    if retries > _MAX_RETRIES:
        raise MistakeError(f"--retries: {retries} is out of range")
    return retries


def _onbuild(node: Node, directives: Directives) -> Instruction:
    parse_flags(node.flags, _NO_FLAGS)
    if not node.rest:
        raise MistakeError("ONBUILD requires at least one argument")
    _check_trigger(_BLANKS.split(node.rest, maxsplit=1)[0].upper())
    trigger = _BLANKS.split(node.original, maxsplit=1)[1] + node.trailing
    _check_shape(node, directives)
    bodies = (f"\n{heredoc.body}{heredoc.name}" for heredoc in node.heredocs)
    return syntax.OnBuild("".join((trigger, *bodies)), node)


def _check_shape(node: Node, directives: Directives) -> None:
    """Take a trigger apart, as it is stored; what its words mean is seen when it runs."""
    command = cut(node.rest, directives.escape)
    inner = replace(node, keyword=command.keyword.upper(), flags=command.flags, rest=command.rest)
    try:
        parse_instruction(inner, directives)
    except ShapeError:
        raise
    except MistakeError:
        return


_PARSERS: dict[str, Callable[[Node, Directives], Instruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _process,
    "COPY": _copy,
    "ENTRYPOINT": _process,
    "ENV": _pairs,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _pairs,
    "MAINTAINER": _text,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _text,
    "USER": _text,
    "VOLUME": _volume,
    "WORKDIR": _text,
}
