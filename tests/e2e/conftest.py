"""What the end-to-end tests share: a registry, base images, pybuild as root and as another user."""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import bases, peers, pybuild_cli
from support.environments import Host
from support.ordinary_user import ordinary_user
from support.registry_process import registry as serve_registry

# As root everything is tried twice: as root, and as a user without any privilege.
ACCOUNTS = ["root", "user"] if os.geteuid() == 0 else ["user"]


def pytest_collection_modifyitems(items):
    """Mark what lies here."""
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A directory of this test process."""
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def registry(workspace):
    """A real registry on loopback."""
    with serve_registry(workspace / "registry") as running:
        yield running


@contextmanager
def _one_at_a_time(path):
    """Tests in several processes do not edit the user database at the same time."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _someone(lock):
    # Not below pytest's own directory, which it closes to others each time one of them starts.
    outside = Path(tempfile.mkdtemp(prefix="pybuild-user-"))
    outside.chmod(0o711)
    manager = ordinary_user(outside / "home")
    with _one_at_a_time(lock):
        account = manager.__enter__()
    try:
        yield account
    finally:
        with _one_at_a_time(lock):
            manager.__exit__(None, None, None)
        peers.run("rm", "-rf", "--one-file-system", outside)


@pytest.fixture(scope="session")
def root_pybuild(workspace):
    """Pybuild as whoever runs the tests."""
    return pybuild_cli.caller(workspace / "caller")


@pytest.fixture(scope="session")
def user_pybuild(root_pybuild, tmp_path_factory):
    """Pybuild as an ordinary user with subordinate ids."""
    if os.geteuid() != 0:
        yield root_pybuild
        return
    lock = tmp_path_factory.getbasetemp().parent / "users.lock"
    with _someone(lock) as account:
        yield pybuild_cli.for_account(account)


@pytest.fixture(params=ACCOUNTS)
def pybuild(request):
    """Pybuild as each account, with a home and a cold state directory of the test's own."""
    session = request.getfixturevalue(f"{request.param}_pybuild")
    name = re.sub(r"\W+", "-", request.node.name)[:60].strip("-")
    home = session.home / name
    while home.exists():  # of another module's test of that name
        home = home.with_name(f"{home.name}+")
    home.mkdir()
    own = session._with(home=home, state=home / "state")
    own.own(home)
    return own


@pytest.fixture(scope="session")
def busybox(workspace, registry, root_pybuild):
    """The name of a busybox image in the registry, built and pushed by pybuild."""
    name = registry.name("busybox:1")
    context = bases.busybox_context(workspace / "busybox")
    root_pybuild.good("-t", name, "--push", context)
    return name


@pytest.fixture(scope="session")
def debian(workspace, registry, root_pybuild):
    """The name of a Debian image in the registry, from debootstrap."""
    name = registry.name("debian:1")
    context = bases.debian_context(workspace / "debian")
    root_pybuild.good("-t", name, "--push", context, timeout=600)
    return name


@pytest.fixture(scope="session")
def node_base(workspace, registry, root_pybuild, debian):
    """Debian with Node and npm, installed by a RUN."""
    name = registry.name("node:1")
    context = bases.node_context(workspace / "node", debian)
    root_pybuild.good("-t", name, "--push", context, timeout=600)
    return name


@pytest.fixture
def host(user_pybuild):
    """Makes hosts on a file system of the machine's own, and removes what they left."""
    for directory in (user_pybuild.home, user_pybuild.home.parent):
        directory.chmod(0o755)
    made = []

    def make(environment):
        place = Path("/var/tmp", f"pybuild-host-{os.getpid()}-{len(made)}")
        made.append(place)
        return Host(environment, place, user_pybuild)

    yield make
    for place in made:
        peers.run("rm", "-rf", "--one-file-system", place)
