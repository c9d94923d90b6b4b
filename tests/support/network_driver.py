"""A builder reduced to the networks of its steps: a script run as a child, as entering is for good.

Arguments: a directory, the path of pasta or slirp4netns, the port of a server on the host's
loopback. Prints as JSON what can be reached from inside, and what is left afterwards.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

from builder.sandbox import syscalls
from builder.sandbox.namespace import enter_namespace
from builder.sandbox.network_link import Connector, IsolatedNetworks

GREETING = b"the host's own\n"
_QUERY = bytes.fromhex("123401000001000000000000") + b"\x07example\x03com\0\0\1\0\1"


def reaches(address, port):
    """Whether the server that greets can be reached; others may answer in its place."""
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(len(GREETING)) == GREETING
    except OSError:
        return False


def answers(server):
    """Whether a server answers a question about a name, whatever it says."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(3)
        try:
            asking.sendto(_QUERY, (server, 53))
            return asking.recv(512)[:2] == _QUERY[:2]
        except OSError:
            return False


def look(path, port, found):
    """See what there is, in a thread that enters and ends."""
    fd = os.open(path, os.O_RDONLY)
    syscalls.setns(fd, syscalls.CLONE_NEWNET)
    os.close(fd)
    found["interfaces"] = [name for _, name in socket.if_nameindex()]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        try:
            sending.connect(("198.51.100.1", 9))
            found["address"] = sending.getsockname()[0]
        except OSError as error:
            found["address"] = str(error)
    found["loopback"] = [reaches(address, port) for address in ("127.0.0.1", "10.0.2.2")]
    found["names"] = answers("10.0.2.3")


def main():
    """Make a network, look around, take it away."""
    directory, program, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    enter_namespace()
    networks = IsolatedNetworks(directory, Connector(program, program.endswith("pasta")))
    found = {}
    with networks.step() as path:
        thread = threading.Thread(target=look, args=(path, port, found))
        thread.start()
        thread.join()
    found["left"] = os.listdir(directory)
    print(json.dumps(found))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
