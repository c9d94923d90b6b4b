"""Files of the command line and of the context that are not what they should be."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from builder.cli import main
from builder.dockerfile_input import read_confined, read_dockerfile, read_ignore, read_regular
from builder.errors import HostUnsupportedError, UsageError
from builder.sandbox.overlay import _explain


def pybuild(*words, state):
    """Run the command as a process with its own state."""
    return subprocess.run(
        [sys.executable, "-m", "builder", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PYBUILD_ROOT": str(state)},
        timeout=60,
    )


@pytest.mark.parametrize("flag", ["-f", "--secret"])
def test_a_directory_for_a_file_is_one_line(tmp_path, flag):
    """A directory given where a file belongs is a usage error without traceback (G12, I05)."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    value = str(tmp_path) if flag == "-f" else f"id=x,src={tmp_path}"
    done = pybuild(flag, value, str(tmp_path), state=tmp_path / "state")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "is not a regular file" in done.stderr


def test_an_error_naming_a_descriptor_is_reported(monkeypatch, capsys):
    """A system error whose file name is a descriptor's number still becomes one line."""

    def fail(_words):
        raise IsADirectoryError(21, "Is a directory", 7)

    monkeypatch.setattr("builder.cli._dispatch", fail)
    assert main(["x"]) == 1
    assert capsys.readouterr().err == "pybuild: error: Is a directory\n"


def test_a_dockerfile_linked_out_of_the_context_is_not_read(tmp_path):
    """The context's Dockerfile cannot show a file of the host through a link (B12)."""
    (tmp_path / "private").write_text("CANARY key\n")
    context = tmp_path / "context"
    context.mkdir()
    for target in ("../private", str(tmp_path / "private")):
        (context / "Dockerfile").symlink_to(target)
        done = pybuild(str(context), state=tmp_path / "state")
        assert done.returncode == 2
        assert "CANARY" not in done.stdout + done.stderr
        (context / "Dockerfile").unlink()


def test_an_ignore_file_linked_out_of_the_context_is_not_read(tmp_path):
    """Neither can its own ignore file (B12)."""
    (tmp_path / "private").write_text("CANARY\n")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile.dockerignore").symlink_to("../private")
    with pytest.raises(UsageError, match="a link"):
        read_ignore(str(context), str(context / "Dockerfile"))


def test_a_dockerfile_linked_within_the_context_is_read(tmp_path):
    """The benign twin: a link that stays inside works, and so does any link named with -f."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/real").write_text("FROM scratch\n")
    (tmp_path / "Dockerfile").symlink_to("docker/real")
    assert read_confined(str(tmp_path / "Dockerfile"), 100) == b"FROM scratch\n"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/Dockerfile").symlink_to("../docker/real")
    inner = tmp_path / "inner"
    source, _ = read_dockerfile(str(inner), str(inner / "Dockerfile"), lambda _url, _limit: b"")
    assert source.text == "FROM scratch\n"


def test_reading_a_directory_leaves_no_descriptor(tmp_path):
    """A refused file is closed."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(UsageError):
            read_regular(str(tmp_path), 10)
    assert len(os.listdir("/proc/self/fd")) == before


def test_closed_standard_streams_are_filled(tmp_path):
    """A build whose caller closed descriptors 0, 1 and 2 still succeeds (R43)."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m builder "$1" <&- >&- 2>&-', sys.executable, str(tmp_path)],
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PYBUILD_ROOT": str(tmp_path / "state")},
        timeout=60,
    )
    assert done.returncode == 0


def test_an_output_that_is_full_is_one_line(tmp_path):
    """Standard output on a full device is an error of one line, not the interpreter's (R21)."""
    done = subprocess.run(
        ["/bin/sh", "-c", '"$0" -m builder version > /dev/full', sys.executable],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "PYBUILD_ROOT": str(tmp_path / "state")},
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == "pybuild: error: No space left on device\n"


def test_no_room_for_an_overlay_is_not_the_hosts_fault():
    """A state directory without inodes fails the build and asks for room (R09)."""
    full = _explain(OSError(errno.ENOSPC, "No space left on device"), 3)
    assert not isinstance(full, HostUnsupportedError)
    assert "inodes" in full.hint
    assert isinstance(_explain(OSError(errno.EINVAL, "Invalid argument"), 3), HostUnsupportedError)
