"""Files whose attributes make a checkout differ from what is stored: line ends, encodings, $Id$.

Git itself converts them, one by one, as they are few. No filter can run: none is configured.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from cache.archive.entry import decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from builder.git.repository import Item, Repository

    Converted = Callable[[], AbstractContextManager[tuple[int, BinaryIO]]]

_FILE = b".gitattributes"
_ATTRIBUTES = ("eol", "ident", "working-tree-encoding", "crlf")
_PLAIN = {b"unspecified", b"unset"}
_REGULAR, _TYPE = 0o100000, 0o170000


def conversions(
    repository: Repository, commit: str, items: Sequence[Item]
) -> dict[bytes, Converted]:
    """Give, by path, how to open each file that a checkout would convert."""
    if all(item.path.rpartition(b"/")[2] != _FILE for item in items):
        return {}
    files = {item.path: item.object for item in items if item.mode & _TYPE == _REGULAR}
    with _index(repository, commit) as extra:
        names = b"".join(b"%s\0" % path for path in files)
        text = repository.run(
            "check-attr", "--cached", "--stdin", "-z", *_ATTRIBUTES, extra=extra, data=names
        )
    fields = text.split(b"\0")
    changed: dict[bytes, Converted] = {}
    for path, attribute, setting in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        plain = setting in _PLAIN or (attribute == b"eol" and setting == b"lf")
        if not plain and path in files:
            changed[path] = partial(_converted, repository, commit, path)
    return changed


@contextlib.contextmanager
def _converted(repository: Repository, commit: str, path: bytes) -> Iterator[tuple[int, BinaryIO]]:
    with _index(repository, commit) as extra:
        data = repository.run("cat-file", "--filters", f"{commit}:{decode(path)}", extra=extra)
    yield len(data), io.BytesIO(data)


@contextlib.contextmanager
def _index(repository: Repository, commit: str) -> Iterator[dict[str, str]]:
    """Show git the attributes of a commit: an index of it, and a work tree without files."""
    with tempfile.TemporaryDirectory(prefix="attributes-", dir=repository.path) as folder:
        index = os.path.join(folder, "index")
        empty = os.path.join(folder, "empty")
        os.mkdir(empty, 0o700)
        extra = {"GIT_INDEX_FILE": index, "GIT_WORK_TREE": empty}
        repository.run("read-tree", commit, extra=extra)
        yield extra
