"""Debian's package manager and many kinds of programs where steps have few rights (F2, F13, F14)."""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from pathlib import Path

import pytest
from support import peers
from support.environments import ENVIRONMENTS
from support.step_layers import members

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can take rights away"),
    pytest.mark.xdist_group("deploy"),
    pytest.mark.timeout(900),
]

PACKAGES = "redis-server nginx-light postgresql-client openssh-server"
# Downloaded once, by whoever may: what is tried is the installation.
DOWNLOADED = f"""\
FROM {{base}}
RUN apt-get install -y -q -d --no-install-recommends {PACKAGES} python3-minimal
"""
INSTALLED = f"""\
FROM {{base}}
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends {PACKAGES}
RUN DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-minimal
COPY ld-musl* /lib/
COPY programs /opt/
RUN bash -e /opt/try > /said
"""
OWNERS = {
    "var/lib/redis": ("0o750", 100, 101),
    "etc/redis": ("0o2770", 100, 101),
    "usr/bin/ssh-agent": ("0o2755", 0, 102),
    "var/log/nginx": ("0o755", 0, 4),
}
# What no two installations have in common.
OWN = re.compile(r"var/(log|cache)/.*|etc/ssh/ssh_host_.*|run/.*")
TRY = r"""
diff <(echo one; echo two) <(echo one; echo two) && echo substituted
bash -c 'exec -a zero bash -c "echo \$0"'
su nobody -s /bin/sh -c 'id -u; id -gn'
su www-data -s /bin/bash -c 'touch /tmp/of-www'
stat -c '%U %a' /tmp/of-www
touch -d @1000000000 /old
find /opt -newer /old -name 'threads*' | sort
! find /opt -not -newer /old | grep .
perl -e 'fork or exit 3; wait; print "perl ", $? >> 8, " ", (stat "/etc/shadow")[5], "\n"'
python3 - << 'EOS'
import os, subprocess, sys, threading
found = []
work = lambda: found.extend(os.stat("/etc/shadow").st_gid for _ in range(100))
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print("python", len(found), set(found), subprocess.run(["/bin/false"]).returncode, sys.executable)
EOS
/opt/docker-registry --version | cut -d' ' -f1,2
for name in glibc glibc-static musl musl-static; do "/opt/threads-$name"; done
printf '#!/bin/bash\necho script "$0" "$@"\n' > /s1
printf '#!/s1 with\n' > /s2
chmod 755 /s1 /s2 && /s2 more
readlink /proc/self/exe
install -D -o www-data -g 44 -m 2750 /s1 /srv/deep/installed
dpkg -S /bin/bash && dpkg --verify bash
dpkg-statoverride --update --add redis nogroup 4711 /srv/deep/installed
stat -c '%U %G %a' /srv/deep/installed
flock /lock echo locked
(cd /usr/share/perl5 && tar -cf - --exclude Debconf .) | tar -C /srv -xf - && ls /srv | wc -l
timeout 20 bash -c 'coproc cat; echo through >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"'
"""
THREADS = r"""
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
static void *look(void *total) {
    struct stat found;
    for (int i = 0; i < 200; i++)
        if (!stat("/etc/shadow", &found)) __atomic_add_fetch((long *)total, found.st_gid, 5);
    return 0;
}
int main(int count, char **words) {
    pthread_t threads[4];
    long total = 0;
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, look, &total);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    printf("%s %ld %d\n", words[0], total, access("/etc/shadow", R_OK));
    return 0;
}
"""
MANY = 10_000


@pytest.fixture(scope="module")
def downloaded(workspace, registry, root_pybuild, debian):
    """Debian with the packages to install."""
    name = registry.name("downloaded:1")
    context = workspace / "downloaded"
    context.mkdir()
    (context / "Dockerfile").write_text(DOWNLOADED.format(base=debian))
    root_pybuild.good("-t", name, "--push", context, timeout=600)
    return name


@pytest.fixture(scope="module")
def context(workspace, downloaded):
    """The packages installed, and programs of several makers started."""
    context = workspace / "programs-context"
    programs = context / "programs"
    programs.mkdir(parents=True)
    (context / "Dockerfile").write_text(INSTALLED.format(base=downloaded))
    (programs / "try").write_text(TRY)
    (context / "threads.c").write_text(THREADS)
    for compiler in ("gcc", "musl-gcc"):
        name = {"gcc": "glibc", "musl-gcc": "musl"}[compiler]
        for end, more in (("", []), ("-static", ["-static"])):
            target = programs / f"threads-{name}{end}"
            flags = ["-O1", "-pthread", *more, "-o", target]
            peers.run(compiler, *flags, context / "threads.c")
    shutil.copy(shutil.which("docker-registry"), programs)  # a program of Go's
    (loader,) = Path("/lib").glob("ld-musl-*.so.1")
    shutil.copyfile(loader, context / loader.name)
    (context / loader.name).chmod(0o755)
    return context


@pytest.fixture(scope="module")
def expected(root_pybuild, workspace, context):
    """The layers with namespaces."""
    output = workspace / "programs-expected"
    flags = ("--sandbox", "userns", "-o", f"type=oci,tar=false,dest={output}")
    root_pybuild.good(*flags, context, timeout=600)
    return members(output)


@pytest.mark.parametrize("name", ["2a", "3", "4"])
def test_packages_and_programs(name, host, context, expected):
    """Issue 4's packages, owned as in tier 1; shells, interpreters, C libraries, Go (F2, F13)."""
    here = host(ENVIRONMENTS[name])
    output = f"type=oci,tar=false,dest={here.seen / 'out'}"
    here.good("-o", output, here.add(context), timeout=600)
    layers = members(here.home / "out")
    found = {path: entry[1:4] for path, entry in layers[-5].items()}
    assert {path: found[path] for path in OWNERS} == OWNERS
    assert layers[-1]["said"][8].decode() == expected[-1]["said"][8].decode()
    assert len(layers) == len(expected)
    for layer, wanted in zip(layers, expected, strict=True):
        assert compared(layer) == compared(wanted)


def compared(layer):
    """Entries that any two installations have in common."""
    return {path: entry for path, entry in layer.items() if not OWN.fullmatch(path)}


@pytest.mark.parametrize("name", ["2a", "4"])
def test_an_archive_of_many_owners_is_unpacked(name, host, busybox, workspace, root_pybuild):
    """Ten thousand files keep the ids that tar gives them (F14)."""
    here = host(ENVIRONMENTS[name])
    context = here.home / "many"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {busybox}\nRUN --mount=target=/in mkdir /many && tar -C /many -xf /in/many.tar\n"
    )
    with tarfile.open(context / "many.tar", "w") as tar:
        for number in range(MANY):
            entry = tarfile.TarInfo(f"{number % 100}/f{number}")
            entry.uid, entry.gid, entry.size, entry.mode = number, MANY - number, 1, 0o640
            tar.addfile(entry, io.BytesIO(b"x"))
    output = f"type=oci,tar=false,dest={here.seen / 'out'}"
    here.good("-o", output, here.seen / "many")
    layer = members(here.home / "out")[-1]
    ids = {path: entry[2:4] for path, entry in layer.items() if entry[0] == tarfile.REGTYPE}
    assert ids == {f"many/{n % 100}/f{n}": (n, MANY - n) for n in range(MANY)}
