"""Text to logical lines: directives, comments, continuations, heredocs, flags (P01-P53).

Owns the shape of the file; must not know what any instruction means beyond which ones take
heredocs. `dockerfile_parse` groups physical lines into logical ones. It knows neither heredocs
nor the rules for blank lines, escapes and directives, so it only ever sees a masked copy: same
number of lines, ASCII, continuations decided, heredoc bodies and headers blank. The texts of the
nodes come from the original lines by number. Nothing else imports that package.
"""

from __future__ import annotations

import io
import re

from cache.value import value
from frontend.dockerfile import words
from frontend.dockerfile.jsonform import is_json_form
from frontend.dockerfile.problems import MAX_PROBLEMS
from frontend.dockerfile.syntax import Directives, Heredoc, Node
from frontend.source import MAX_SOURCE, Diagnostic, DockerfileError, SourceFile, Span

MAX_LINE = 65535  # bytes of a physical line (P02)
MAX_LINES = 200_000  # of a file: every line costs the splitter some hundred bytes (G03)
MAX_HEREDOCS = 10_000  # of a file (G06)

_WIDEST = 4  # bytes of one character in UTF-8
_DIRECTIVE = r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S.*?)\s*\Z"
_TAKES_HEREDOC = frozenset({"RUN", "COPY", "ADD"})
_COMMENT = "# c"  # masked comment between instructions
_DROPPED = "#"  # masked comment or blank line inside an instruction
_WHOLE = "x y"  # masked instruction of one line
_ALONE = frozenset({"", _COMMENT, _WHOLE})


@value
class Split:
    """What a file consists of, and what is wrong with it so far."""

    directives: Directives
    nodes: tuple[Node, ...]
    problems: tuple[Diagnostic, ...]
    lines: int = 1


def parse(source: SourceFile) -> tuple[Directives, tuple[Node, ...]]:
    """Read directives and logical lines.

    Raises:
        DockerfileError: with every problem found.
    """
    result = split(source)
    if result.problems:
        raise DockerfileError(source, result.problems)
    return result.directives, result.nodes


def split(source: SourceFile, directives: Directives | None = None) -> Split:
    """Read logical lines and collect problems; with `directives`, the text has no header."""
    text = source.text.removeprefix("\ufeff")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    fatal = _unreadable(text, lines)
    if fatal:
        return Split(directives or Directives(), (), tuple(fatal))
    file = _File(lines)
    header = 0
    if directives is None:
        directives, header = _read_directives(lines, file.problems)
    file.mask(directives.escape, header)
    nodes = _nodes(file, directives.escape)
    return Split(directives, nodes, tuple(file.problems[:MAX_PROBLEMS]), len(lines))


def _unreadable(text: str, lines: list[str]) -> list[Diagnostic]:
    if not text:
        return [Diagnostic("the Dockerfile cannot be empty", Span(1, 1))]
    if len(text) > MAX_SOURCE:
        return [Diagnostic(f"the Dockerfile is larger than {MAX_SOURCE} bytes", Span(1, 1))]
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes that were no UTF-8, or halves of a character
        number = text.count("\n", 0, error.start) + 1
        message = "a Dockerfile must be UTF-8"
        return [Diagnostic(message, Span(number, number), hint="save the file as UTF-8")]
    if len(lines) > MAX_LINES:
        here = Span(MAX_LINES + 1, MAX_LINES + 1)
        return [Diagnostic(f"the Dockerfile has more than {MAX_LINES} lines", here)]
    return [
        # Begins where the reference reports it: at the last line it could read.
        Diagnostic(
            f"line greater than max allowed size of {MAX_LINE}", Span(max(1, number - 1), number)
        )
        for number, line in enumerate(lines, 1)
        if len(line) * _WIDEST > MAX_LINE and len(line.encode("utf-8")) > MAX_LINE
    ][:MAX_PROBLEMS]


def _read_directives(lines: list[str], problems: list[Diagnostic]) -> tuple[Directives, int]:
    """Read the consecutive known directives at the top and count their lines (P10-P15)."""
    values: dict[str, str] = {}
    # After a `#!` line the splitter of the language reads no directive, but the choice of the
    # frontend and the checks still do (P14, P15).
    shebang = bool(lines) and lines[0].startswith("#!")
    count = int(shebang)
    for number, line in enumerate(lines[count:], count + 1):
        text = line.strip()
        match = re.match(_DIRECTIVE, text) if text[:1] == "#" else None
        key = match[1].lower() if match else ""
        if not match or key not in ("syntax", "escape", "check") or (shebang and key == "escape"):
            break
        count = number
        here = Span(number, number)
        if key in values:
            both = Span(number - 1, number)  # begins where the reference reports it
            problems.append(Diagnostic(f"only one {key} parser directive can be used", both))
        elif key == "escape" and match[2] not in ("\\", "`"):
            problems.append(
                Diagnostic(
                    f'invalid escape token "{match[2][:64]}"',
                    here,
                    hint="the escape is either \\ or `",
                )
            )
        values.setdefault(key, match[2])
    escape = values.get("escape", "\\")
    return (
        Directives(
            escape=escape if escape in ("\\", "`") else "\\",
            syntax=values.get("syntax", ""),
            check=values.get("check", ""),
        ),
        count,
    )


class _File:
    """The lines of a file and their masked copy; lives for one call of `split`."""

    __slots__ = ("blank_inside", "heredoc_count", "heredocs", "lines", "masked", "problems")

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.masked = [""] * len(lines)
        self.heredocs: dict[int, tuple[Heredoc, ...]] = {}  # by first line of the instruction
        self.blank_inside: set[int] = set()
        self.problems: list[Diagnostic] = []
        self.heredoc_count = 0

    def mask(self, escape: str, header: int) -> None:
        """Write the masked copy; afterwards heredocs are known by their first line."""
        position = header
        while position < len(self.lines):
            text = self.lines[position].strip()
            if not text:
                position += 1
            elif text[0] == "#":
                self.masked[position] = _COMMENT
                position += 1
            elif text[-1] != escape and "<<" not in text:
                self.masked[position] = _WHOLE
                position += 1
            else:
                position = self._mask_instruction(position, escape)

    def _mask_instruction(self, start: int, escape: str) -> int:
        """Mask one logical line and its heredoc bodies; return where the next one starts."""
        last = position = start
        while position < len(self.lines):
            line = self.lines[position]
            text = line.strip()
            if position > start and (not text or text[0] == "#"):
                self.masked[position] = _DROPPED
                if not text:
                    self.blank_inside.add(start)
            else:
                last = position
                self.masked[position] = _DROPPED
                if not _is_continued(line, escape):
                    break
            position += 1
        for trailing in range(last + 1, min(position + 1, len(self.lines))):
            self.masked[trailing] = ""
        self.masked[start] = "x y \\" if last > start else _WHOLE
        if last > start:
            self.masked[last] = "z"
        if any("<" in self.lines[number] for number in range(start, last + 1)):
            return self._take_heredocs(start, last, escape)
        return position + 1

    def joined(self, start: int, last: int, escape: str) -> str:
        """Join the pieces of a logical line as written, comments and blank lines left out."""
        if start == last and not self.lines[start].rstrip().endswith(escape):
            return self.lines[start].strip()
        pieces = []
        for number in range(start, last + 1):
            if start < number < last and self._is_dropped(number):
                continue
            line = self.lines[number].rstrip("\r")
            if number == start:
                line = line.lstrip()
            if _is_continued(line, escape):
                line = line.rstrip(" \t")[:-1]
            pieces.append(line)
        return "".join(pieces).strip()

    def trailing(self, last: int, escape: str) -> str:
        """The blanks at the end of a logical line."""
        line = self.lines[last].rstrip("\r")
        if _is_continued(line, escape):
            line = line.rstrip(" \t")[:-1]
        return line[len(line.rstrip()) :]

    def _is_dropped(self, number: int) -> bool:
        text = self.lines[number].strip()
        return not text or text[0] == "#"

    def _take_heredocs(self, start: int, last: int, escape: str) -> int:
        """Read the bodies that follow a logical line and return the line behind them (P53)."""
        position = last + 1
        taken: list[Heredoc] = []
        for word in _announced(self.joined(start, last, escape), escape):
            self.heredoc_count += 1
            end = self._terminator(word, position)
            if end is None or self.heredoc_count > MAX_HEREDOCS:
                message = (
                    f'unterminated heredoc "{word.name[:64]}"'
                    if end is None
                    else f"the Dockerfile has more than {MAX_HEREDOCS} heredocs"
                )
                hint = f"end it with a line that is exactly {word.name[:64]}" if end is None else ""
                end_line = len(self.lines) if end is None else last + 1
                self.problems.append(
                    Diagnostic(message, Span(start + 1, end_line), hint=hint or None)
                )
                return len(self.lines)
            body = "".join(f"{line}\n" for line in self.lines[position:end])
            taken.append(
                Heredoc(
                    name=word.name,
                    body=body,
                    expand=word.expand,
                    chomp=word.chomp,
                    descriptor=word.descriptor,
                )
            )
            position = end + 1
        if taken:
            self.heredocs[start] = tuple(taken)
        return position

    def _terminator(self, word: words.HeredocWord, position: int) -> int | None:
        for number in range(position, len(self.lines)):
            line = self.lines[number].rstrip("\r")
            if (line.lstrip("\t") if word.chomp else line) == word.name:
                return number
        return None


def _is_continued(line: str, escape: str) -> bool:
    """Whether the line ends in one escape, blanks behind it allowed (P24)."""
    text = line.rstrip("\r").rstrip(" \t")
    return text.endswith(escape) and not text.endswith(escape + escape)


def _announced(line: str, escape: str) -> tuple[words.HeredocWord, ...]:
    """Name the heredocs of RUN, COPY and ADD, also behind ONBUILD, unless in JSON form (P50)."""
    command = words.cut(line, escape)
    if command.keyword.upper() == "ONBUILD":
        command = words.cut(command.rest, escape)
    if command.keyword.upper() not in _TAKES_HEREDOC or is_json_form(command.rest):
        return ()
    return words.heredoc_words(command.rest)


def _nodes(file: _File, escape: str) -> tuple[Node, ...]:
    nodes: list[Node] = []
    comments: list[str] = []
    for start, last in _groups(file.masked):
        if file.masked[start] in (_COMMENT, _DROPPED):
            if file.masked[start] == _COMMENT:
                text = file.lines[start].strip()[1:].strip()
                comments.append(text)
                if not text:
                    comments.clear()
            continue
        original = file.joined(start, last, escape)
        command = words.cut(original, escape)
        nodes.append(
            Node(
                keyword=command.keyword.upper(),
                flags=command.flags,
                rest=command.rest,
                heredocs=file.heredocs.get(start, ()),
                span=Span(start + 1, _end(file, start, last)),
                original=original,
                written_keyword=command.keyword,
                comments=tuple(comments),
                trailing=file.trailing(last, escape) if original[:7].upper() == "ONBUILD" else "",
                empty_continuation=start in file.blank_inside,
            )
        )
        comments.clear()
    return tuple(nodes)


def _groups(masked: list[str]) -> list[tuple[int, int]]:
    """The first and last line of each comment and instruction.

    The package costs a tenth of a cached build to import (it brings logging), and lines that
    all stand alone need no grouping.
    """
    if all(line in _ALONE for line in masked):
        return [(number, number) for number, line in enumerate(masked) if line]
    from dockerfile_parse import DockerfileParser  # noqa: PLC0415 - see above

    text = io.StringIO("".join(f"{line}\n" for line in masked))
    records = DockerfileParser(fileobj=text).structure
    return [(record["startline"], record["endline"]) for record in records]


def _end(file: _File, start: int, last: int) -> int:
    """The last line of an instruction, terminators of its heredocs included (P06)."""
    bodies = sum(h.body.count("\n") + 1 for h in file.heredocs.get(start, ()))
    return last + 1 + bodies
