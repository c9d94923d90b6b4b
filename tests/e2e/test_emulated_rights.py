"""Emulated steps as somebody else than root, and what no step reaches: compared with namespaces (C5, E, F)."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile

import pytest
from support.emulated_steps import compiled, outcome

EVERYBODY = 0o777  # the step may have another user than this test
# Each line of /log tells a command's status and message.
PROBE = """\
t() { "$@" > /dev/null 2> /err; c=$?; echo "$c $*: $(sed 's/.*: //' /err)"; }
w() { ( eval "$1" ) 2> /err; c=$?; echo "$c $1: $(sed 's/.*: //' /err)"; }
"""
TREE = """\
FROM {base}
RUN mkdir -m 700 /closed && echo x > /closed/f && mkdir -m 711 /pass && echo y > /pass/f \\
 && echo z > /secret && chmod 600 /secret && echo g > /grp && chgrp 20 /grp && chmod 660 /grp \\
 && mkdir -m 1777 /sticky && touch /sticky/roots && mkdir -m 2777 /setgid && chgrp 20 /setgid \\
 && mkdir -m 777 /open && touch /open/roots && ln -s /closed/f /into && ln -s /secret /open/l \\
 && cp /bin/busybox /open/noexec && chmod 644 /open/noexec && cp /bin/busybox /open/rootexec \\
 && chmod 700 /open/rootexec && mkdir /open/dir && mkfifo -m 600 /open/fifo && echo w > /open/ro \\
 && chmod 666 /open/ro && mkdir -m 777 -p /srv/w && touch /err /log && chmod 666 /err /log
COPY probe /probe
"""
RIGHTS = (
    TREE
    + """\
USER 1000
WORKDIR /srv/w
RUN . /probe; {{ id; t touch /root/x; t cat /closed/f; t cat /pass/f; t ls /pass; t ls /closed; \\
 t cat /into; t cat /secret; t cat /open/l; t cat /grp; t ls -l /closed/f; t stat /into; \\
 t rm -f /sticky/roots; t rm -f /open/roots; t mv /sticky/roots /sticky/x; t touch /setgid/mine; \\
 stat -c '%u %g %a' /setgid/mine; mkdir /setgid/d; stat -c '%u %g %a' /setgid/d; \\
 t chmod 600 /grp; t chown 1000 /open/ro; t chgrp 20 /open/ro; t touch mine; t chgrp 20 mine; \\
 t chgrp 0 mine; t chown 0 mine; t chmod 2755 mine; stat -c '%u %g %a' mine; t touch /secret; \\
 t touch /open/ro; t touch -d @0 /open/ro; t touch -d @0 mine; t /open/noexec true; \\
 t /open/rootexec true; t test -r /secret; t test -w /etc/passwd; t test -x /closed; \\
 t test -w /open; t test -r /closed/f; t mkdir /etc; t mkdir /etc/new; t mkdir -p /usr/x; \\
 t mkdir -p /open/a/b; t ln /secret /open/hard; t ln /open/ro /open/hard2; t ln -s /x /etc/link; \\
 t mknod /open/p p; t mkfifo /etc/p; t rmdir /open/dir; t rm -rf /closed; w 'echo a > /open/fifo'; \\
 w 'echo a > /etc/passwd'; w 'echo b >> /open/ro'; w '> /closed/new'; w 'cd /closed'; w 'cd /pass'; \\
 w 'cd /pass && ls'; t truncate -s 0 /secret; t dd of=/secret if=/dev/null; t chroot / true; \\
 t mv /open/none /etc; t mv mine /etc/mine; t mv mine /open/mine; \\
 w 'umask 077; touch priv; stat -c %a priv'; t cat /proc/self/status; t cat /proc/self/environ; \\
 w 'echo x > /dev/null'; w 'echo x > /dev/stdout'; t mknod /open/c c 1 3; }} > /log 2>&1; true
USER 1000:20
RUN . /probe; {{ id; t cat /grp; w 'echo more >> /grp'; t chmod 600 /grp; t chgrp 20 /srv/w/priv; \\
 touch /srv/w/me20; stat -c '%u %g' /srv/w/me20; }} >> /log 2>&1
USER bob
RUN . /probe; {{ id; t cat /grp; w 'echo more >> /grp'; t chgrp 20 /srv/w/priv; }} >> /log 2>&1
USER root
RUN . /probe; {{ t cat /closed/f; cd /root; su bob -c 'id; cat /secret; ls; touch /root/y; cd; pwd; \\
 touch q; stat -c "%u %g" q'; t cat /secret; }} >> /log 2>&1; rm /err
"""
)


def test_another_user_may_what_the_kernel_lets_them(pybuild, busybox):
    """Owners, modes, groups, sticky and set-group-id directories, su: as with namespaces (C5, F4)."""
    context = pybuild.context("rights", RIGHTS.format(base=busybox), {"probe": PROBE})
    layers, log = outcome(pybuild, context, "userns")
    emulated, emulated_log = outcome(pybuild, context, "emulate")
    assert emulated_log == log
    assert emulated == layers


ESCAPES = """\
FROM {base}
ARG OUTSIDE
ARG BUILDER
RUN ln -s $OUTSIDE /link; cd /; exec 3< /; {{ for f in /proc/self/root$OUTSIDE /proc/$$/root$OUTSIDE \\
 /proc/thread-self/root$OUTSIDE /proc/self/task/$$/root$OUTSIDE /proc/self/cwd/link \\
 /proc/self/cwd/../../../../../..$OUTSIDE /proc/self/fd/3$OUTSIDE /proc/self/fd/3/link \\
 /dev/fd/3/link /proc/$BUILDER/root$OUTSIDE /proc/$BUILDER/environ /proc/1/environ /link; do \\
 cat $f && echo "read $f"; echo changed > $f && echo "wrote $f"; chmod 777 $f && echo "mode $f"; \\
 case $f in */link) ;; *) mv $f /got && echo "moved $f"; ln $f /got && echo "linked $f";; esac; done; }} > /log 2> /dev/null; \\
 cat < /dev/tty && echo tty >> /log; for f in /dev/null /proc/version /sys/kernel/fscaps; do \\
 rm -f $f 2> /dev/null && echo "removed $f" >> /log; chmod 0 $f 2> /dev/null && echo "mode $f" >> /log; \\
 mv /etc/group $f 2> /dev/null && echo "moved to $f" >> /log; done; \\
 for f in /proc/sys/kernel/printk /proc/sys/vm/swappiness; do (cat $f > $f) 2> /dev/null \\
 && echo "set $f" >> /log; done; ls /proc/self/root/bin/busybox /proc/self/cwd/bin/busybox \\
 /proc/self/fd/3/bin/busybox >> /log; echo again > /proc/self/fd/1; true
"""


def test_links_of_processes_lead_nowhere_else(pybuild, busybox):
    """/proc/PID/root, cwd and fd stay in the tree; nothing of /dev, /proc, /sys is changed (F8, SEC-7, D04)."""
    outside = pybuild.home / "outside"
    outside.write_text("canary")
    pybuild.own(pybuild.home)
    before = {name: os.stat(name).st_mode for name in ("/dev/null", str(outside))}
    context = pybuild.context("escapes", ESCAPES.format(base=busybox))
    arguments = ("--build-arg", f"OUTSIDE={outside}", "--build-arg", f"BUILDER={os.getpid()}")
    _, log = outcome(pybuild, context, "emulate", *arguments)
    names = ("/proc/self/cwd", "/proc/self/fd/3", "/proc/self/root")
    assert log == [f"{name}/bin/busybox" for name in names]
    assert outside.read_text() == "canary"
    assert {name: os.stat(name).st_mode for name in before} == before


def test_what_is_bound_read_only_is_not_changed(pybuild, busybox):
    """Modes, owners, times, links and descriptors of a read-only bind leave its source alone (R07)."""
    text = f"""\
FROM {busybox}
RUN --mount=target=/ctx exec 3< /ctx/file; {{ chmod 777 /ctx/file && echo chmod; chown 5 /ctx/file && echo chown; \\
 touch -d @0 /ctx/file && echo touch; ln /ctx/file /hard && echo link; echo x > /proc/self/fd/3 && echo reopened; \\
 mv /ctx/file /moved && echo moved; truncate -s 0 /ctx/file && echo truncated; ln -s /ctx/file /l; \\
 chmod 777 /l && echo linked; cat /ctx/file; }} > /log 2> /dev/null
"""
    context = pybuild.context("readonly", text, {"file": "kept\n"})
    before = os.stat(context / "file")
    _, log = outcome(pybuild, context, "emulate")
    after = os.stat(context / "file")
    assert log == ["kept"]
    assert (after.st_mode, after.st_uid, after.st_mtime_ns, after.st_nlink) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
        1,
    )


CALLS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#define T(name, call) do { errno = 0; long r = (call); \
  printf("%s %ld %s\n", name, r < 0 ? -1 : r, r < 0 ? strerror(errno) : ""); } while (0)
int main(int c, char **v) {
  struct sockaddr_un a = {AF_UNIX};
  int s = socket(AF_UNIX, SOCK_DGRAM, 0), t = socket(AF_UNIX, SOCK_DGRAM, 0);
  char b[200]; struct stat st; long n;
  mkdir("/d", 0755);
  strcpy(a.sun_path, "/d/a-name-that-is-as-long-as-those-that-programs-give-their-sockets-at-most");
  T("bind", bind(s, (void *)&a, sizeof a));
  T("stat", stat(a.sun_path, &st)); printf("mode %o\n", st.st_mode);
  T("sendto", sendto(t, "one", 3, 0, (void *)&a, sizeof a));
  struct iovec io = {"two", 3}; struct msghdr m = {&a, sizeof a, &io, 1};
  T("sendmsg", sendmsg(t, &m, 0));
  struct mmsghdr mm[2]; memset(mm, 0, sizeof mm); mm[0].msg_hdr = mm[1].msg_hdr = m;
  n = sendmmsg(t, mm, 2, 0); if (n == 1) n += sendmmsg(t, mm + 1, 1, 0);
  printf("sendmmsg %ld %d %d\n", n, mm[0].msg_len, mm[1].msg_len);
  T("connect", connect(t, (void *)&a, sizeof a)); T("send", send(t, "x", 1, 0));
  while ((n = recv(s, b, 100, MSG_DONTWAIT)) > 0) printf("got %.*s\n", (int)n, b);
  strcpy(a.sun_path, v[1]); t = socket(AF_UNIX, SOCK_DGRAM, 0);
  T("out sendto", sendto(t, "evil", 4, 0, (void *)&a, sizeof a));
  T("out sendmsg", sendmsg(t, &m, 0)); T("out sendmmsg", sendmmsg(t, mm, 1, 0));
  T("out connect", connect(t, (void *)&a, sizeof a)); T("out bind", bind(t, (void *)&a, sizeof a));
  int i = inotify_init1(IN_NONBLOCK);
  T("watch", inotify_add_watch(i, "/d", IN_CREATE)); T("out watch", inotify_add_watch(i, v[2], IN_CREATE));
  close(open("/d/new", O_CREAT | O_WRONLY, 0644)); T("events", read(i, b, 200) > 0 ? 0 : -1);
  symlink("/etc/hostname", "/d/l"); int f = open("/d", O_PATH | O_DIRECTORY);
  int o = openat(f, "l", O_PATH | O_NOFOLLOW); n = readlinkat(o, "", b, 100);
  printf("link %.*s\n", (int)n, b); T("fstatat", fstatat(o, "", &st, AT_EMPTY_PATH));
  fflush(stdout); return 0;
}
"""


def test_sockets_and_watches_are_the_trees(pybuild, busybox, tmp_path):
    """Datagrams, connections and watches by name stay in the tree, however deep that lies (C5)."""
    place = tempfile.mkdtemp(prefix="pybuild-out-")
    address = os.path.join(place, "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        os.chmod(place, EVERYBODY)
        os.chmod(address, EVERYBODY)
        heard.settimeout(0)
        text = (
            f"FROM {busybox}\nCOPY --chmod=755 calls /calls\nRUN /calls {address} {place} > /log\n"
        )
        data = compiled(tmp_path, "calls", CALLS)
        context = pybuild.context("sockets", text, {"calls": data})
        layers, log = outcome(pybuild, context, "userns")
        emulated, emulated_log = outcome(pybuild, context, "emulate")
        assert _without(emulated_log, "sendmmsg") == _without(log, "sendmmsg")
        assert "sendmmsg 2 3 3" in emulated_log
        with pytest.raises(BlockingIOError):
            heard.recv(100)
    shutil.rmtree(place)
    assert set(emulated[-1]) == set(layers[-1])


def _without(lines, word):
    return [line for line in lines if not line.startswith(word)]


REFUSED = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#define T(name, ...) do { errno = 0; long r = syscall(__VA_ARGS__); \
  printf("%s %s\n", name, r < 0 ? strerror(errno) : "done"); } while (0)
int main(void) {
  char b[256] = {0};
  T("io_uring_setup", 425, 1, b); T("io_uring_enter", 426, 0, 0, 0, 0, 0, 0); T("keyctl", SYS_keyctl, 0, 0, 0);
  T("add_key", SYS_add_key, 0, 0, 0, 0, 0); T("request_key", SYS_request_key, 0, 0, 0, 0);
  T("bpf", SYS_bpf, 0, 0, 0); T("userfaultfd", SYS_userfaultfd, 0); T("perf", SYS_perf_event_open, 0, 0, 0, 0, 0);
  T("pidfd_getfd", 438, 0, 0, 0); T("kcmp", SYS_kcmp, getpid(), getpid(), 0, 0, 0);
  T("fanotify_init", SYS_fanotify_init, 0, 0); T("mount", SYS_mount, 0, 0, 0, 0, 0); T("setns", SYS_setns, 0, 0);
  T("open_tree", 428, -100, "/", 0); T("fsopen", 430, "proc", 0); T("move_mount", 429, 0, 0, 0, 0, 0);
  T("open_by_handle_at", SYS_open_by_handle_at, 0, 0, 0); T("quotactl_fd", 443, 0, 0, 0, 0);
  T("unshare", SYS_unshare, 0x10000000); T("swapon", SYS_swapon, "/", 0); T("acct", SYS_acct, "/f");
#ifdef __x86_64__
  T("clone newuser", SYS_clone, 0x10000011, 0, 0, 0, 0);
  T("x32 getpid", 0x40000000 | 39); T("x32 open", 0x40000000 | 2, "/etc/passwd", 0);
#endif
  T("clone3", 435, 0, 0); T("newest", 1000); T("open_tree_attr", 467, -100, "/", 0, 0, 0);
  T("socket alg", SYS_socket, 38, 5, 0); T("socket vsock", SYS_socket, 40, 1, 0); T("personality", SYS_personality, 0x40000);
  fflush(stdout); return 0;
}
"""


def test_what_containers_forbid_does_not_reach_the_kernel(pybuild, busybox, tmp_path):
    """io_uring, keyrings, bpf and others are refused like with namespaces, x32 numbers, too (E, D11)."""
    text = f"FROM {busybox}\nCOPY --chmod=755 refused /refused\nRUN /refused > /log\n"
    context = pybuild.context("refused", text, {"refused": compiled(tmp_path, "refused", REFUSED)})
    _, log = outcome(pybuild, context, "userns")
    _, emulated = outcome(pybuild, context, "emulate")
    known = {line.partition(" ")[0] for line in emulated if line.endswith("done")}
    assert known == set()
    assert emulated == log


FOREIGN = b"\x7fELF\x01\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 2, 8) + bytes(44)


def test_what_does_not_work_says_so(pybuild, busybox, tmp_path):
    """Refused calls and programs of other machines are named once each; a log tells the rest (C5)."""
    text = f"""\
FROM {busybox}
COPY --chmod=755 refused other /
RUN /refused > /dev/null; mount -t proc x /mnt 2> /dev/null; /other; /other; cat /nowhere; true
"""
    files = {"refused": compiled(tmp_path, "refused", REFUSED), "other": FOREIGN}
    context = pybuild.context("says", text, files)
    log = pybuild.home / "calls"
    flags = ("--sandbox", "emulate", "--no-cache", "--progress", "plain")
    done = pybuild.good(*flags, context, env={"PYBUILD_DEBUG_EMULATE": str(log)})
    said = [line.partition("pybuild: ")[2] for line in done.err.splitlines()]
    said = [line for line in said if line]
    assert len(said) == len(set(said))
    for start in ("mount: ", "setns: ", "system call 1000: ", "/other: programs for mips"):
        assert any(line.startswith(start) for line in said), start
    assert not [line for line in said if line.startswith("openat2")]
    assert "openat '/nowhere' -> ENOENT" in log.read_text()
