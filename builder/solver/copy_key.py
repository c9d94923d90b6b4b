"""What a COPY, ADD or WORKDIR is known by in the cache: its text and the content it copies.

Writes nothing: a cached build loads this and not the copy engine.
"""

from __future__ import annotations

import json

from builder.solver.selection import content_digest, select
from cache.archive.entry import encode
from cache.hints import TYPE_CHECKING, BinaryIO, assert_never
from cache.spec.digest import Digest, framed
from cache.value import value
from frontend.graph import CopyOp, InlineSource, MkdirOp, PathSource, RemoteSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from builder.context.memo import SelectionCache, StatCache
    from builder.context.source import SourceTree
    from frontend.graph import Source

_PATTERN = "pybuild.pattern.v1"


@value
class RemoteFile:
    """A fetched file: its bytes on demand, as often as needed; mtime in nanoseconds."""

    digest: Digest
    size: int
    mtime: int
    open: Callable[[], AbstractContextManager[BinaryIO]]


def copy_key_parts(
    op: CopyOp | MkdirOp,
    sources: Mapping[int, SourceTree],
    remote: Mapping[int, RemoteFile],
    memo: StatCache | None = None,
    lasting: SelectionCache | None = None,
) -> list[tuple[str, str]]:
    """Name everything but the parent that a COPY, ADD or WORKDIR depends on (K03).

    `memo` remembers what files hold, `lasting` what was selected of trees that never change.

    Raises:
        CopyError: a source is missing or cannot be read.
    """
    if isinstance(op, MkdirOp):
        return [("path", op.path), ("owner", op.owner)]
    lasting = memo if lasting is None else lasting
    parts = [
        ("destination", op.dest),
        ("owner", op.owner),
        ("mode", op.mode),
        ("parents", str(op.parents)),
        ("excludes", json.dumps(op.excludes)),
        ("unpack", op.unpack.value),
    ]
    for number, source in enumerate(op.sources, start=1):
        name, content = _identity(op, source, sources, remote, memo, lasting)
        parts += [(f"source {number}", name), (f"content of source {number}", content)]
    return parts


def _identity(
    op: CopyOp,
    source: Source,
    sources: Mapping[int, SourceTree],
    remote: Mapping[int, RemoteFile],
    memo: StatCache | None,
    lasting: SelectionCache | None,
) -> tuple[str, str]:
    if isinstance(source, PathSource):
        content = _content(op, source, sources[source.input], memo, lasting)
        return f"path {source.path}", str(content)
    if isinstance(source, InlineSource):
        return f"inline {source.name}", str(Digest.of(encode(source.text)))
    if isinstance(source, RemoteSource):
        file = remote[source.input]
        return f"remote {source.filename}", f"{file.digest} {file.mtime}"
    assert_never(source)


def _content(
    op: CopyOp,
    source: PathSource,
    tree: SourceTree,
    memo: StatCache | None,
    lasting: SelectionCache | None,
) -> Digest:
    """Identify what a pattern selects; of a tree that never changes the answer is remembered."""
    key = None
    if tree.lasting is not None:
        texts = (source.path, str(op.parents), json.dumps(op.excludes))
        key = bytes.fromhex(framed(_PATTERN, [tree.lasting, *map(encode, texts)]).hex)
        known = lasting.selection(key) if lasting is not None else None
        if known is not None:
            return Digest("sha256", known.hex())
    selection = select(tree, source.path, parents=op.parents, excludes=op.excludes)
    digest = content_digest(selection, memo)
    if lasting is not None and key is not None:
        lasting.put_selection(key, bytes.fromhex(digest.hex))
    return digest
