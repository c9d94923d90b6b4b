"""Devices of steps: whose records they are, and what comes through the channel."""

from __future__ import annotations

import os
import socket

import pytest

from builder.sandbox.engine import nodes as making
from builder.sandbox.nodes import Nodes
from builder.sandbox.spec import Overlay, Process, Recorded, SandboxSpec


@pytest.fixture
def ends():
    """Our end of a channel and the keeper's."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield pair
    for end in pair:
        end.close()


def spec(upper, *recorded):
    """A step on an upper directory."""
    return SandboxSpec(Overlay("/", (), str(upper), ""), Process(("x",), ()), recorded=recorded)


def test_without_a_channel_nothing_is_waited_for():
    """F3: sandboxes that record devices themselves have nothing to attend to."""
    nodes = Nodes()
    nodes.begin(1, spec("/none"))
    assert (nodes.fd, nodes.end(1)) == (-1, ())


def test_the_listener_comes_through_the_channel(ends):
    """F3: until then the channel is polled; when the keeper is gone nothing is any more."""
    ours, theirs = ends
    nodes = Nodes(ours)
    assert nodes.fd == ours.fileno()
    nodes.attend()  # another thread was faster
    assert nodes.fd == ours.fileno()
    with open(os.devnull, "rb") as file:
        socket.send_fds(theirs, [b"l"], [file.fileno()])
    nodes.attend()
    assert nodes.fd not in {-1, ours.fileno()}
    nodes.close()
    assert nodes.fd == -1
    lost = Nodes(ours)
    theirs.close()
    lost.attend()
    assert lost.fd == -1


def test_only_what_still_has_a_name_is_told(tmp_path):
    """F3: a device that was removed, or replaced by a file, is none; its fd is closed."""
    made = []
    for name in ("kept", "gone"):
        (tmp_path / name).touch()
        fd = os.open(tmp_path / name, os.O_PATH)
        made.append(making.Node(fd, Recorded(name, mode=0o20644, device=(1, 3))))
    (tmp_path / "gone").unlink()
    assert [record.name for record in making.left(made)] == ["kept"]
    for node in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(node.fd)


def test_devices_of_lowers_that_were_copied_up_are_told(tmp_path, ends):
    """F3, R11: by overlayfs's mark; a file made anew under the name is a file, a link is followed nowhere."""
    (tmp_path / "copied").touch()
    os.setxattr(tmp_path / "copied", "user.overlay.origin", b"x")
    (tmp_path / "anew").touch()
    (tmp_path / "link").symlink_to("copied")
    known = [
        Recorded(name, mode=0o20644, device=(1, 3)) for name in ("copied", "anew", "link", "no")
    ]
    status = os.stat(tmp_path / "copied")
    nodes = Nodes(ends[0])
    nodes.begin(7, spec(tmp_path, *known))
    found = nodes.end(7)
    name = f"{status.st_dev}:{status.st_ino}"
    assert found == (Recorded(name, mode=0o20644, device=(1, 3)),)
    assert nodes.end(7) == ()
