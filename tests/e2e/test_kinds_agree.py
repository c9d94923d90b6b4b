"""What every kind of sandbox must do alike, tried by root, who can have all of them (issue 4)."""

from __future__ import annotations

import os

import pytest

KINDS = ("userns", "single", "chroot", "emulate")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its root")


@pytest.mark.parametrize("kind", KINDS)
def test_a_workdir_within_a_mount_is_made_there(root_pybuild, busybox, kind):
    """R03: it is a directory of the mount, not of the image below it, and is found again."""
    context = root_pybuild.context(
        f"workdir-{kind}",
        f"""\
FROM {busybox}
WORKDIR /c/made/here
RUN --mount=type=cache,target=/c,id=workdir-{kind} {{ pwd; touch x; ls /c/made/here; }} > /o
RUN --mount=type=cache,target=/c,id=workdir-{kind} {{ touch y; ls; ls ..; ls /c; }} >> /o
RUN --mount=type=tmpfs,target=/c {{ touch z; ls /c/made/here; pwd; }} >> /o
""",
    )
    root_pybuild.good("--no-cache", "--sandbox", kind, "-t", f"workdir-{kind}", context)
    said = root_pybuild.good("run", "--rm", f"workdir-{kind}", "cat", "/o").out
    assert said.split() == ["/c/made/here", "x", "x", "y", "here", "made", "z", "/c/made/here"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bound_stage_has_its_owners(root_pybuild, busybox, kind):
    """F2, F4: owners, set-id and sticky bits, read, copied and changed; below a link, of a file."""
    context = root_pybuild.context(
        f"bound-{kind}",
        f"""\
FROM {busybox} AS a
RUN mkdir -p /o/t /o/d && echo x > /o/f && chown 50:60 /o/f /o/d && chmod 4750 /o/f \\
 && chmod 1777 /o/t && ln -s o /l
FROM {busybox}
RUN --mount=from=a,source=/l,target=/m --mount=from=a,source=/o/f,target=/q \
    stat -c '%n %a %u:%g' /m/* /q > /s && cp -a /m /copy
RUN --mount=from=a,target=/all stat -c '%n %a %u:%g' /all/o/* >> /s
RUN --mount=from=a,source=/o,target=/m,rw touch /m/f && stat -c '%n %a %u:%g' /m/f >> /s \
 && chown 7:8 /m/t && rm /m/f && touch /m/f && mv /m/d /m/e && stat -c '%n %a %u:%g' /m/* >> /s
RUN stat -c '%n %a %u:%g' /copy/* >> /s
""",
    )
    root_pybuild.good("--no-cache", "--sandbox", kind, "-t", f"bound-{kind}", context)
    said = root_pybuild.good("run", "--rm", f"bound-{kind}", "cat", "/s").out
    assert said.splitlines() == [
        *("/m/d 755 50:60", "/m/f 4750 50:60", "/m/t 1777 0:0", "/q 4750 50:60"),
        *("/all/o/d 755 50:60", "/all/o/f 4750 50:60", "/all/o/t 1777 0:0"),
        *("/m/f 4750 50:60", "/m/e 755 50:60", "/m/f 644 0:0", "/m/t 1777 7:8"),
        *("/copy/d 755 50:60", "/copy/f 4750 50:60", "/copy/t 1777 0:0"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_is_whose_it_is_asked_to_be(root_pybuild, busybox, kind):
    """M11: its root has the owner and the mode that its mount says, in every step."""
    mount = f"--mount=type=cache,target=/c,id=owned-{kind},uid=33,gid=34,mode=750"
    look = "stat -c '%a %u:%g' /c >> /o"
    text = (
        f"FROM {busybox}\nRUN {mount} {look}; touch /c/x; {look}\nRUN {mount} ls /c >> /o; {look}\n"
    )
    context = root_pybuild.context(f"owned-{kind}", text)
    root_pybuild.good("--no-cache", "--sandbox", kind, "-t", f"owned-{kind}", context)
    said = root_pybuild.good("run", "--rm", f"owned-{kind}", "cat", "/o").out
    assert said.split() == [*("750", "33:34") * 2, "x", "750", "33:34"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_started_in_the_sandbox_asked_for(root_pybuild, busybox, kind):
    """R02: `pybuild run` takes what a build takes; streams and status are the program's own."""
    script = "read x; echo $x $$; grep -c 'TracerPid:.0$' /proc/$$/status; exit 7"
    flags = ("-i", "--sandbox", kind)
    said = root_pybuild.run("run", *flags, busybox, "sh", "-c", script, stdin=b"given\n")
    word, number, is_untraced = said.out.split()
    assert (said.code, word) == (7, "given")
    has_namespaces = kind in {"userns", "single"}
    assert (number == "2") == has_namespaces
    assert (is_untraced == "1") == has_namespaces


def test_sandboxes_that_start_nothing_are_refused(root_pybuild, busybox):
    """An image cannot be started where RUN is switched off."""
    assert root_pybuild.run("run", "--sandbox", "none", busybox, "true").code == 2
    assert root_pybuild.run("run", "--sandbox", "bogus", busybox, "true").code == 2


EITHER_WAY = pytest.mark.parametrize(
    "flags", [(), ("--ulimit", "nofile=64:64")], ids=["usual", "limited"]
)


@EITHER_WAY
@pytest.mark.parametrize("kind", KINDS)
def test_signals_ignored_by_who_started_us_are_not_by_steps(root_pybuild, busybox, kind, flags):
    """R05: `make` leaves two of the C library's ignored, as whatever starts programs by posix_spawn."""
    name = f"spawned-{kind}-{len(flags)}"
    text = f"FROM {busybox}\nRUN grep SigIgn /proc/self/status > /o\n"
    context = root_pybuild.context(name, text)
    command = root_pybuild.command("--sandbox", kind, *flags, "--no-cache", "-t", name, context)
    pid = os.posix_spawn(command[0], [str(word) for word in command], root_pybuild.environ())
    assert os.waitpid(pid, 0)[1] == 0
    said = root_pybuild.good("run", name, "cat", "/o").out.split()
    assert said == ["SigIgn:", f"{4:016x}"]  # the shell ignores one


@EITHER_WAY
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_begins_alike_in_either_way(root_pybuild, busybox, kind, flags):
    """R02, R05: what few steps want makes Python their first process, which nothing shows."""
    name = f"begun-{kind}-{len(flags)}"
    build = ("--sandbox", kind, *flags, "--no-cache", "--progress", "plain")
    script = (
        "{ umask; id -u; id -G; pwd; ls -l /proc/self/fd | grep -c -e '->';"
        " grep -E 'Sig(Ign|Blk)' /proc/$$/status; } > o"
    )
    head = f"FROM {busybox}\nUSER 7:8\nWORKDIR /w\n"
    context = root_pybuild.context(name, f"{head}RUN {script}\n")
    root_pybuild.good(*build, "-t", name, context)
    said = root_pybuild.good("run", name, "cat", "/w/o").out.split()
    assert said[:5] == ["0022", "7", "8", "/w", "3"]
    assert said[5:] == ["SigBlk:", "0" * 16, "SigIgn:", f"{4:016x}"]  # the shell ignores one
    for program, code, why in (
        ("lost", 127, 'exec: "lost": executable file not found in $PATH'),
        ("/lost", 127, 'exec: "/lost": no such file or directory'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
        ("/etc/", 126, 'exec: "/etc/": permission denied'),
    ):
        context = root_pybuild.context(f"{name}-{len(why)}", f'{head}RUN ["{program}"]\n')
        lost = root_pybuild.run(*build, context)
        assert (lost.code, why in lost.err, f"code: {code}" in lost.err) == (1, True, True), lost
