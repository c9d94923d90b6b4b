"""Builds that could be taken for one another: what the second gives is what a cold build gives (S-J)."""

from __future__ import annotations

import json
import os

import pytest

from builder import cli


class Builder:
    """Builds a context with one store after another; nothing of it runs."""

    def __init__(self, place, monkeypatch):
        self._place = place
        self._monkeypatch = monkeypatch
        self._cold = 0
        self.context = place / "context"
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    def write(self, dockerfile, files):
        """Make the context's files anew."""
        for old in self.context.glob("*") if self.context.exists() else ():
            old.unlink()
        self.context.mkdir(exist_ok=True)
        (self.context / "Dockerfile").write_text(dockerfile)
        for name, text in files.items():
            (self.context / name).write_text(text)

    def build(self, state="warm", *flags):
        """Build; the digest of what came out."""
        self._monkeypatch.setenv("PYBUILD_ROOT", str(self._place / state))
        result = self._place / "result"
        output = f"type=oci,dest={self._place}/out.tar,rewrite-timestamp=true"
        words = ["-q", "--metadata-file", str(result), "-o", output, *flags, str(self.context)]
        assert cli.main(words) == 0
        return json.loads(result.read_text())["containerimage.digest"]

    def cold(self, *flags):
        """Build with an empty store."""
        self._cold += 1
        return self.build(f"cold{self._cold}", *flags)


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """A builder with a context of its own."""
    return Builder(tmp_path, monkeypatch)


FILES = {"f1": "one", "f2": "two"}
PAIRS = [
    ("COPY <<A <<B /d/\none\ntwo\nA\nthree\nB\n", "COPY <<A <<B /d/\none\nA\ntwo\nthree\nB\n"),
    ("COPY <<A /d/\nq\nA\n", "COPY <<B /d/\nq\nB\n"),
    ("ENV V=7\nCOPY <<'A' /d\n$V\nA\n", "ENV V=7\nCOPY <<A /d\n$V\nA\n"),
    ("COPY <<-A /d\n\tq\nA\n", "COPY <<A /d\n\tq\nA\n"),
    ("ARG V=1\nCOPY f$V /d\n", "ARG V=2\nCOPY f$V /d\n"),
    ("ENV V=1\nCOPY f1 /d$V\n", "ENV V=2\nCOPY f1 /d$V\n"),
    ("ARG V=1\nCOPY --chown=$V f1 /d\n", "ARG V=2\nCOPY --chown=$V f1 /d\n"),
    ("ENV V=1\nCOPY --chmod=60$V f1 /d\n", "ENV V=2\nCOPY --chmod=60$V f1 /d\n"),
    ("ARG V=1\nWORKDIR /w$V\n", "ARG V=2\nWORKDIR /w$V\n"),
    ("COPY . /d/\n", "COPY --exclude=f2 . /d/\n"),
    ("COPY f1 /d/\n", "COPY --parents f1 /d/\n"),
    ("ENV A=1,B=2\nWORKDIR /$A\n", "ENV A=1\nENV B=2\nWORKDIR /$A\n"),
    ('LABEL a="b c=d"\n', "LABEL a=b c=d\n"),
    ("HEALTHCHECK CMD a\n", "HEALTHCHECK CMD b\n"),
    ("VOLUME /a\n", "VOLUME /b\n"),
    ("COPY f1 f2 /d/\n", "COPY f2 f1 /d/\nCOPY f1 /d/f2\n"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_instructions_that_differ_share_no_result(builder, first, second):
    """S-J01, S-J05, S-J06, S-J07: framed keys hold every flag, value and body."""
    builder.write(f"FROM scratch\n{first}", FILES)
    before = builder.build()
    builder.write(f"FROM scratch\n{second}", FILES)
    after = builder.build()
    assert after != before
    assert after == builder.cold()


TREES = [
    ({"a": "bc", "d": ""}, {"a": "b", "cd": ""}),
    ({"a": "x\nb", "c": ""}, {"a": "x", "b\nc": ""}),
    ({"a": "x", "b": ""}, {"ax": "", "b": ""}),
    ({"a": "1", "b": "2"}, {"a": "2", "b": "1"}),
    ({"a": "\0b"}, {"a\nb": ""}),
]


@pytest.mark.parametrize(("first", "second"), TREES)
def test_trees_with_equal_concatenations_share_no_result(builder, first, second):
    """S-J09: names and contents have their own bounds in a content digest."""
    builder.write("FROM scratch\nCOPY . /d/\n", first)
    before = builder.build()
    builder.write("FROM scratch\nCOPY . /d/\n", second)
    after = builder.build()
    assert after != before
    assert after == builder.cold()


def _in_place(path, text):
    """Write other bytes of the same length, and give the file its old times."""
    status = path.stat()
    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _renamed(path, text):
    """Put another file in its place that looks the same."""
    status = path.stat()
    other = path.with_name("other")
    other.write_text(text)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


def _mapped(path, text):
    """Write through memory."""
    import mmap  # noqa: PLC0415 - once

    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = text.encode()


def _future(path, text):
    """A file from the year 2100, before and after."""
    path.write_text(text)
    os.utime(path, (4e9, 4e9))


@pytest.mark.parametrize("change", [_in_place, _renamed, _mapped, _future])
def test_a_file_that_looks_unchanged_is_read_again(builder, change):
    """S-J10: size and modification time are what an attacker, or rsync, chooses."""
    builder.write("FROM scratch\nCOPY f /f\nCOPY g /g\n", {"f": "one" * 2000, "g": "1"})
    path = builder.context / "f"
    if change is _future:
        os.utime(path, (4e9, 4e9))
    before = builder.build()
    assert builder.build() == before
    change(path, "eno" * 2000)
    after = builder.build()
    assert after != before
    assert after == builder.cold()


def test_a_build_argument_given_and_not_given(builder):
    """S-J13: unset, empty and set are three values; a default is a fourth."""
    builder.write("FROM scratch\nARG V\nCOPY <<E /d\n${V-unset}\nE\n", {})
    flags = [(), ("--build-arg", "V="), ("--build-arg", "V=unset2")]
    found = [builder.build("warm", *words) for words in flags]
    assert len(set(found)) == len(flags)
    assert found == [builder.cold(*words) for words in flags]


def test_the_ignore_file_counts_through_what_it_selects(builder):
    """S-J14: other files, another result; other words for the same files, the same one."""
    builder.write("FROM scratch\nCOPY . /d/\n", {**FILES, ".dockerignore": "f1\nDocker*\n.d*"})
    first = builder.build()
    (builder.context / ".dockerignore").write_text("f2\nDocker*\n.d*")
    second = builder.build()
    (builder.context / ".dockerignore").write_text("# all but f2\nDockerfile\n.d*\nf2")
    assert builder.build() == second != first
    assert builder.cold() == second
