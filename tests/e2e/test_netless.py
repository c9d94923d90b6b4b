"""RUN --network=none where no network of its own can be made: nothing but loopback (F11, D08)."""

from __future__ import annotations

import os

import pytest
from support.emulated_steps import compiled

PROGRAM = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#define T(what, call) do { errno = 0; long r = (call); \
  printf("%s %s\n", what, r >= 0 ? "ok" : strerrorname_np(errno)); fflush(stdout); } while (0)
static int to(int s, const char *host, int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, host, &a.sin_addr);
  return connect(s, (struct sockaddr *)&a, sizeof a);
}
static int to6(int s, const char *host) {
  struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
  inet_pton(AF_INET6, host, &a.sin6_addr);
  return connect(s, (struct sockaddr *)&a, sizeof a);
}
int main(void) {
  struct sockaddr_in any = {.sin_family = AF_INET};
  socklen_t size = sizeof any;
  char word[8] = "", name[16] = "";
  int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_INET, SOCK_STREAM, 6), a;
  T("bind", bind(l, (struct sockaddr *)&any, sizeof any));
  T("listen", listen(l, 4));
  getsockname(l, (struct sockaddr *)&any, &size);
  T("near", to(c, "127.0.0.1", ntohs(any.sin_port)));
  a = accept(l, 0, 0);
  T("send", send(c, "hello", 5, 0));
  T("receive", read(a, word, 5) == 5 && !strcmp(word, "hello") ? 0 : -1);
  T("far", to(socket(AF_INET, SOCK_STREAM, 0), "192.0.2.1", 80));
  T("far6", to6(socket(AF_INET6, SOCK_STREAM, 0), "2001:db8::1"));
  T("mapped", to6(socket(AF_INET6, SOCK_STREAM, 0), "::ffff:192.0.2.1"));
  size = sizeof name;
  T("device", getsockopt(c, SOL_SOCKET, SO_BINDTODEVICE, name, &size) || strcmp(name, "lo") ? -1 : 0);
  T("undo", setsockopt(l, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
  T("undo index", setsockopt(a, SOL_SOCKET, 62, &(int){0}, 4));
  T("datagram", socket(AF_INET, SOCK_DGRAM, 0));
  T("datagram6", socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0));
  T("raw", socket(AF_INET, SOCK_RAW, 1));
  T("packet", socket(AF_PACKET, SOCK_DGRAM, 0));
  T("multipath", socket(AF_INET, SOCK_STREAM, 262));
  T("other", socket(31, SOCK_STREAM, 0));
  T("route", socket(AF_NETLINK, SOCK_RAW, 0));
  T("audit", socket(AF_NETLINK, SOCK_RAW, 9));
  T("unix", socket(AF_UNIX, SOCK_DGRAM, 0));
  return 0;
}
"""
EXPECTED = """\
bind ok
listen ok
near ok
send ok
receive ok
far ENETUNREACH
far6 ENETUNREACH
mapped ENETUNREACH
device ok
undo EPERM
undo index EPERM
datagram EPROTONOSUPPORT
datagram6 EPROTONOSUPPORT
raw EPERM
packet EPERM
multipath EPROTONOSUPPORT
other EAFNOSUPPORT
route ok
audit EAFNOSUPPORT
unix ok
"""


def lonely(pybuild, busybox, tmp_path, sandbox):
    """What a step without a network says, and what it could do to get one."""
    program = compiled(tmp_path, "calls", PROGRAM)
    text = f"""\
FROM {busybox}
COPY --chmod=755 calls /bin/calls
RUN --network=none calls > /out && grep ^Cap /proc/self/status > /rights \\
 && wget -O - http://192.0.2.1/ 2>&1 | grep -i unreach > /why
"""
    out = pybuild.home / "out"
    context = pybuild.context("lonely", text, {"calls": program})
    pybuild.good("--no-cache", "--sandbox", sandbox, "-o", out, context)
    assert (out / "out").read_text() == EXPECTED
    assert "unreachable" in (out / "why").read_text().lower()
    return dict(line.split() for line in (out / "rights").read_text().splitlines())


def test_an_emulated_step_has_loopback_only(pybuild, busybox, tmp_path):
    """F11: sockets are kept to loopback by the kernel, and nobody in the step can undo it."""
    rights = lonely(pybuild, busybox, tmp_path, "emulate")
    assert not int(rights["CapPrm:"], 16) & 0x3000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change its root")
@pytest.mark.parametrize("pybuild", ["root"], indirect=True)
def test_a_step_in_a_changed_root_has_loopback_only(pybuild, busybox, tmp_path):
    """F11: the same of root, who could undo it with a capability that the step does not have."""
    rights = lonely(pybuild, busybox, tmp_path, "chroot")
    assert not int(rights["CapPrm:"], 16) & 0x3000
    assert not int(rights["CapBnd:"], 16) & 0x3000
