"""A store somebody damaged: found and repaired by `prune --all`, or harmless (S-J16, S-R37, S-R38)."""

from __future__ import annotations

import sqlite3

import pytest

from builder import cli
from builder import state as states
from cache.errors import PybuildError, StoreError
from cache.spec.reference import Reference

DOCKERFILE = "FROM scratch\nCOPY file /file\n"


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A state directory with one image, and the arguments that built it."""
    root, context = tmp_path / "root", tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "file").write_text("content" * 1000)
    monkeypatch.setenv("PYBUILD_ROOT", str(root))
    assert cli.main(["-q", "-t", "app", str(context)]) == 0
    return root, ["-q", "-t", "app", "-o", f"type=oci,dest={tmp_path}/out.tar", str(context)]


def _blobs(root):
    return sorted((root / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)


def _flip(path):
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_layer_of_a_named_image_goes(built):
    """S-R37: the hint `prune --all` repairs a blob that a name holds, too."""
    root, arguments = built
    _flip(_blobs(root)[-1])
    assert cli.main(["prune", "--all"]) == 0
    assert cli.main(arguments) == 0


@pytest.mark.parametrize("number", [0, 1], ids=["config", "manifest"])
def test_an_image_of_damaged_documents_is_no_obstacle(built, number):
    """S-R37: what cannot be read is dropped; prune itself does not stumble over it."""
    root, arguments = built
    _flip(_blobs(root)[number])
    assert cli.main(["prune", "--all"]) == 0
    assert cli.main(arguments) == 0


def test_a_directory_in_the_place_of_a_blob_goes(built):
    """S-R37: whatever lies where a blob or an index belongs is removed."""
    root, arguments = built
    for place in (_blobs(root)[-1], *(root / "index").iterdir()):
        place.unlink()
        place.mkdir()
    assert cli.main(["prune", "--all"]) == 0
    assert cli.main(arguments) == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\0" * 8192),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 8000),
    ],
    ids=["zeros", "truncated", "garbage"],
)
def test_a_damaged_database_is_named_and_started_anew(built, capsys, damage):
    """S-R38: builds refuse it and name the command that helps; that command helps."""
    root, arguments = built
    damage(root / "state.db")
    assert cli.main(arguments) == 1
    assert "pybuild prune --all" in capsys.readouterr().err
    assert cli.main(["prune"]) == 1
    assert cli.main(["prune", "--all"]) == 0
    assert cli.main(arguments) == 0


def test_a_newer_database_is_not_touched(built, capsys):
    """S-R38: a schema of tomorrow is refused, by --all as well."""
    root, arguments = built
    with sqlite3.connect(root / "state.db") as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    assert cli.main(arguments) == 1
    assert cli.main(["prune", "--all"]) == 1
    assert "newer pybuild" in capsys.readouterr().err


def test_a_database_somebody_holds_is_waited_for_and_named(built, monkeypatch):
    """S-R38: one locked by another program is an error of one line, and not a damaged one."""
    root, _ = built
    monkeypatch.setattr("cache.database._BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(root / "state.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreError, match="locked"), states.opened(str(root)) as state:
            state.images.untag(Reference.parse("app"))
    finally:
        holder.close()


def test_a_damaged_blob_never_becomes_an_output(built, capsys):
    """S-J16: an export reads every byte again; nothing is written of what is not right."""
    root, arguments = built
    _flip(_blobs(root)[-1])
    assert cli.main(arguments) == 1
    assert "prune --all" in capsys.readouterr().err
    assert not (root.parent / "out.tar").exists()


def test_an_error_of_the_disk_is_not_called_damage(tmp_path):
    """S-R38: only what sqlite calls corrupt gets that hint."""
    (tmp_path / "state.db").mkdir()
    with pytest.raises(PybuildError) as caught, states.opened(str(tmp_path)):
        pass
    assert "damaged" not in str(caught.value.hint)
