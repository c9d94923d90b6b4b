"""What the system refuses is told with its name, if it has one, and with a step that helps (S-R08)."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest

from builder.cli import main
from cache.errors import advice_on, reason_of


@pytest.fixture
def context(tmp_path):
    """A context of three copies."""
    made = tmp_path / "context"
    made.mkdir()
    lines = ["FROM scratch", "COPY Dockerfile large /a/", "COPY Dockerfile /b/", ""]
    (made / "Dockerfile").write_text("\n".join(lines))
    (made / "large").write_bytes(os.urandom(1 << 20))
    return made


def _broken(root, name, *, as_file):
    root.mkdir(mode=0o700)
    if as_file:
        (root / name).write_text("")
    else:
        (root / name).mkdir()


@pytest.mark.parametrize(
    ("name", "as_file"), [("state.db", False), ("lock", False), ("blobs", True), ("tmp", True)]
)
def test_something_else_in_the_state_directory_is_to_be_moved_away(
    tmp_path, context, capsys, name, as_file
):
    """S-R08: more room would not help there, so nobody is told to make some."""
    root = tmp_path / "state"
    _broken(root, name, as_file=as_file)
    assert main(["--root", str(root), str(context)]) == 1
    said = capsys.readouterr().err
    assert str(root / name) in said
    assert "away, or name another state directory with --root or PYBUILD_ROOT" in said
    assert "free some space" not in said


def test_a_file_for_the_state_directory_names_the_flag_too(tmp_path, context, capsys):
    """S-R08: whoever gave --root is not sent to the variable only."""
    (tmp_path / "file").write_text("")
    assert main(["--root", str(tmp_path / "file"), str(context)]) == 1
    assert "--root or PYBUILD_ROOT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "make it writable for you"),
        (errno.EACCES, "make it writable for you"),
        (errno.EIO, "name another state directory"),
    ],
)
def test_each_refusal_has_its_own_advice(number, said):
    """S-R08: room for a full disk, rights for a closed one, a limit for a limit."""
    assert said in (advice_on(OSError(number, os.strerror(number)), in_state=True) or "")


def test_outside_the_state_directory_only_limits_and_room_are_known():
    """A file of the user's that may not be read is no reason for another state directory."""
    assert advice_on(PermissionError(errno.EACCES, "x")) is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EMFILE, "too many"), "too many"),
        (OSError(errno.EMFILE, "too many", 3), "too many"),
        (OSError(errno.EMFILE, "too many", b"/a"), "too many: /a"),
        (OSError(errno.EMFILE, "too many", "/a"), "too many: /a"),
        (OSError("odd"), "odd"),
    ],
)
def test_a_missing_name_is_left_out(error, text):
    """S-R08: neither None nor a number stands where a name would."""
    assert reason_of(error) == text


def test_too_many_open_files_name_the_limit_and_nothing_else(monkeypatch, capsys):
    """S-R08: such an error has no file, and the limit of the shell is what to raise."""

    def dispatch(_words):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builder.cli._dispatch", dispatch)
    assert main(["x"]) == 1
    said, hint = capsys.readouterr().err.splitlines()
    assert said == "pybuild: error: Too many open files"
    assert "ulimit -n" in hint


def test_a_limit_on_the_size_of_files_is_named(tmp_path, context):
    """S-R08: what stopped the build is the caller's limit, and the message says which."""
    size = 300 << 10
    done = subprocess.run(
        [sys.executable, "-P", "-m", "builder", "--root", str(tmp_path / "state"), str(context)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 1
    assert "ulimit -f" in done.stderr
