"""Files whose attributes make a checkout differ from what is stored: line ends, encodings, $Id$.

Git itself converts them, into files with names of its own. No filter can run: none is configured.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from typing import TYPE_CHECKING, BinaryIO

from builder.git.program import GitError
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from builder.git.repository import Item, Repository

MAX_CONVERTED = 4 * 1024**3  # bytes of files that are text with other line ends and the like
_FILE = b".gitattributes"
_ATTRIBUTES = ("eol", "ident", "working-tree-encoding", "crlf")
_PLAIN = {b"unspecified", b"unset"}
_REGULAR, _TYPE = 0o100000, 0o170000
_RESULT = re.compile(rb"(\.merge_file_[0-9A-Za-z]+)\t(.+)\Z", re.DOTALL)


@value
class Converted:
    """Converted files by path in the repository, as names in a directory."""

    folder: str = ""
    names: Mapping[bytes, bytes] = {}

    def opener(self, path: bytes) -> AbstractContextManager[tuple[int, BinaryIO]] | None:
        """How to open a file, with its size; None for one that is as it is stored."""
        name = self.names.get(path)
        return None if name is None else _opened(f"{self.folder}/{os.fsdecode(name)}")


@contextlib.contextmanager
def converted(repository: Repository, commit: str, items: Sequence[Item]) -> Iterator[Converted]:
    """Convert what a checkout would; the results are gone when the block is left.

    Raises:
        GitError: git cannot.
    """
    if all(item.path.rpartition(b"/")[2] != _FILE for item in items):
        yield Converted()
        return
    with _work_tree(repository) as (folder, extra):
        repository.run("read-tree", commit, extra=extra)
        files = [item.path for item in items if item.mode & _TYPE == _REGULAR]
        affected = _affected(repository, files, folder, extra)
        if not affected:
            yield Converted()
            return
        _check_size(repository, {item.path: item.object for item in items}, affected)
        text = repository.run(
            "checkout-index", "--temp", "--stdin", "-z",
            extra=extra, data=_joined(affected), cwd=folder,
        )  # fmt: skip
        matches = [_RESULT.match(line) for line in text.split(b"\0") if line]
        yield Converted(folder, {match[2]: match[1] for match in matches if match is not None})


def _affected(
    repository: Repository, files: list[bytes], folder: str, extra: Mapping[str, str]
) -> list[bytes]:
    """Files with an attribute that may change them."""
    text = repository.run(
        "check-attr", "--cached", "--stdin", "-z", *_ATTRIBUTES,
        extra=extra, data=_joined(files), cwd=folder,
    )  # fmt: skip
    fields = text.split(b"\0")
    known = dict.fromkeys(files)
    rows = zip(fields[::3], fields[1::3], fields[2::3], strict=False)
    changing = (
        path
        for path, name, setting in rows
        if setting not in _PLAIN and (name, setting) != (b"eol", b"lf") and path in known
    )
    return list(dict.fromkeys(changing))


def _check_size(
    repository: Repository, objects: Mapping[bytes, str], affected: Sequence[bytes]
) -> None:
    """Bound what is written for the time of a checkout: many names can share one large object."""
    names = "".join(f"{objects[path]}\n" for path in affected).encode()
    sizes = repository.run("cat-file", "--batch-check=%(objectsize)", data=names).split()
    if sum(int(size) for size in sizes if size.isdigit()) > MAX_CONVERTED:
        raise GitError(
            f"more than {MAX_CONVERTED} bytes are to be converted by .gitattributes",
            hint="clone in a RUN step instead",
        )


def _joined(paths: Sequence[bytes]) -> bytes:
    return b"".join(b"%s\0" % path for path in paths)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, BinaryIO]]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise GitError(f"git did not convert a file: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        yield os.fstat(descriptor).st_size, file


@contextlib.contextmanager
def _work_tree(repository: Repository) -> Iterator[tuple[str, dict[str, str]]]:
    """An empty work tree with an index of its own, for the attributes in it to count."""
    index = tempfile.mkdtemp(prefix="index-", dir=repository.path)
    folder = tempfile.mkdtemp(prefix="files-", dir=repository.path)
    try:
        yield folder, {"GIT_INDEX_FILE": f"{index}/index", "GIT_WORK_TREE": folder}
    finally:
        for place in (index, folder):
            for name in os.listdir(place):
                os.unlink(f"{place}/{name}")
            os.rmdir(place)
