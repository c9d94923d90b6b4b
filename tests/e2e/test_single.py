"""RUN with a single id: the same layers as with a full range, owners and devices recorded (C2, F2-F5)."""

from __future__ import annotations

import os
import tarfile

from support.emulated_steps import compiled, outcome
from support.step_layers import CHANGES, members

SINGLE = ("--sandbox", "single", "--progress", "plain")


def build(pybuild, context, name, *flags):
    """Build to a layout; gives its layers' entries."""
    output = pybuild.home / name
    pybuild.good(*flags, "-o", f"type=oci,tar=false,dest={output}", context)
    return members(output)


def test_layers_are_those_of_a_full_range(pybuild, busybox):
    """Owners, modes, links, whiteouts, opaque directories, USER and WORKDIR: entry by entry (F2, F4, F5)."""
    context = pybuild.context("same", CHANGES.format(base=busybox), {"file": "from context\n"})
    flags = ("--no-cache",)
    first = build(pybuild, context, "namespaces", "--sandbox", "userns", *flags)
    second = build(pybuild, context, "single", *SINGLE, *flags)
    assert len(first) == len(second)
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        assert one == other, f"layer {number}"


def test_devices_and_owners_are_recorded(pybuild, busybox):
    """Devices that nobody may make are in the layer, later steps see them; owners outlive copy-up (F3)."""
    text = f"""\
FROM {busybox}
RUN mknod /n c 1 3 && mknod -m 640 /b b 7 8 && chown 3:4 /b && test -c /n && test -b /b
RUN mkdir /o /p && for i in 1 2 3 4 5; do echo $i > /o/$i; done && chown -R 70:80 /o && chmod 4755 /o/5
RUN stat -c '%F %t:%T %u:%g %a' /n /b > /s && cp -a /n /n2 && rm /b \\
 && echo more >> /o/1 && chmod 600 /o/2 && mv /o/3 /p/3 && ln /o/4 /p/4 && rm /o/4 && touch /o/5 \\
 && stat -c '%n %u:%g %a' /o /o/* /p/* >> /s
"""
    context = pybuild.context("devices", text)
    first, last = build(pybuild, context, "out", *SINGLE)[-3::2]
    assert first["n"][:4] == (tarfile.CHRTYPE, "0o644", 0, 0)
    assert first["n"][6:8] == (1, 3)
    assert first["b"][:4] == (tarfile.BLKTYPE, "0o640", 3, 4)
    assert last["s"][8].decode().splitlines() == [
        *("character special file 1:3 0:0 644", "block special file 7:8 3:4 640"),
        *("/o 70:80 755", "/o/1 70:80 644", "/o/2 70:80 600", "/o/5 70:80 4755"),
        *("/p/3 70:80 644", "/p/4 70:80 644"),
    ]
    assert last["n2"][6:8] == (1, 3)
    assert ".wh.b" in last
    owned = {name: entry[2:4] for name, entry in last.items() if name.startswith(("o/", "p/"))}
    kept = {name for name in owned if "/.wh." not in name}
    assert kept == {"o/1", "o/2", "o/5", "p/3", "p/4"}
    assert {owned[name] for name in kept} == {(70, 80)}


def test_names_of_one_file_keep_its_owner(pybuild, busybox):
    """F2, R11: a name copied up is a file by itself, of the same owner; one made anew is root's."""
    text = f"""\
FROM {busybox}
RUN for i in 1 2 3 4; do echo $i > /a$i; ln /a$i /b$i; chown $i:$i /a$i; done; chmod 4755 /a1
RUN touch /a1 && chmod 600 /b2 && rm /a3 && echo new > /a3 && chown 9 /b3 && mv /a4 /c4 \\
 && echo new > /a4 && stat -c '%n %u:%g' /a? /b? /c? > /s
RUN stat -c '%n %u:%g' /a? /b? /c? > /s2
"""
    context = pybuild.context("names", text)
    *_, changed, last = build(pybuild, context, "out", *SINGLE, "--no-cache")
    said = changed["s"][8].decode().splitlines()
    assert said == [
        *("/a1 1:1", "/a2 2:2", "/a3 0:0", "/a4 0:0"),
        *("/b1 1:1", "/b2 2:2", "/b3 9:3", "/b4 4:4", "/c4 4:4"),
    ]
    assert last["s2"][8].decode().splitlines() == said


def test_users_are_virtual_and_kept_to_their_rights(pybuild, busybox):
    """su, USER, set-user-id programs, chroot: ids are those asked for, and refuse what they would (I06)."""
    text = f"""\
FROM {busybox}
RUN mkdir -m 1777 /w && mkdir -m 700 /locked && echo x > /locked/f && cp /bin/busybox /bin/idsu \\
 && chown bob /bin/idsu && chmod 4755 /bin/idsu && mkdir -p /j/bin && cp /bin/busybox /j/bin
RUN su bob -c 'id -u; touch /w/b; touch /no; rm /etc/passwd; mknod /w/d c 1 3' > /w/out 2>&1; \\
    chroot /j /bin/busybox touch /in && ls /j/in && chown -R bob /j && chroot /j /bin/busybox stat -c %u /in >> /w/out; chown bob /w/out
USER bob
RUN id -u >> /w/out; cat /locked/f >> /w/out 2>&1; ls /locked > /dev/null 2>&1 || echo closed >> /w/out; \\
    rm -f /w/out2 && umask 027 && touch /w/own && ln -s x /w/l && mkdir /w/dir
USER nobody
RUN rm /w/own 2>&1 | cut -c 1-3 > /w/n
"""
    context = pybuild.context("users", text)
    layers = build(pybuild, context, "out", *SINGLE)
    lines = layers[-2]["w/out"][8].decode().splitlines()
    assert lines[0] == "1000"
    assert len([line for line in lines if "denied" in line or "not permitted" in line]) == 4
    assert lines[-4:-3] == ["1000"]
    assert lines[-3] == "1000"
    assert "denied" in lines[-2]
    assert lines[-1] == "closed"
    assert layers[-3]["w/b"][2:4] == (1000, 1000)
    assert layers[-2]["w/own"][1:4] == ("0o640", 1000, 1000)
    assert layers[-2]["w/l"][2:4] == (1000, 1000)
    assert layers[-2]["w/dir"][1:4] == ("0o750", 1000, 1000)
    assert layers[-1]["w/n"][2:4] == (65534, 65534)


KEEPING = r"""
#define _GNU_SOURCE
#include <linux/capability.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv) {
  struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct caps[2];
  long keeps = prctl(PR_SET_KEEPCAPS, argc > 1, 0, 0, 0);
  long user = setresuid(1000, 1000, 1000);
  syscall(SYS_capget, &head, caps);
  if (argc > 1) caps[0].effective = caps[0].permitted;
  syscall(SYS_capset, &head, caps);
  long group = setresgid(1000, 1000, 1000), groups = syscall(SYS_setgroups, 0, NULL);
  printf("%ld %ld %ld %ld\n", keeps, user, group, groups);
  fflush(stdout);
  if (argc > 2) return execl("/keeping", "/keeping", "1", NULL);
  return execl("/bin/sh", "sh", "-c", "id -u; id -g; chown 5 /tmp/f", NULL);
}
"""


def test_capabilities_outlive_a_change_of_ids(pybuild, busybox, tmp_path):
    """PR_SET_KEEPCAPS, as setpriv does it: ids and groups can be changed until exec, then no more (I06)."""
    text = f"""\
FROM {busybox}
COPY --chmod=755 keeping /keeping
RUN mkdir -p /tmp && touch /tmp/f && chmod 666 /tmp/f; (/keeping; /keeping 1; /keeping 1 2) > /log 2>&1; true
"""
    context = pybuild.context("keeping", text, {"keeping": compiled(tmp_path, "keeping", KEEPING)})
    _, log = outcome(pybuild, context, "userns")
    assert log[0] == "0 0 -1 -1"
    assert "0 0 0 0" in log
    assert outcome(pybuild, context, "single")[1] == log


def test_mounts_network_and_host_are_those_of_namespaces(pybuild, busybox):
    """Caches, secrets, tmpfs, no network, a host name of its own, and nothing left (R07, R12)."""
    text = f"""\
FROM {busybox}
RUN --mount=type=cache,target=/cache --mount=type=secret,id=s,uid=1000,mode=0400 --mount=type=tmpfs,target=/t \\
    --mount=target=/ctx --network=none \\
    cat /run/secrets/s /ctx/file && stat -c %u /run/secrets/s > /o && echo kept > /cache/k && echo lost > /t/x \\
 && ! echo no > /run/secrets/s && hostname >> /o && ls /sys/class/net >> /o && echo $$ >> /o
RUN --mount=type=cache,target=/cache cat /cache/k >> /o
"""
    context = pybuild.context("mounts", text, {"file": "x\n", "secret": "hidden\n"})
    layers = build(pybuild, context, "out", *SINGLE, "--secret", f"id=s,src={context / 'secret'}")
    assert set(layers[-2]) == {"o"}
    assert layers[-1]["o"][8] == b"1000\nbuildkitsandbox\nlo\n2\nkept\n"
    assert os.listdir(pybuild.state / "scratch") == []


def test_trees_of_kinds_are_kept_apart(pybuild, busybox):
    """A state directory serves both kinds in turn, and prune empties it (F1)."""
    text = f"FROM {busybox}\nRUN touch /f && chown 7:8 /f\nRUN stat -c %u:%g /f && cp -p /f /g\n"
    context = pybuild.context("kinds", text)
    for kind in ("single", "userns", "single"):
        done = pybuild.good("--sandbox", kind, "--progress", "plain", "--no-cache", context)
        assert "7:8" in done.err
    pybuild.good("prune", "--all")
    assert os.listdir(pybuild.state / "active") == []
    assert set(os.listdir(pybuild.state / "snapshots")) <= {"empty", "places"}
