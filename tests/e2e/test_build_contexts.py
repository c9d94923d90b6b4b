"""Contexts of every kind, built: standard input, URLs, git, and named ones of all sources."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import tarfile

import pytest
import zstandard
from support import peers
from support.file_server import file_server
from support.git_server import GitServer, Repo
from support.layout_files import Layout

COPY_ALL = "FROM scratch\nCOPY . /x/\n"
PACKERS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.compress,
}


@pytest.fixture
def server():
    """A file server on loopback."""
    with file_server() as running:
        yield running


@pytest.fixture
def repository(tmp_path):
    """A git repository with a Dockerfile at its root and one in a directory."""
    server = GitServer(tmp_path / "git")
    repo = Repo(server, "app")
    repo.commit(
        {
            "Dockerfile": COPY_ALL,
            ".dockerignore": "*\n",
            "a": "root\n",
            "sub/dockerfile": "FROM scratch\nCOPY b /b\n",
            "sub/b": "below\n",
        }
    )
    yield repo
    server.close()


def archive(files, owner=1000):
    """A tar of text files."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.uid = member.gid = owner
            member.size = len(text)
            member.mtime = 1_500_000_000
            tar.addfile(member, io.BytesIO(text.encode()))
    return sink.getvalue()


def built(pybuild, *arguments, stdin=None):
    """Build, and give the files of the result: path to content."""
    target = pybuild.home / "out.tar"
    pybuild.good(*arguments, "-o", f"type=tar,dest={target}", stdin=stdin)
    with tarfile.open(target) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}
    return {name: data.decode(errors="replace") for name, data in files.items()}


def refused(pybuild, *arguments, stdin=None):
    """Build, require a failure, and give what was said."""
    done = pybuild.run(*arguments, stdin=stdin)
    assert done.code in {1, 2}, done.err
    assert "Traceback" not in done.err
    return done.err


@pytest.mark.parametrize("packer", sorted(PACKERS))
def test_tar_on_standard_input(pybuild, packer):
    """B02, D02: an archive of any compression is the context; its .dockerignore does not count."""
    data = archive({"Dockerfile": COPY_ALL, "a": "1\n", ".dockerignore": "a\n"})
    files = built(pybuild, "-", stdin=PACKERS[packer](data))
    assert files["x/a"] == "1\n"
    assert set(files) == {"x/Dockerfile", "x/a", "x/.dockerignore"}


def test_tar_on_standard_input_with_file(pybuild):
    """B02, B08: -f is a path inside the archive, `dockerfile` stands in for `Dockerfile`."""
    data = archive({"d/My": "FROM scratch\nCOPY a /m\n", "e/dockerfile": COPY_ALL, "a": "1\n"})
    assert built(pybuild, "-f", "d/My", "-", stdin=data) == {"m": "1\n"}
    assert "x/a" in built(pybuild, "-f", "e/Dockerfile", "-", stdin=data)
    assert "x/a" in built(pybuild, "-f", "/e/dockerfile", "-", stdin=data)
    assert "failed to read dockerfile: open Dockerfile" in refused(pybuild, "-", stdin=data)
    assert "open no/Such" in refused(pybuild, "-f", "no/Such", "-", stdin=data)


def test_tar_from_standard_input_is_cached(pybuild):
    """K03: the same archive again runs nothing; a changed file is a miss."""
    data = archive({"Dockerfile": COPY_ALL, "a": "1\n"})
    pybuild.good("-", stdin=data)
    assert "0 steps run" in pybuild.good("-", stdin=gzip.compress(data)).err
    other = archive({"Dockerfile": COPY_ALL, "a": "2\n"})
    assert "1 step run" in pybuild.good("-", stdin=other).err


def test_hostile_tar_on_standard_input(pybuild, tmp_path):
    """X01: links and `..` of an archive lead nowhere outside its tree."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        link = tarfile.TarInfo("Dockerfile")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        tar.addfile(link)
        for name in ("../up", "/abs"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "secret").write_text("FROM scratch\n# secret\n")
    said = refused(pybuild, "-", stdin=sink.getvalue())
    assert "secret" not in said.replace(str(tmp_path), "")


def test_truncated_archive_on_standard_input(pybuild):
    """B02: half an archive is an error that says so."""
    noise = "".join(hashlib.sha256(b"%d" % n).hexdigest() for n in range(2000))
    data = gzip.compress(archive({"Dockerfile": COPY_ALL, "a": noise}))
    assert "truncated" in refused(pybuild, "-", stdin=data[: len(data) // 2])


def test_dockerfile_on_standard_input(pybuild):
    """B03: text is the Dockerfile of an empty context."""
    assert built(pybuild, "-", stdin=b"FROM scratch\nCOPY . /x/\nCOPY <<EOF /y\nhi\nEOF\n") == {
        "y": "hi\n"
    }
    assert '"/a": not found' in refused(pybuild, "-", stdin=b"FROM scratch\nCOPY a /\n")
    assert "ambiguous" in refused(pybuild, "-f", "x", "-", stdin=b"FROM scratch\n")
    assert "empty" in refused(pybuild, "-", stdin=b"")


def test_both_on_standard_input(pybuild):
    """B03: standard input cannot be the context and the Dockerfile."""
    assert "can't use stdin for both" in refused(pybuild, "-f", "-", "-", stdin=b"FROM scratch\n")


def test_dockerfile_on_standard_input_with_directory(pybuild):
    """B04: -f - takes the context as it is, with its ignore file."""
    context = pybuild.context(
        "dir", "FROM no/such\n", {"a": "1\n", "b": "2", ".dockerignore": "b\n"}
    )
    files = built(pybuild, "-f", "-", context, stdin=COPY_ALL.encode())
    assert set(files) == {"x/a", "x/Dockerfile", "x/.dockerignore"}


def test_dockerfile_by_url(pybuild, server):
    """B05: -f takes a URL of at most 2 MB."""
    context = pybuild.context("dir", "FROM no/such\n", {"a": "1\n"})
    server.files["/My"] = b"FROM scratch\nCOPY a /\n"
    server.files["/big"] = b"#" * (2 * 1024 * 1024 + 1)
    assert built(pybuild, "-f", f"{server.url}/My", context) == {"a": "1\n"}
    assert "larger than" in refused(pybuild, "-f", f"{server.url}/big", context)
    assert "404" in refused(pybuild, "-f", f"{server.url}/none", context)


def test_archive_by_url(pybuild, server):
    """B07, B08: an archive is the context; owners in it are kept, as in the reference."""
    server.files["/a.tgz"] = gzip.compress(archive({"dockerfile": COPY_ALL, "a": "1\n"}))
    url = f"{server.url}/a.tgz"
    assert set(built(pybuild, url)) == {"x/a", "x/dockerfile"}
    with tarfile.open(pybuild.home / "out.tar") as tar:
        assert tar.getmember("x/a").uid == 1000
    assert server.requests == ["/a.tgz"]
    assert "0 steps run" in pybuild.good(url).err
    assert server.requests == ["/a.tgz"], "asked again with its ETag only"


def test_archive_by_url_with_local_dockerfile(pybuild, server):
    """B05: a relative -f is inside the archive, an absolute one is a file here, - is standard input."""
    server.files["/a.tar"] = archive({"d/My": "FROM scratch\nCOPY a /m\n", "a": "1\n"})
    context = pybuild.context("here", "FROM scratch\nCOPY a /here\n")
    url = f"{server.url}/a.tar"
    assert built(pybuild, "-f", "d/My", url) == {"m": "1\n"}
    assert built(pybuild, "-f", context / "Dockerfile", url) == {"here": "1\n"}
    assert built(pybuild, "-f", "-", url, stdin=b"FROM scratch\nCOPY a /in\n") == {"in": "1\n"}


def test_dockerfile_as_context_by_url(pybuild, server):
    """B07: what is no archive is the Dockerfile; the file itself is all there is to copy."""
    server.files["/x/Df"] = COPY_ALL.encode()
    assert built(pybuild, f"{server.url}/x/Df") == {"x/context": COPY_ALL}
    assert "404" in refused(pybuild, f"{server.url}/none")


def test_git_context(pybuild, repository):
    """B06, D02: a repository is the context, with its files and without its ignore file's rules."""
    files = built(pybuild, repository.url)
    assert files["x/a"] == "root\n"
    assert "x/sub/b" in files
    assert not any(name.startswith("x/.git/") for name in files)
    assert "0 steps run" in pybuild.good(repository.url).err


@pytest.mark.parametrize("tail", ["#main:sub", "#:sub", "?branch=main&subdir=sub"])
def test_git_context_in_a_directory(pybuild, repository, tail):
    """B06, B08: fragment and query choose a reference and a directory."""
    assert built(pybuild, repository.url + tail) == {"b": "below\n"}


def test_git_context_keeps_its_directory(pybuild, repository):
    """B06: BUILDKIT_CONTEXT_KEEP_GIT_DIR brings .git."""
    files = built(pybuild, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", repository.url)
    assert "x/.git/HEAD" in files


def test_git_context_that_is_not_there(pybuild, repository):
    """B06: an unknown reference, directory or Dockerfile is named."""
    assert "nope" in refused(pybuild, f"{repository.url}#nope")
    assert "open Dockerfile" in refused(pybuild, "-f", "sub/Dockerfile2", repository.url).replace(
        "sub/Dockerfile2", "Dockerfile"
    )


def created(pybuild, *arguments, stdin=None, name="context"):
    """The time that SOURCE_DATE_EPOCH with this name gives an image."""
    layout = pybuild.home / "dated"
    output = f"type=oci,tar=false,dest={layout}"
    epoch = ("--build-arg", f"SOURCE_DATE_EPOCH={name}")
    pybuild.good(*epoch, "-t", "dated", "-o", output, *arguments, stdin=stdin)
    time = Layout(layout).config["created"]
    shutil.rmtree(layout)
    return time


def test_epoch_of_the_context(pybuild, repository, server):
    """O20: a commit's time, a Last-Modified, the newest file of an archive."""
    data = archive({"Dockerfile": COPY_ALL, "a": "1\n"})
    server.files["/a.tar"] = data
    assert created(pybuild, repository.url) == "2020-09-13T12:26:40Z"
    assert created(pybuild, f"{server.url}/a.tar") == "2020-09-13T12:26:40Z"
    assert created(pybuild, "-", stdin=data) == "2017-07-14T02:40:00Z"
    text = f"FROM scratch AS dated\nADD {server.url}/a.tar /\nFROM scratch\nCOPY <<E /f\nE\n"
    context = pybuild.context("main", text)
    named = ("--build-context", f"n={repository.url}")
    assert created(pybuild, *named, context, name="n") == "2020-09-13T12:26:40Z"
    assert created(pybuild, context, name="dated") == "2020-09-13T12:26:40Z"
    said = refused(pybuild, "--build-arg", "SOURCE_DATE_EPOCH=soon", context)
    assert "invalid SOURCE_DATE_EPOCH 'soon'" in said


def test_no_context(pybuild):
    """B01: what is neither a directory nor a URL is named."""
    assert 'unable to prepare context: path "nowhere" not found' in refused(pybuild, "nowhere")


NAMED = """\
FROM {base}
RUN --mount=from=n,target=/m cat /m/f > /mounted
COPY --from=n f /copied
FROM n
COPY --from=0 /mounted /copied /
"""


def test_named_directories(pybuild, busybox):
    """S07, T91: COPY, a mount and FROM read a directory; its own ignore file counts; two at once."""
    other = pybuild.context(
        "n", "x", {"f": "named\n", "skip": "", ".dockerignore": "skip\nDock*\n"}
    )
    third = pybuild.context("m", "x", {"g": "third\n"})
    text = NAMED.format(base=busybox) + "COPY --from=m g /g\nCOPY a /a\n"
    main = pybuild.context("main", text, {"a": "main\n"})
    arguments = ("--build-context", f"n={other}", "--build-context", f"m={third}", main)
    assert built(pybuild, *arguments) == {
        "f": "named\n",
        ".dockerignore": "skip\nDock*\n",
        "mounted": "named\n",
        "copied": "named\n",
        "g": "third\n",
        "a": "main\n",
    }
    assert "0 steps run" in pybuild.good(*arguments).err
    (third / "g").write_text("changed\n")
    done = pybuild.good("--explain", *arguments)
    assert done.ending("DONE") == ["COPY --from=m g /g", "COPY a /a"]
    assert "content of source 1 changed" in done.err


def test_named_directory_that_is_not_there(pybuild):
    """S07: a missing directory is named when it is used, and does not matter when it is not."""
    context = pybuild.context(
        "main", "FROM scratch AS a\nCOPY --from=n f /\nFROM scratch\nCOPY a /\n"
    )
    (context / "a").write_text("x")
    said = refused(pybuild, "--build-context", "n=/no/such", "--target", "a", context)
    assert "n" in said
    assert '"/no/such" not found' in said
    pybuild.good("--build-context", "n=/no/such", context)


def test_named_image(pybuild, busybox):
    """S07, T90: an image stands in for a stage and for another image, with its config."""
    text = "FROM no.such/image AS base\nRUN false\nFROM alpine:latest\nCOPY --from=base /etc/passwd /p\n"
    context = pybuild.context("main", text)
    image = f"docker-image://{busybox}"
    named = (
        "--build-context",
        f"base={image}",
        "--build-context",
        f"docker.io/library/alpine={image}",
    )
    assert "p" in built(pybuild, *named, context)
    (context / "Dockerfile").write_text("FROM alpine\nCOPY Dockerfile /\n")
    assert built(pybuild, "--build-context", "alpine=docker-image://scratch", context).keys() == {
        "Dockerfile"
    }


def test_named_layout(pybuild, busybox, tmp_path):
    """T92: layouts of our own and of skopeo, by tag, by digest and without either."""
    own = pybuild.home / "own"
    first = pybuild.context("first", f"FROM {busybox}\nENV A=b\nRUN echo made > /made\n")
    digest = pybuild.good("-o", f"type=oci,tar=false,dest={own}", first).manifest
    copied = pybuild.home / "copied"
    peers.copy(f"docker://{busybox}", f"oci:{copied}:v1")
    pybuild.own(copied)
    context = pybuild.context("main", "FROM base\nRUN echo $A > /a\n")
    for tail in ("", ":latest", f"@{digest}", f":other@{digest}"):
        files = built(pybuild, "--build-context", f"base=oci-layout://{own}{tail}", context)
        assert (files["made"], files["a"]) == ("made\n", "b\n")
    assert "bin/busybox" in built(
        pybuild, "--build-context", f"base=oci-layout://{copied}:v1", context
    )


def test_named_layout_that_cannot_be_used(pybuild):
    """T92: a directory without a layout, a missing one and a wrong blob are told apart."""
    own = pybuild.home / "own"
    first = pybuild.context("first", "FROM scratch\nCOPY a /\n", {"a": "1"})
    pybuild.good("-o", f"type=oci,tar=false,dest={own}", first)
    context = pybuild.context("main", "FROM base\nCOPY b /\n", {"b": "2"})

    def said(text):
        return refused(pybuild, "--build-context", f"base=oci-layout://{text}", context)

    assert "no such file" in said("/no/such")
    assert "not an OCI layout" in said(context)
    assert "has no image" in said(f"{own}@sha256:{'a' * 64}")
    for blob in (own / "blobs/sha256").iterdir():
        size = blob.stat().st_size
        blob.chmod(0o644)
        blob.write_bytes(b"x" * size)
    fresh = pybuild.with_state("fresh")
    assert "digest" in refused(fresh, "--build-context", f"base=oci-layout://{own}", context)


def test_named_url(pybuild, server):
    """S07: a URL is one file called `context`, whatever it holds, as in the reference."""
    server.files["/f"] = b"remote\n"
    context = pybuild.context("main", "FROM n\nCOPY --from=n context /copy\n")
    files = built(pybuild, "--build-context", f"n={server.url}/f", context)
    assert files == {"context": "remote\n", "copy": "remote\n"}
    assert server.requests == ["/f"]
    said = refused(pybuild, "--build-context", f"n={server.url}/none", context)
    assert "404" in said


def test_named_git(pybuild, repository):
    """S07: a repository to copy from and to build on."""
    context = pybuild.context("main", "FROM n\nCOPY --from=n b /copy\n")
    files = built(pybuild, "--build-context", f"n={repository.url}#main:sub", context)
    assert files == {"dockerfile": "FROM scratch\nCOPY b /b\n", "b": "below\n", "copy": "below\n"}


def test_named_stage(pybuild):
    """S07: target: takes a stage of the same file."""
    text = "FROM app AS final\nCOPY a /last\nFROM scratch AS dev\nCOPY a /dev\n"
    context = pybuild.context("main", text, {"a": "1"})
    arguments = ("--target", "final", "--build-context", "app=target:dev", context)
    assert set(built(pybuild, *arguments)) == {"dev", "last"}
