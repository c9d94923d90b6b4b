"""COPY and ADD: flags, sources, destination, heredocs as files (P42, P55, P61)."""

from __future__ import annotations

from cache.value import replace
from frontend.dockerfile.flags import Flags, FlagSet, parse_flags
from frontend.dockerfile.jsonform import parse_json_form
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.syntax import Copy, Heredoc, Node
from frontend.dockerfile.words import parse_heredoc_word, split_blanks

_MIN_WORDS = 2
_FLAGS = {
    "COPY": FlagSet(
        texts=("from", "chown", "chmod"), switches=("link", "parents"), lists=("exclude",)
    ),
    "ADD": FlagSet(
        texts=("chown", "chmod", "checksum"),
        switches=("link", "keep-git-dir", "unpack"),
        lists=("exclude",),
    ),
}


def parse_copy(node: Node) -> Copy:
    """Read COPY or ADD.

    Raises:
        MistakeError: too few words, a wrong flag, a heredoc where none can be.
    """
    flags = parse_flags(node.flags, _FLAGS[node.keyword])
    words = parse_json_form(node.rest)
    is_json = words is not None
    if words is None:
        words = split_blanks(node.rest)
    if len(words) < _MIN_WORDS:
        given = "only one was provided" if words else "none was provided"
        raise MistakeError(
            f"{node.keyword} requires at least two arguments, but {given}; "
            "destination could not be determined"
        )
    *sources, dest = words
    if parse_heredoc_word(dest):
        raise MistakeError(f"{node.keyword} cannot accept a heredoc as a destination")
    plain, heredocs = _heredoc_sources(node, sources, is_json=is_json)
    return Copy(
        sources=plain,
        dest=dest,
        heredocs=heredocs,
        source_from=_source_from(flags),
        owner=flags.text("chown"),
        mode=flags.text("chmod"),
        link=bool(flags.switch("link")),
        parents=bool(flags.switch("parents")),
        excludes=flags.every("exclude"),
        checksum=flags.text("checksum"),
        keep_git_dir=flags.switch("keep-git-dir"),
        unpack=flags.switch("unpack"),
        node=node,
    )


def _source_from(flags: Flags) -> str:
    name = flags.text("from")
    if "$" in name[:-1]:  # a lone trailing dollar passes (V22)
        raise MistakeError(
            f"variable expansion is not supported for --from={name[:64]}",
            hint="define an alias stage instead: FROM image AS name",
        )
    return name


def _heredoc_sources(
    node: Node, sources: list[str], *, is_json: bool
) -> tuple[tuple[str, ...], tuple[Heredoc, ...]]:
    """Separate plain sources from heredoc words; of two bodies with one name the last is both."""
    if not node.heredocs and "<<" not in node.rest:
        return tuple(sources), ()
    bodies = {heredoc.name: heredoc for heredoc in node.heredocs}
    plain: list[str] = []
    found: list[Heredoc] = []
    named = set()
    for source in sources:
        word = parse_heredoc_word(source)
        if word is None:
            plain.append(source)
        elif word.name not in bodies:
            raise MistakeError(
                f'"{source[:64]}" announces a heredoc that has no body',
                hint="heredocs cannot be used in the JSON form" if is_json else None,
            )
        else:
            named.add(word.name)
            found.append(_as_file(bodies[word.name], node.keyword))
    for name in bodies:
        if name not in named:
            # `<< EOF`: the body belongs to a word that is two words here (P51).
            raise MistakeError(
                f'heredoc "{name[:64]}" is not a source of {node.keyword}',
                hint="write << with the name right behind it, a name without blanks",
            )
    return tuple(plain), tuple(found)


def _as_file(heredoc: Heredoc, keyword: str) -> Heredoc:
    if "/" in heredoc.name or "\0" in heredoc.name or heredoc.name in (".", ".."):
        raise MistakeError(
            f'heredoc "{heredoc.name[:64]}" of {keyword} does not have the name of a file'
        )
    if not heredoc.chomp:
        return heredoc
    lines = heredoc.body.split("\n")
    return replace(heredoc, body="\n".join(line.lstrip("\t") for line in lines))
