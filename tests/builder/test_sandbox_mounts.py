"""Real steps: the root, its mounts and what they leave, as root and as an ordinary user."""

from __future__ import annotations

import os

import pytest
from support import sandbox_accounts


@pytest.fixture(scope="module", params=["root", "forked", "ordinary"])
def bench(request):
    with sandbox_accounts.bench(request.param) as made:
        yield made


def test_changes_land_in_the_upper_with_real_ids(bench):
    """What a step writes is in its upper directory; the lower is untouched."""
    result = bench.evaluate("[run(sh('echo hi > /new; chown 33:44 /new')), os.listdir(state)][1]")
    upper = max(bench.state.glob("upper*"), key=lambda path: path.stat().st_ctime)
    assert (upper / "new").read_text() == "hi\n"
    assert not (bench.base / "busybox" / "new").exists()
    assert result


def test_devices(bench):
    """The minimal set of nodes, working; the shared memory has its limit (D15)."""
    listing, limits = bench.evaluate(
        "[run(sh('ls /dev; cat /dev/mem /dev/kmsg; head -c 3 /dev/zero | wc -c; echo x > /dev/null'))[1],"
        "run(sh('df -k /dev/shm | tail -n 1; touch /dev/shm/x; dd if=/dev/zero of=/dev/shm/x bs=1M',"
        "shm_size=2097152))]"
    )
    assert listing.split() == [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero", "3",
    ]  # fmt: skip
    assert " 2048 " in limits[1]
    assert "No space left" in limits[2]


def test_kernel_views_are_cut_down(bench):
    """Masked files are empty, sysctls and /sys cannot be written (D17)."""
    writes = (
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/kernel/hostname",
        "/sys/fs/cgroup/x",
        "/sys/kernel/mm/x",
    )
    text = "; ".join(f"(echo x > {path}) && echo BAD {path}" for path in writes)
    result = bench.evaluate(
        f"run(sh('{text}; cat /proc/keys /proc/timer_list /proc/kcore | wc -c;"
        "ls -A /proc/acpi /sys/firmware 2>/dev/null | grep -v :; ulimit -c'))"
    )
    assert result[1].split() == ["0", "0"]


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_link_in_place_of_a_kernel_view_is_refused(bench, name):
    """Set-up does not follow /proc, /sys or /dev out of the root (D16)."""
    tree = bench.tree(f"link-{name}", links={name: "/etc"})
    result = bench.evaluate(f"run(sh('true', lowers=('{tree}',)))")
    assert result[:3] == ("error", "SandboxError", f"/{name} of the image is not a directory")


def test_name_files_are_mounted_and_their_stubs_reported(bench):
    """resolv.conf and hosts have their text, cannot be changed, and are stubs (R06, R07)."""
    result = bench.evaluate(
        "run(sh('cat /etc/resolv.conf /etc/hosts; echo x > /etc/hosts; hostname',"
        "resolv_conf=b'R\\n', hosts=b'H\\n', hostname='box'))"
    )
    assert result[1] == "R\nH\nbox\n"
    assert "Read-only" in result[2]
    assert [path for path, _ in result[3]] == ["/etc/hosts", "/etc/resolv.conf"]
    before = (bench.base / "busybox" / "etc").stat().st_mtime_ns
    assert result[3][-1][1] == before


def test_what_lies_beneath_is_mounted_on_and_no_stub(bench):
    """With a place for it in the tree below all others, nothing is made for a mount (R07)."""
    bench.tree("beneath", {"etc/hosts": ""})
    result = bench.evaluate(
        "[run(SandboxSpec(Overlay(s.root.base, s.root.lowers, s.root.upper, s.root.work,"
        " ('beneath',)), s.process, hosts=b'H\\n')) for s in [sh('cat /etc/hosts')]][0]"
    )
    assert result == (0, "H\n", "", ())


def test_name_files_through_hostile_links(bench):
    """A link for resolv.conf resolves inside the root, wherever it points (D16)."""
    canary = bench.state / "canary"
    canary.write_text("host\n")
    bench.tree("resolv", links={"etc/resolv.conf": f"../../../..{canary}"})
    bench.tree("sysrq", links={"etc/resolv.conf": "/proc/sysrq-trigger"})
    inside, refused = bench.evaluate(
        "[run(sh('cat /etc/resolv.conf', resolv_conf=b'R\\n', lowers=(n, 'busybox')))"
        " for n in ('resolv', 'sysrq')]"
    )
    assert inside[:2] == (0, "R\n")
    assert inside[3][0][0] == str(canary)
    assert refused[:2] == ("error", "SandboxError")
    assert canary.read_text() == "host\n"


def test_every_kind_of_mount(bench):
    """Binds, overlays, tmpfs and memory files are there, with the rights asked for."""
    result = bench.evaluate(
        "run(sh('cat /a/srv/data /b/srv/data /c /run/x; ls -ln /run/x; touch /a/n; echo new >"
        " /b/srv/data; cat /b/srv/data; touch /t/f; df -k /t | tail -n 1',"
        " mounts=(Bind(f'{state}/base/stage', '/a'),"
        " BindOverlay(f'{state}/base', ('stage', 'busybox'), '/b', readonly=False),"
        " Bind(f'{state}/base/stage', '/c', 'srv/data'), Tmpfs('/t', 4096 * 16),"
        " MemoryFile('/run/x', b'secret\\n', 0o440, 5, 6))))"
    )
    out = result[1].splitlines()
    assert out[:4] == ["stage data", "stage data", "stage data", "secret"]
    assert out[4].split()[:4] == ["-r--r-----", "1", "5", "6"]
    assert out[5] == "new"
    assert out[6].split()[1] == "64"
    assert "Read-only" in result[2]
    assert [path for path, _ in result[3]] == ["/run/x", "/run", "/t", "/c", "/b", "/a"]
    assert (bench.base / "stage" / "srv" / "data").read_text() == "stage data\n"


def test_a_read_only_overlay_of_one_layer(bench):
    """One lower alone can be mounted read-only."""
    result = bench.evaluate(
        "run(sh('cat /b; ls -l / | grep -c stage', mounts=("
        "BindOverlay(f'{state}/base', ('stage',), '/b', '/srv/data'),)))"
    )
    assert result[1] == "stage data\n0\n"


def test_sources_cannot_lead_out(bench):
    """`source=` through links and `..` stays inside what is mounted (C01, C02)."""
    bench.tree("trick", links={"abs": "/etc", "up": "../../../etc", "self": "/proc/self/root"})
    os.mkfifo(bench.base / "trick" / "fifo")
    bench.tree("whole", links={"srv": "/"})
    root, *rest = bench.evaluate(
        "[run(sh('ls -A /x', mounts=(Bind(f'{state}/base/stage', '/x', 'rootdir'),)))] +"
        "[run(sh('ls -A /x', mounts=(Bind(f'{state}/base/trick', '/x', s),)))[:2]"
        " for s in ('abs', 'up', 'self', 'fifo', 'abs/passwd')] +"
        "[run(sh('ls -A /x', mounts=(Bind(f'{state}/base/trick/abs', '/x'),)))[:2]]"
    )
    assert root[1].split() == ["rootdir", "srv"]
    assert rest == [("error", "SandboxError")] * 6


def test_a_source_that_is_swapped_meanwhile(bench):
    """A step that keeps swapping a cache directory for a link gains nothing (C03)."""
    cache = bench.account.directory("swapped")
    canary = bench.account.directory("canary-directory")
    (canary / "xyzzy").write_text("host")
    flip = (
        f"cd /k; while test ! -e stop; do mkdir -p sel new; mv new/sel . ; rm -rf sel;"
        f" ln -sn {canary} sel; rm sel; ln -s ../../..{canary} sel; rm -rf sel; done"
    )
    results = bench.evaluate(
        f"run_all([sh('timeout 20 sh -c \"{flip}\"', mounts=(Bind('{cache}', '/k', readonly=False),))] +"
        f"[sh('for i in $(seq 40); do cat /x/xyzzy /k/sel/xyzzy; done; ls -A /x;"
        f"touch /k/stop', mounts=(Bind('{cache}', '/k', readonly=False),"
        f" Bind('{cache}', '/x', 'sel'))) for _ in range(40)] +"
        f"[sh('sleep 3; touch /k/stop', mounts=(Bind('{cache}', '/k', readonly=False),))])[1:]"
    )
    assert all(
        result[0] == "error" or not ("xyzzy" in result[1] or "host" in result[1])
        for result in results
    )


def test_targets_stay_in_the_root(bench):
    """Targets through links are made inside the root; kernel views are forbidden (C07)."""
    escape = bench.state / "escape"
    bench.tree(
        "targets",
        links={"t": str(escape), "u": "../../../..", "p": "/proc", "c": "/proc/self/cwd", "l": "l"},
    )
    results = bench.evaluate(
        "[run(sh('cat /t/x', lowers=('targets', 'busybox'), mounts=(MemoryFile(t, b'm'),)))"
        " for t in ('/t/x', '/u/t/x')] +"
        "[run(sh('true', lowers=('targets', 'busybox'), mounts=(Tmpfs(t),)))[:2]"
        " for t in ('/', '.', '/proc', '/sys', '/dev', '/p', '/u', '/c/x', '/l', '/proc/self/cwd',"
        " '/sys/kernel', '/etc/passwd', '/etc/passwd/x', '/a/../..', '/nope/../x', 'x' * 5000)]"
    )
    assert [r[:2] for r in results[:2]] == [(0, "m")] * 2
    assert not escape.exists()
    assert results[2:] == [("error", "SandboxError")] * 16


def test_mounts_stack_in_order(bench):
    """Nested targets and the same target twice: later mounts cover earlier ones (C07)."""
    result = bench.evaluate(
        "run(sh('cat /m/a/f; ls /m', mounts=(Tmpfs('/m'), MemoryFile('/m/a/f', b'1'),"
        " MemoryFile('/m/a/f', b'2'))))"
    )
    assert result[1] == "2a\n"
    assert [path for path, _ in result[3]] == ["/m"]


def test_a_secret_is_not_written_through_to_a_cache(bench):
    """A memory file over a file of a writable mount leaves that file alone (C12)."""
    cache = bench.account.directory("cache")
    (cache / "token").write_text("old")
    os.chown(cache / "token", bench.account.uid, bench.account.gid)
    result = bench.evaluate(
        f"run(sh('cat /k/token; echo n >> /k/token', mounts=(Bind('{cache}', '/k', readonly=False),"
        " MemoryFile('/k/token', b'secret'))))"
    )
    assert result[1] == "secret"
    assert (cache / "token").read_text() == "old"
    assert [path for path, _ in result[3]] == ["/k"]


def test_working_directories(bench):
    """WORKDIR is made inside the root, for the user, and is no stub (R03, D18)."""
    bench.tree("cwd", {"file": "x"}, {"a": "b", "b": "../../../escape/x"})
    results = bench.evaluate(
        "[run(sh('pwd; stat -c %u:%g:%a .', cwd=c, user='bob', lowers=('cwd', 'busybox')))"
        " for c in ('/w/x', '/a', '/../../w2')]"
    )
    assert [r[1].split() for r in results] == [
        ["/w/x", "1000:1000:755"],
        ["/escape/x", "1000:1000:755"],
        ["/w2", "1000:1000:755"],
    ]
    assert {r[3] for r in results} == {()}


def test_working_directories_that_cannot_be(bench):
    """Descriptors of the builder, files, loops and endless names are errors (D01, D03, D18)."""
    results = bench.evaluate(
        "[run(sh('ls -l .', cwd=c, lowers=('cwd2', 'busybox')))[:2] for c in"
        " (*(f'/proc/self/fd/{n}' for n in range(3, 12)), '/proc/self/cwd', '/proc/1/root', '/proc',"
        " '/proc/thread-self/fd/3', '/trap', '/file', '/file/x', '/loop', '/' + 'x' * 5000, 'rel')]"
        if bench.tree("cwd2", {"file": "x"}, {"loop": "loop", "trap": "/proc/self/cwd"})
        else ""
    )
    assert results == [("error", "SandboxError")] * 19


def test_network_none_has_loopback_only(bench):
    """Lo is up, nothing else exists, nothing is routed (D10, F15)."""
    result = bench.evaluate(
        "run(sh('ip -o addr | wc -l; ip -o link; ip route; ping -c 1 -W 1 127.0.0.1 | grep -c ttl',"
        "network=NetworkMode.NONE))"
    )
    assert "lo: <LOOPBACK,UP,LOWER_UP>" in result[1]
    assert "eth" not in result[1]
    assert result[1].endswith("\n1\n")


def test_hundreds_of_layers(bench):
    """Long lists of lowers pass the one-page limit; too many are an honest error (F12)."""
    names = [bench.tree(f"{number:064d}", {f"f{number}": "x"}) for number in range(120)]
    bench.tree("a:b,c\\d", {"special": "x"})
    many, special, over = bench.evaluate(
        f"[run(sh('ls / | grep -c ^f', lowers=(*{names!r}, 'busybox'))),"
        "run(sh('ls /special', lowers=('a:b,c\\\\d', 'busybox'))),"
        "run(sh('true', lowers=('busybox',) * 501))]"
    )
    assert many[1] == "120\n"
    assert special[1] == "/special\n"
    assert over[0] == "error"
