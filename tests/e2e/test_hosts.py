"""One Dockerfile and one command line, without a flag, wherever pybuild runs (F1-F5, F8-F10).

The layers are those of namespaces with a full range of ids, entry by entry.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile

import pytest
from support import bases, peers
from support.environments import CANARY, ENVIRONMENTS
from support.layout_files import Layout
from support.step_layers import CHANGES, members

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away")

TOKEN = "var/run/secrets/kubernetes.io/serviceaccount/token"
# Sets security.capability to cap_net_bind_service=ep.
SETCAP = r"""
#include <sys/xattr.h>
int main(int count, char **words) {
    unsigned char right[20] = {1, 0, 0, 2, 0, 4};
    return count != 2 || setxattr(words[1], "security.capability", right, sizeof right, 0);
}
"""
EVERYTHING = (
    CHANGES
    + f"""\
USER root
ADD more.tar /
RUN --mount=type=secret,id=s test "$(cat /run/secrets/s)" = hidden && test ! -e /{TOKEN} \\
 && ! cat /proc/*/root/{TOKEN} /proc/*/root/vol/secret && ! grep -q {CANARY} /proc/*/environ
COPY setcap /bin/
RUN touch /able && setcap /able && mv /more/tall /more/taller
RUN sleep 1000 & kill -9 -1; echo alive > /alive; echo lost > /dev/null; test -c /dev/null
RUN i=0; while [ $i -lt 20 ]; do sleep 1000 & kill -9 $!; echo $i > /n || exit 9; i=$((i+1)); done
USER 65534
RUN id -u > /tmp/x
"""
)
NO_STEPS = """\
FROM scratch AS other
COPY accounts /etc/passwd
COPY accounts /etc/group
WORKDIR /srv/data
COPY --chown=nobody:7 --chmod=4750 file .
FROM other
ADD more.tar /in/
COPY --from=other --chown=99 /srv /var/www
COPY accounts /more/link
USER nobody
"""
EPOCH = "1700000000"
# What makes threads and processes of the usual kind.
SHARED = re.compile(r"clone3?\((?!.*CLONE_NEW)|resumed|\+\+\+|---")
FORBIDDEN = "unshare,setns,ptrace,seccomp,mount,pivot_root,chroot,clone,clone3"


def more_files(path):
    """A tar of what only root can make: devices, large ids, file capabilities."""
    with tarfile.open(path, "w") as tar:
        for name, kind, ids in (
            ("more", tarfile.DIRTYPE, (7, 8)),
            ("more/null", tarfile.CHRTYPE, (0, 0)),
            ("more/disk", tarfile.BLKTYPE, (0, 6)),
            ("more/tall", tarfile.REGTYPE, (60_000, 65_000)),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, (entry.uid, entry.gid), entry.mode = kind, ids, 0o754
            entry.devmajor, entry.devminor = (1, 3) if kind == tarfile.CHRTYPE else (7, 8)
            tar.addfile(entry, io.BytesIO(b""))


@pytest.fixture(scope="module")
def context(workspace):
    """A context with all of it."""
    context = bases.busybox_context(workspace / "hosts")
    text = EVERYTHING.replace("FROM {base}\n", (context / "Dockerfile").read_text(), 1)
    (context / "Dockerfile").write_text(text)
    (context / "file").write_text("from context\n")
    (context / "secret").write_text("hidden")
    (context / "setcap.c").write_text(SETCAP)
    peers.run("gcc", "-static", "-Os", "-s", "-o", context / "setcap", context / "setcap.c")
    more_files(context / "more.tar")
    return context


@pytest.fixture(scope="module")
def expected(root_pybuild, workspace, context):
    """The layers with namespaces."""
    output = workspace / "hosts-expected"
    flags = ("--sandbox", "userns", "--no-cache", "-o", f"type=oci,tar=false,dest={output}")
    root_pybuild.good(*flags, "--secret", f"id=s,src={context / 'secret'}", context)
    return members(output)


@pytest.fixture(scope="module")
def plain(workspace):
    """A context whose Dockerfile runs nothing."""
    context = workspace / "no-steps"
    context.mkdir()
    (context / "Dockerfile").write_text(NO_STEPS)
    (context / "accounts").write_text("nobody:x:65534:\n")
    (context / "file").write_text("a file\n")
    more_files(context / "more.tar")
    return context


@pytest.fixture(scope="module")
def digest(root_pybuild, plain):
    """The digest of the image without steps."""
    return root_pybuild.good(plain, env={"SOURCE_DATE_EPOCH": EPOCH}).manifest


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_builds_the_same_layers_everywhere(name, host, context, expected, plain, digest):
    """What a host refuses is made up for; doctor says how (F1-F6, F8, F9, F10)."""
    environment = ENVIRONMENTS[name]
    here = host(environment)
    seen = here.add(context)
    secret = f"id=s,src={seen / 'secret'}"
    here.good("--secret", secret, "-o", f"type=oci,tar=false,dest={here.seen / 'out'}", seen)
    output = here.home / "out"
    assert Layout(output).config["config"]["User"] == "65534"
    layers = members(output)
    assert len(layers) == len(expected)
    for number, layer in enumerate(layers):
        assert layer == expected[number], f"layer {number}"
    check_diagnosis(here)
    assert f"manifest {digest}" in here.good(here.add(plain), SOURCE_DATE_EPOCH=EPOCH).stderr
    here.good("prune", "--all")
    assert here.left() == []


def check_diagnosis(here):
    """Doctor names the tier, and what would give a better one."""
    text = here.good("doctor", "--json").stdout
    assert here.environment.unlocks in text.replace("\\n", " ")
    diagnosis = json.loads(text)
    assert diagnosis["tier"] == here.environment.tier
    if diagnosis["tier"] != "userns":
        refused = next(f for f in diagnosis["findings"] if f["name"] == "sandbox userns")
        assert not refused["works"]
        assert refused["hint"]


def test_a_build_without_steps_asks_for_nothing(root_pybuild, plain, tmp_path):
    """No namespace, filter, mount or tracing, not even to try whether it could be had (F6)."""
    trace = tmp_path / "trace"
    command = root_pybuild.with_state("traced").command("--no-cache", plain)
    how = ["strace", "-f", "-q", "-o", trace, "-e", f"trace={FORBIDDEN}"]
    peers.run(*how, *command, env=root_pybuild.environ())
    lines = trace.read_text().splitlines()
    assert lines[-1].endswith("+++ exited with 0 +++")
    assert [line for line in lines if not SHARED.search(line)] == []
