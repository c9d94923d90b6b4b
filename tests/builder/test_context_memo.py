"""What a context remembers between builds, and what it must not (J10)."""

from __future__ import annotations

import os
import time

from support.copy_fakes import OLD, settle, write

from builder.context.local import LocalContext
from builder.context.memo import MemoryStatCache
from builder.solver.selection import content_digest, select


def digest_of(path, memo, pattern="/"):
    """One build's look at a context: its digest and how many files it opened."""
    with LocalContext(str(path), memo=memo) as context:
        opened = []
        real = context._host.open_file
        context._host.open_file = lambda *args: (opened.append(args[0]), real(*args))[1]
        digest = content_digest(select(context, pattern), memo)
    return digest, opened


def test_memo_of_selections(tmp_path):
    """An unchanged context opens no file the second time; a changed one opens only what changed."""
    for path in ("a", "b", "d/c"):
        write(tmp_path, path)
    settle()
    memo = MemoryStatCache()
    first, opened = digest_of(tmp_path, memo)
    assert sorted(opened) == ["a", "b", "d/c"]
    assert digest_of(tmp_path, memo) == (first, [])
    write(tmp_path, "b", "other")
    settle()
    second, opened = digest_of(tmp_path, memo)
    assert second != first
    assert opened == ["b"]
    assert second == digest_of(tmp_path, None)[0]


def test_time_is_no_content(tmp_path):
    """A touched file is read again and found to be the same (K01)."""
    write(tmp_path, "a")
    settle()
    memo = MemoryStatCache()
    first, _ = digest_of(tmp_path, memo)
    os.utime(tmp_path / "a", (OLD + 9, OLD + 9))
    settle()
    assert digest_of(tmp_path, memo) == (first, ["a"])


def test_same_size_same_mtime(tmp_path):
    """A file swapped for one of equal size and mtime is noticed by its ctime (J10)."""
    write(tmp_path, "a", "one")
    settle()
    memo = MemoryStatCache()
    first, _ = digest_of(tmp_path, memo)
    write(tmp_path, "a", "two")
    settle()
    assert digest_of(tmp_path, memo)[0] != first


def test_young_files_are_not_remembered(tmp_path):
    """What was written in the tick of the walk, or claims the future, is read every time (J10)."""
    write(tmp_path, "old")
    settle()
    memo = MemoryStatCache()
    write(tmp_path, "young")
    for _ in range(2):
        assert "young" in digest_of(tmp_path, memo, "young")[1]
        os.utime(tmp_path / "young")
    future = time.time() + 1000
    os.utime(tmp_path / "old", (future, future))
    settle()
    for _ in range(2):
        assert "old" in digest_of(tmp_path, memo, "old")[1]


def test_options_of_memo(tmp_path):
    """A wildcard and a literal of the same file do not share a memo (K03)."""
    write(tmp_path, "a")
    settle()
    memo = MemoryStatCache()
    with LocalContext(str(tmp_path), memo=memo) as context:
        assert content_digest(select(context, "a*"), memo) != content_digest(
            select(context, "a"), memo
        )
