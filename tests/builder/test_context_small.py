"""Small files of the context read ahead: by the library and without it the same."""

from __future__ import annotations

import hashlib
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.twins import compile_twins

from builder.context import smallfiles
from builder.context.local import LocalContext
from builder.context.smallfiles import Reader, _openssl
from builder.context.source import CopyError
from cache import native

COUNT = 60


@pytest.fixture(autouse=True, scope="module")
def _twins():
    compile_twins()
    assert native.library(smallfiles.__file__, "gather", smallfiles._REVISION) is not None


@pytest.fixture(params=["0", "1"], ids=["python", "native"])
def tree(tmp_path, monkeypatch, request):
    """A directory of files of many sizes, with a directory and a link among them."""
    monkeypatch.setenv("PYBUILD_NATIVE", request.param)
    chance = random.Random(3)  # noqa: S311 - the same bytes every time
    (tmp_path / "d").mkdir()
    for number in range(COUNT):
        data = chance.randbytes(chance.choice((0, 1, 100, 5000, 70_000)))
        (tmp_path / "d" / f"f{number:03}é").write_bytes(data)
    (tmp_path / "d" / "f010").mkdir()
    (tmp_path / "d" / "f020").symlink_to("f000")
    for path in (tmp_path / "d").iterdir():
        os.utime(path, (1, 1), follow_symlinks=False)
    return tmp_path


def files(tree):
    """Paths in the context, in their order."""
    found = sorted((tree / "d").iterdir())
    return [f"d/{path.name}" for path in found if path.is_file() and not path.is_symlink()]


def test_contents_and_digests_in_order(tree):
    """What is read ahead is what is there."""
    with LocalContext(str(tree)) as context:
        for path in files(tree):
            data = (tree / path).read_bytes()
            assert context.digest(path) == hashlib.sha256(data).digest()
        for path in files(tree):
            assert context.read(path) == (tree / path).read_bytes()


@settings(max_examples=20, deadline=None)
@given(order=st.lists(st.integers(0, COUNT - 1), max_size=100), start=st.integers(0, COUNT - 20))
def test_any_order(tmp_path_factory, order, start):
    """Runs may begin and end anywhere, and files be wanted again."""
    root = tmp_path_factory.mktemp("order")
    for number in range(COUNT):
        (root / f"{number:02}").write_bytes(b"%d" % number * number)
    with LocalContext(str(root)) as context:
        for number in (*range(start, start + 20), *order, *range(COUNT)):
            data = b"%d" % number * number
            assert context.read(f"{number:02}") == data
            assert context.digest(f"{number:02}") == hashlib.sha256(data).digest()


@pytest.mark.parametrize("victim", [3, 40])
@pytest.mark.parametrize("way", ["read", "digest"])
def test_a_file_that_changes_is_an_error_of_its_own(tree, victim, way):
    """Those before it are read; it is named (B08)."""
    with LocalContext(str(tree)) as context:
        paths = files(tree)
        ask = getattr(context, way)
        context.entries("d")
        (tree / paths[victim]).write_bytes(b"something else")
        for path in paths[:victim]:
            ask(path)
        with pytest.raises(CopyError, match=rf"{paths[victim][2:6]}.*changed"):
            ask(paths[victim])


def test_a_file_nobody_wants_spoils_nothing(tree):
    """What is read ahead in vain may have vanished, or be a pipe by now."""
    with LocalContext(str(tree)) as context:
        paths = files(tree)
        context.entries("d")
        (tree / paths[30]).unlink()
        (tree / paths[35]).unlink()
        os.mkfifo(tree / paths[35])
        for path in (*paths[:30], *paths[31:35], *paths[36:]):
            assert context.read(path) == (tree / path).read_bytes()


def test_a_directory_that_moves_is_noticed(tree):
    """Files of another directory in its place are not read."""
    with LocalContext(str(tree)) as context:
        paths = files(tree)
        context.entries("d")
        (tree / "d").rename(tree / "away")
        (tree / "away").joinpath("f000é").touch()
        (tree / "d").mkdir()
        with pytest.raises(CopyError, match="changed"):
            b"".join(map(context.read, paths))


def test_single_files_are_read_alone(tree, monkeypatch):
    """Nobody reads what was not asked for where files are not wanted in their order."""
    opened = []
    monkeypatch.setattr(smallfiles._Run, "_library", lambda _: opened.append(1))
    with LocalContext(str(tree)) as context:
        for path in files(tree)[::2]:
            context.read(path)
            context.digest(path)
    assert opened == []


@pytest.mark.parametrize("has_openssl", [True, False])
def test_digests_with_and_without_openssl(tmp_path, monkeypatch, has_openssl):
    """Python hashes what the library has read, where the function is not to be had."""
    if not has_openssl:
        monkeypatch.setattr(smallfiles, "_openssl", lambda: None)
    names = [f"{n}" for n in range(9)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 1000)
    listed = [(tmp_path / name).stat() for name in names]
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        reader = Reader.make()
        found = reader.take(fd, names, listed, hashed=True)
        assert found == [hashlib.sha256(name.encode() * 1000).digest() for name in names]
        (tmp_path / "4").write_bytes(b"longer" * 1000)
        assert len(reader.take(fd, names, listed, hashed=False)) == 4
    finally:
        os.close(fd)


def test_openssl_is_found_or_not():
    """An address, or nothing."""
    found = _openssl()
    assert found is None or found.value
