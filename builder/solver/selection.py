"""What a source path of COPY, ADD or a bind mount stands for, and the digest of its content.

Owns patterns, links and excludes on the source side (C20-C24, CP05, CP06) and content identity
(K01-K04). Must not know destinations or layers.
"""

from __future__ import annotations

from struct import Struct

from builder.context.source import CopyError, carried, clean, join, shown
from builder.solver.missing import hint, not_found
from builder.solver.wildcard import Wildcard, is_wildcard, unescape
from cache.archive.entry import Entry, Kind, encode
from cache.hints import TYPE_CHECKING, Protocol
from cache.spec import hashes
from cache.spec.digest import Digest, frame, framed
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from builder.context.memo import StatCache
    from builder.context.source import SourceTree

_DOMAIN = "pybuild.content.v1"
_MEMO = "pybuild.selection.v1"
_LENGTH = Struct(">Q").pack  # as in `frame`
_FILE_FRAME = frame(Kind.FILE.value.encode())
_EMPTY_FRAME = frame(b"")
_FIXED = len(_FILE_FRAME) + len(_EMPTY_FRAME) + 2 * len(_EMPTY_FRAME)  # and two lengths


class PathRules(Protocol):
    """Patterns of .dockerignore's kind: of --exclude, or of a --parents source."""

    @property
    def exceptions(self) -> bool:
        """Whether a `!` pattern may take something back below a matched directory."""

    def ignores(self, path: str, /) -> bool:
        """Whether the last pattern that matches the path or a parent of it says yes."""


@value
class Include:
    """The part of a directory that --parents takes: below `start`, what `rules` match."""

    text: str
    start: tuple[str, ...]
    rules: PathRules | None  # None: `start` itself and all below it

    def takes(self, relative: str) -> bool:
        """Whether a path is wanted for its own sake."""
        if self.rules is not None:
            return self.rules.ignores(relative)
        return relative.split("/")[: len(self.start)] == list(self.start)


@value
class Match:
    """One path a source stands for, links followed. `name` is how the pattern found it."""

    name: str
    entry: Entry
    include: Include | None = None

    @property
    def path(self) -> str:
        """Where it is in its tree."""
        return self.entry.path


@value
class Selection:
    """Everything one source stands for. `wildcard`: names of matches count (K03)."""

    tree: SourceTree
    matches: tuple[Match, ...]
    wildcard: bool = False
    excludes: PathRules | None = None
    exclude_texts: tuple[str, ...] = ()

    def members(self, match: Match) -> Iterator[tuple[str, Entry]]:
        """Yield what is below a matched directory: relative path and entry, parents first."""
        whole = match.include is None and self.excludes is None
        cut = len(match.path) + 1 if match.path else 0
        pending = _children(self.tree, match, "", match.path)[::-1]
        held: list[tuple[str, Entry]] = []  # directories wanted only if something in them is
        while pending:
            entry = pending.pop()
            relative = entry.path[cut:]
            while held and not relative.startswith(f"{held[-1][0]}/"):
                held.pop()
            if whole or self._takes(match, relative):
                if held:
                    yield from held
                    held.clear()
                yield relative, entry
            elif entry.kind is Kind.DIRECTORY and self._descends(match, relative):
                held.append((relative, entry))
            else:
                continue
            if entry.kind is Kind.DIRECTORY:
                pending += _children(self.tree, match, relative, entry.path)[::-1]

    def _takes(self, match: Match, relative: str) -> bool:
        if match.include is not None and not match.include.takes(relative):
            return False
        return self.excludes is None or not self.excludes.ignores(relative)

    def _descends(self, match: Match, relative: str) -> bool:
        """Whether something below a directory that is not taken itself may be."""
        if self.excludes is None or self.excludes.exceptions:
            return True
        return match.include is not None and not self.excludes.ignores(relative)


def _children(tree: SourceTree, match: Match, relative: str, path: str) -> list[Entry]:
    include = match.include
    if include is not None:
        depth = relative.count("/") + 1 if relative else 0
        if depth < len(include.start):
            entry = tree.get(join(path, include.start[depth]))
            return [entry] if entry is not None else []
    return tree.entries(path)


def select(
    tree: SourceTree,
    pattern: str,
    *,
    parents: bool = False,
    excludes: Sequence[str] = (),
) -> Selection:
    """Find what a source pattern stands for; a wildcard may stand for nothing (C23).

    Raises:
        CopyError: a literal path is not there, or the pattern is malformed.
    """
    rules = path_rules(excludes) if excludes else None
    if parents:
        return _with_parents(tree, pattern, rules, tuple(excludes))
    cleaned = clean(pattern)
    if not is_wildcard(cleaned):
        spelling = cleaned if _there(tree, cleaned) else unescape(cleaned)
        match = Match(spelling.rpartition("/")[2], _literal(tree, spelling))
        return Selection(tree, (match,), wildcard=False, excludes=rules, exclude_texts=(*excludes,))
    found = tuple(Match(name, _literal(tree, path)) for name, path in _expand(tree, cleaned))
    return Selection(tree, found, wildcard=True, excludes=rules, exclude_texts=(*excludes,))


def path_rules(patterns: Sequence[str]) -> PathRules:
    """Compile --exclude or --parents patterns.

    Raises:
        PybuildError: a pattern is malformed.
    """
    from frontend.ignore import IgnoreMatcher, parse_patterns  # noqa: PLC0415 - seldom needed

    return IgnoreMatcher(parse_patterns(patterns))


def _there(tree: SourceTree, path: str) -> bool:
    return tree.get(tree.resolve(path)) is not None


def _literal(tree: SourceTree, path: str) -> Entry:
    """The entry a path leads to, its last link followed too (C21)."""
    entry = tree.get(tree.resolve(path))
    if entry is not None:
        return entry
    raise not_found(tree, path)


def _expand(tree: SourceTree, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield (name relative to the literal prefix, path) of what a wildcard matches, in order."""
    parts = pattern.split("/")
    literal = next(index for index, part in enumerate(parts) if is_wildcard(part))
    start = tree.resolve("/".join(map(unescape, parts[:literal])))
    if tree.get(start) is None:
        missing = shown("/".join(parts[:literal]))
        raise CopyError(f"lstat {missing}: no such file or directory", hint=hint(tree, start))
    found = [("", start)]
    for position, part in enumerate(parts[literal:], start=literal + 1):
        last = position == len(parts)
        found = [
            (join(name, child), join(path, child))
            for name, path in found
            for child in _matching(tree, path, part)
            if last or _is_directory(tree, join(path, child))
        ]
    yield from found


def _matching(tree: SourceTree, path: str, part: str) -> list[str]:
    if not is_wildcard(part):
        name = unescape(part)
        return [name] if tree.get(join(path, name)) is not None else []
    wildcard = Wildcard.parse(part)
    return [name for name in tree.children(path) if wildcard.matches(name)]


def _is_directory(tree: SourceTree, path: str) -> bool:
    entry = tree.get(path)
    return entry is not None and entry.kind is Kind.DIRECTORY


def _with_parents(
    tree: SourceTree, pattern: str, excludes: PathRules | None, texts: tuple[str, ...]
) -> Selection:
    """Split at the first `/./` and take the rest below each directory before it (CP05).

    A file that the part before leads to is taken itself. Without wildcards what is named must be
    there, spelled without links, and not be excluded.
    """
    text = pattern.lstrip("/")
    while text.startswith("./"):
        text = text[2:].lstrip("/")
    before, pivot, after = text.partition("/./")
    if not pivot:
        before, after = "", text
    before, after = clean(before), clean(after)
    parts = after.split("/") if after else []
    literal = next((i for i, part in enumerate(parts) if is_wildcard(part)), len(parts))
    start = tuple(map(unescape, parts[:literal]))
    # Nothing behind the pivot is a pattern that nothing matches, as for the reference.
    rules = None if parts and literal == len(parts) else path_rules([after])
    include = Include(after, start, rules)
    roots = list(_expand(tree, before)) if is_wildcard(before) else [("", unescape(before))]
    found = []
    for name, path in roots:
        entry = _literal(tree, path)
        if entry.kind is Kind.DIRECTORY:
            found.append(Match(name, entry, include))
        else:
            found.append(Match(name or path.rpartition("/")[2], entry))
    chosen = Selection(tree, tuple(found), is_wildcard(pattern), excludes, texts)
    if not parts and not is_wildcard(before):
        raise CopyError(
            f'"{shown(before)}": not found', hint="--parents needs names or a pattern, such as ./*"
        )
    if rules is None and not is_wildcard(before):
        _require(chosen, path, join(path, "/".join(start)))
    return chosen


def _require(selection: Selection, before: str, path: str) -> None:
    """Find what a --parents source without wildcards names.

    Raises:
        CopyError: it is not there.
    """
    tree, match = selection.tree, selection.matches[0]
    linked = tree.resolve(before, follow_last=False) != tree.resolve(before)
    if (
        linked
        or match.include is None
        or tree.get(join(match.path, "/".join(match.include.start))) is None
    ):
        raise not_found(tree, path)
    if selection.excludes is not None and next(selection.members(match), None) is None:
        raise CopyError(f'"{shown(path)}": not found', hint="--exclude takes all of it away")


def content_digest(selection: Selection, memo: StatCache | None = None) -> Digest:
    """Identify what a selection would copy: everything but times and its top directory's own head.

    Raises:
        CopyError: a file cannot be read, or is none that can be copied.
    """
    key = _memo_key(selection) if memo is not None else None
    known = memo.selection(key) if memo is not None and key is not None else None
    if known is not None:
        return Digest("sha256", known.hex())
    state = hashes.sha256(frame(_DOMAIN.encode()))
    for match in selection.matches:
        state.update(b"match" + frame(encode(match.name if selection.wildcard else "")))
        if match.entry.kind is not Kind.DIRECTORY:
            state.update(_record("", match.entry, selection.tree))
            continue
        state.update(b"directory")
        for relative, entry in selection.members(match):
            state.update(_record(relative, entry, selection.tree))
    digest = Digest("sha256", state.hexdigest())
    trusted = all(selection.tree.trusted(match.path) for match in selection.matches)
    if memo is not None and key is not None and trusted:
        memo.put_selection(key, bytes.fromhex(digest.hex))
    return digest


def digest_subtree(tree: SourceTree, path: str, memo: StatCache | None = None) -> Digest:
    """Identify what a bind mount of a path shows: its own head and all below it (K13).

    Raises:
        CopyError: there is nothing at the path.
    """
    selection = select(tree, path) if not is_wildcard(path) else _exactly(tree, path)
    content = content_digest(selection, memo)
    entry = selection.matches[0].entry
    return framed(_DOMAIN, [b"subtree", _head("", entry), str(content).encode()])


def _exactly(tree: SourceTree, path: str) -> Selection:
    entry = tree.get(tree.resolve(clean(path)))
    if entry is None:
        raise not_found(tree, clean(path))
    return Selection(tree, (Match("", entry),))


def _memo_key(selection: Selection) -> bytes | None:
    parts: list[bytes] = [b"wildcard" if selection.wildcard else b"literal"]
    parts.append(str(len(selection.exclude_texts)).encode())
    parts.extend(encode(text) for text in selection.exclude_texts)
    for match in selection.matches:
        known = _fingerprint(selection.tree, match)
        if known is None:
            return None
        parts += [encode(match.name), known]
    return bytes.fromhex(framed(_MEMO, parts).hex)


def _fingerprint(tree: SourceTree, match: Match) -> bytes | None:
    """Cover what --parents can take, the directories above it included, and no more."""
    include = match.include
    if include is None:
        return tree.fingerprint(match.path)
    parts = [encode(include.text)]
    here = match.path
    for name in include.start[:-1]:
        here = join(here, name)
        entry = tree.get(here)
        if entry is None:
            return None
        parts.append(_head(here, entry))
    below = tree.fingerprint(join(here, include.start[-1]) if include.start else here)
    if below is None:
        return None
    return bytes.fromhex(framed(_MEMO, [*parts, below]).hex)


def _record(relative: str, entry: Entry, tree: SourceTree) -> bytes:
    if entry.kind is Kind.FILE and not (entry.xattrs or entry.linkname) and entry.device == (0, 0):
        # What the general way below gives, for nearly all there is to do.
        name = relative.encode("utf-8", "surrogateescape")
        numbers = b"%d %d %d %d 0 0" % (entry.mode, entry.uid, entry.gid, entry.size)
        return b"%b%b%b%b%b%b%b%b" % (
            _LENGTH(len(name) + len(numbers) + _FIXED),
            _LENGTH(len(name)),
            name,
            _FILE_FRAME,
            _LENGTH(len(numbers)),
            numbers,
            _EMPTY_FRAME,
            tree.digest(entry.path),
        )
    content = tree.digest(entry.path) if entry.kind is Kind.FILE else b""
    return frame(_head(relative, entry)) + content


def _head(relative: str, entry: Entry) -> bytes:
    """Frame what K01 lists of an entry, times left out."""
    major, minor = entry.device
    numbers = f"{entry.mode} {entry.uid} {entry.gid} {entry.size} {major} {minor}"
    parts = [
        encode(relative),
        entry.kind.value.encode(),
        numbers.encode(),
        encode(entry.linkname),
    ]
    for name, data in carried(entry.xattrs):
        parts += [encode(name), data]
    return b"".join([frame(part) for part in parts])
