"""What steps do to files, as it stands in the image and as umoci unpacks it."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
import tempfile

import pytest
from support import peers
from support.layout_files import Layout


def _build(pybuild, context, *flags):
    """Build to a layout directory and check it against the specification."""
    layout = pybuild.home / f"{context.name}-layout"
    done = pybuild.good(*flags, "-o", f"type=oci,dest={layout},tar=false,name=x:it", context)
    return Layout(layout).check(), done


def _unpacked(layout, tmp_path):
    return peers.unpack(layout.path, "it", tmp_path / "bundle")


@pytest.fixture
def short_directory():
    """A directory with a short name."""
    with tempfile.TemporaryDirectory(prefix="pb") as directory:
        yield directory


def test_users_and_working_directories(pybuild, busybox, tmp_path):
    """USER decides who runs a step and WORKDIR's directory keeps its owner, as docker has it (A02)."""
    context = pybuild.context(
        "users",
        f"""\
FROM {busybox}
WORKDIR /made/by/root
USER bob
RUN id > /tmp/who; touch /tmp/of-bob; echo $HOME >> /tmp/who
USER 4321:20
RUN touch /tmp/of-number
USER root
RUN touch /tmp/of-root && chown 1000:20 /tmp/of-root
COPY --chown=bob:extra --chmod=640 Dockerfile /tmp/copied
""",
    )
    layout, _ = _build(pybuild, context)
    root = _unpacked(layout, tmp_path)
    assert (root / "tmp/who").read_text().splitlines() == [
        "uid=1000(bob) gid=1000(bob) groups=20(extra),1000(bob)",
        "/home/bob",
    ]
    owners = {path.name: layout.owner(f"tmp/{path.name}") for path in (root / "tmp").iterdir()}
    assert owners == {
        "who": (1000, 1000),
        "of-bob": (1000, 1000),
        "of-number": (4321, 20),
        "of-root": (1000, 20),
        "copied": (1000, 20),
    }
    assert stat.S_IMODE((root / "tmp/copied").stat().st_mode) == 0o640
    assert layout.config["config"]["WorkingDir"] == "/made/by/root"


def test_special_modes_and_hard_links(pybuild, busybox, tmp_path):
    """setuid, setgid, sticky bits, hard and symbolic links and fifos arrive as they were made."""
    context = pybuild.context(
        "modes",
        f"""\
FROM {busybox}
RUN mkdir /d && cd /d && echo a > plain && cp plain setuid && chmod 4755 setuid && chown 0:20 plain \\
 && cp plain both && chown 1000:20 both && chmod 6711 both && mkdir -m 3777 shared \\
 && ln plain linked && ln plain third && ln -s ../etc/none dangling && mkfifo pipe
FROM {busybox}
COPY --from=0 /d /copied
""",
    )
    layout, _ = _build(pybuild, context)
    root = _unpacked(layout, tmp_path) / "copied"
    modes = {path.name: oct(stat.S_IMODE(path.lstat().st_mode)) for path in root.iterdir()}
    assert modes["setuid"] == "0o4755"
    assert modes["both"] == "0o6711"
    assert modes["shared"] == "0o3777"
    assert layout.owner("copied/both") == (1000, 20)
    assert len({(root / name).stat().st_ino for name in ("plain", "linked", "third")}) == 1
    assert os.readlink(root / "dangling") == "../etc/none"
    assert stat.S_ISFIFO((root / "pipe").lstat().st_mode)


def test_file_capabilities_of_a_step(pybuild, busybox, tmp_path):
    """A capability set on a file stays with it, owned by no user namespace (A16)."""
    context = pybuild.context(
        "capabilities",
        f"""\
FROM {busybox}
COPY setcap /setcap
RUN cp /bin/busybox /tool && /setcap /tool
""",
        {"setcap": _static_setcap(tmp_path)},
    )
    (context / "setcap").chmod(0o755)
    layout, _ = _build(pybuild, context)
    member = layout.entries()["tool"]
    value = member.pax_headers["SCHILY.xattr.security.capability"].encode(
        "utf-8", "surrogateescape"
    )
    assert value[:4] == bytes.fromhex("01000002")  # version 2, effective: no root uid inside
    assert int.from_bytes(value[4:8], "little") == 1 << 10  # cap_net_bind_service
    if os.geteuid() == 0:  # umoci as an ordinary user can give nobody a capability
        root = _unpacked(layout, tmp_path)
        shown = peers.run("getcap", root / "tool").stdout
        assert "cap_net_bind_service=ep" in shown


def _static_setcap(tmp_path):
    """A static program that gives its argument cap_net_bind_service; busybox has none."""
    source = tmp_path / "setcap.c"
    source.write_text(
        """\
#include <stdio.h>
#include <sys/xattr.h>
int main(int argc, char **argv)
{
    static const unsigned char value[20] = {1, 0, 0, 2, 0, 4};
    if (argc == 2 && setxattr(argv[1], "security.capability", value, sizeof value, 0) == 0)
        return 0;
    perror("setxattr");
    return 1;
}
"""
    )
    peers.run("gcc", "-static", "-Os", "-s", "-o", tmp_path / "setcap", source)
    return (tmp_path / "setcap").read_bytes()


def test_removed_and_replaced_things(pybuild, busybox, tmp_path):
    """Whiteouts and opaque directories give umoci the tree the last step saw."""
    context = pybuild.context(
        "whiteouts",
        f"""\
FROM {busybox}
RUN mkdir -p /a/sub /b/sub /c /e && touch /a/1 /a/2 /a/sub/3 /b/1 /b/sub/2 /c/1 /e/1 && ln -s /a /link
RUN rm /a/1 && rm -r /b && mkdir /b && touch /b/new && rm -r /c && touch /c
RUN rm /c && mkdir /c && touch /c/again && rm /link && mkdir /link && mv /e /f && rm -r /a/sub
RUN find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /list \\) -prune -o -print | sort > /list
""",
    )
    layout, _ = _build(pybuild, context)
    root = _unpacked(layout, tmp_path)
    seen = set((root / "list").read_text().split())
    found = {f"/{path.relative_to(root)}" for path in root.rglob("*")} | {"/"}
    given = {"/list", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc", "/sys", "/dev"}
    assert {name for name in found if not name.startswith(("/proc", "/sys", "/dev"))} - given == (
        {name for name in seen if not name.startswith(("/proc", "/sys", "/dev"))} - given
    )
    for gone in ("/a/1", "/b/1", "/b/sub", "/c/1", "/e", "/a/sub"):
        assert gone not in found
    assert {"/a/2", "/b/new", "/c/again", "/f/1", "/link"} <= found


def test_layers_hold_only_changes(pybuild, busybox):
    """A layer has what its step changed, with nothing of the sandbox's own mounts in it."""
    context = pybuild.context(
        "only",
        f"FROM {busybox}\nRUN mkdir /n && echo x > /n/f\nRUN rm /n/f && chmod 700 /n\nRUN true\n",
    )
    layout, _ = _build(pybuild, context)
    entries = [list(layout.entries(number)) for number in range(-3, 0)]
    assert entries[0] == ["n", "n/f"]
    assert entries[1] == ["n", "n/.wh.f"]
    assert entries[2] == []


def test_names_that_are_not_text(pybuild, busybox, tmp_path):
    """Names with bytes that are no UTF-8 pass from the context through RUN and COPY --from."""
    context = pybuild.context(
        "bytes",
        f"""\
FROM {busybox} AS first
COPY in /in
RUN cd /in && for f in *; do cp "$f" "x$f"; done
FROM {busybox}
COPY --from=first /in /in
""",
    )
    inside = os.fsencode(context / "in")
    os.mkdir(inside)
    for name in (b"\xff\xfe", b"caf\xe9", "käse".encode(), b"new\nline", b" blank "):
        with open(os.path.join(inside, name), "wb") as file:
            file.write(name)
    pybuild.own(context)
    layout, _ = _build(pybuild, context)
    root = _unpacked(layout, tmp_path)
    names = set(os.listdir(os.fsencode(root / "in")))
    plain = {b"\xff\xfe", b"caf\xe9", "käse".encode(), b"new\nline", b" blank "}
    assert names == plain | {b"x" + name for name in plain}


def test_heredocs(pybuild, busybox, tmp_path):
    """Heredocs are scripts and files; a quoted word keeps variables, another expands them."""
    context = pybuild.context(
        "heredocs",
        f"""\
FROM {busybox}
ENV WHO=world
RUN <<EOF
set -e
echo "hello $WHO" > /one
echo second >> /one
EOF
RUN <<"EOF" cat > /two
$WHO stays
EOF
COPY <<EOF <<"RAW" /files/
to $WHO
EOF
to $WHO
RAW
RUN <<EOF
#!/bin/awk -f
BEGIN {{ print "by awk" > "/three" }}
EOF
""",
    )
    layout, _ = _build(pybuild, context)
    root = _unpacked(layout, tmp_path)
    assert (root / "one").read_text() == "hello world\nsecond\n"
    assert (root / "two").read_text() == "$WHO stays\n"
    assert (root / "three").read_text() == "by awk\n"
    assert (root / "files/EOF").read_text() == "to world\n"
    assert (root / "files/RAW").read_text() == "to $WHO\n"


def test_bind_and_tmpfs_mounts(pybuild, busybox, tmp_path):
    """Bind mounts show stages and the context, write only to themselves; tmpfs leaves nothing."""
    context = pybuild.context(
        "mounts",
        f"""\
FROM {busybox} AS tools
RUN mkdir /t && echo tool > /t/tool
FROM {busybox}
RUN --mount=type=bind,from=tools,source=/t,target=/t cat /t/tool > /from-stage && ! touch /t/x
RUN --mount=type=bind,source=data,target=/c,rw cat /c/file > /from-context && echo more >> /c/file
RUN --mount=type=bind,source=data,target=/c cat /c/file >> /from-context
RUN --mount=type=tmpfs,target=/scratch,size=1m echo x > /scratch/f && df -k /scratch | tail -1 > /size \\
 && ! dd if=/dev/zero of=/scratch/big bs=1M count=4 2>/dev/null
""",
        {"data/file": "context\n"},
    )
    layout, _ = _build(pybuild, context)
    root = _unpacked(layout, tmp_path)
    assert (root / "from-stage").read_text() == "tool\n"
    assert (root / "from-context").read_text() == "context\ncontext\n"
    assert (root / "size").read_text().split()[1] == "1024"
    assert not (root / "scratch/f").exists()
    assert (context / "data/file").read_text() == "context\n"


def test_no_network(pybuild, busybox, tmp_path):
    """`--network none`, for one step or all, leaves only a loopback interface."""
    context = pybuild.context(
        "network",
        f"FROM {busybox}\nRUN --network=none ip -o addr > /one\nRUN ip -o link | wc -l > /two\n",
    )
    layout, _ = _build(pybuild, context, "--network", "none")
    root = _unpacked(layout, tmp_path)
    lines = (root / "one").read_text().splitlines()
    assert {line.split()[1] for line in lines} == {"lo"}
    assert "127.0.0.1" in lines[0]
    assert (root / "two").read_text() == "1\n"


def test_three_hundred_layers(pybuild, busybox):
    """A Dockerfile may have 300 layers, each seen by a last step (E20, F12)."""
    copies = "".join(f"COPY f{number} /many/\n" for number in range(299))
    files = {f"f{number}": str(number) for number in range(299)}
    context = pybuild.context("many", f"FROM {busybox}\n{copies}RUN ls /many | wc -l > /n\n", files)
    layout, _ = _build(pybuild, context)
    base = peers.inspect(f"docker://{busybox}")["Layers"]
    assert len(layout.manifest["layers"]) == len(base) + 300
    pybuild.good("-t", "many:1", context)
    assert pybuild.good("run", "many:1", "cat", "/n").out == "299\n"


@pytest.mark.parametrize("kind", ["gzip", "zstd", "uncompressed"])
def test_compressions(pybuild, busybox, kind, tmp_path):
    """Layers take the compression asked for; skopeo reads each."""
    context = pybuild.context("kinds", f"FROM {busybox}\nRUN echo x > /x\n")
    layout = pybuild.home / "layout"
    pybuild.good(
        "-o",
        f"type=oci,dest={layout},tar=false,compression={kind},force-compression=true,name=x:it",
        context,
    )
    types = {
        layer["mediaType"].partition("+")[2] for layer in Layout(layout).check().manifest["layers"]
    }
    assert types == {{"gzip": "gzip", "zstd": "zstd", "uncompressed": ""}[kind]}
    peers.copy(f"oci:{layout}:it", f"dir:{tmp_path / 'copy'}")


def test_tar_and_local_outputs(pybuild, busybox, tmp_path):
    """`-o tar` and `-o local` write the same files."""
    context = pybuild.context(
        "outputs",
        f"FROM {busybox}\nRUN mkdir /d && echo x > /d/f && chmod 600 /d/f && ln -s f /d/l && ln /d/f /d/h\n"
        "FROM scratch\nCOPY --from=0 /d /d\n",
    )
    directory, archive = pybuild.home / "out", pybuild.home / "out.tar"
    pybuild.good("-o", directory, "-o", f"type=tar,dest={archive}", context)
    with tarfile.open(archive) as tar:
        members = {member.name.rstrip("/"): member for member in tar}
        assert tar.extractfile("d/f").read() == b"x\n"
    assert sorted(members) == ["d", "d/f", "d/h", "d/l"]
    assert sorted(str(path.relative_to(directory)) for path in directory.rglob("*")) == sorted(
        members
    )
    assert stat.S_IMODE((directory / "d/f").stat().st_mode) == 0o600
    assert (directory / "d/f").stat().st_ino == (directory / "d/h").stat().st_ino
    assert os.readlink(directory / "d/l") == "f"


def test_docker_and_oci_archives(pybuild, busybox, short_directory):
    """Podman loads and runs both kinds of archive; skopeo reads them."""
    context = pybuild.context(
        "archives", f'FROM {busybox}\nRUN echo there > /x\nCMD ["cat", "/x"]\n'
    )
    for kind in ("docker", "oci"):
        archive = pybuild.home / f"{kind}.tar"
        pybuild.good("-t", f"local.test/{kind}:1", "-o", f"type={kind},dest={archive}", context)
        archive.chmod(0o644)
        shown = peers.inspect(f"{kind}-archive:{archive}")
        assert shown["Os"] == "linux"
        loaded = peers.podman(short_directory, "load", "-i", archive).stdout
        assert f"local.test/{kind}:1" in loaded
        if os.geteuid() == 0:  # rootless podman wants a cgroup manager to run with
            assert peers.podman_run(short_directory, f"local.test/{kind}:1").stdout == "there\n"


def test_archive_on_standard_output(pybuild, busybox, tmp_path):
    """`-o -` writes nothing but the tar to standard output."""
    context = pybuild.context("stdout", "FROM scratch\nCOPY Dockerfile /here\n")
    with (tmp_path / "out.tar").open("wb") as file:
        subprocess.run(
            pybuild.command("-o", "-", context),
            stdout=file,
            env=pybuild.environ(),
            cwd=pybuild.home,
            check=True,
        )
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == ["here"]
