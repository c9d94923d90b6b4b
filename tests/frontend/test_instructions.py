"""Typed instructions: every shape, every mistake with its wording, and fuzzing (P03-P44, 1.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.dockerfile import instructions, syntax
from frontend.dockerfile.duration import parse_duration
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.syntax import Command, Directives, MountOption
from frontend.source import DockerfileError, SourceFile


def parsed(text):
    return instructions.parse_dockerfile(SourceFile("Dockerfile", text)).instructions


def one(line):
    _, instruction = parsed(f"FROM x\n{line}\n")
    return instruction


def failure(text):
    with pytest.raises(DockerfileError) as caught:
        parsed(text)
    return [(d.span.start, d.message, d.hint) for d in caught.value.diagnostics]


def test_from():
    """FROM takes a platform and a stage name, which is lower-cased (F01, P44)."""
    (first,) = parsed("FROM --platform=$BUILDPLATFORM a:b as Build-1._x")
    assert (first.image, first.platform, first.stage) == ("a:b", "$BUILDPLATFORM", "build-1._x")
    assert parsed("FROM scratch")[0].stage == ""


@pytest.mark.parametrize(
    ("rest", "words", "shell_form"),
    [
        ("", ("",), True),
        ("  a   b  ", ("a   b",), True),
        ('["a", "b\\n\\u00e9"]', ("a", "b\né"), False),
        ("[]", (), False),
        ('[ "a" ,"b" ] ', ("a", "b"), False),
        ("['a']", ("['a']",), True),
        ('["a"] x', ('["a"] x',), True),
        ('["a",]', ('["a",]',), True),
        ('["a"', ('["a"',), True),
        ("[NaN]", ("[NaN]",), True),
        ('["\t"]', ('["\t"]',), True),
        ('["\\ud800"]', ("\ufffd",), False),
    ],
)
@pytest.mark.parametrize("keyword", ["RUN", "CMD", "ENTRYPOINT"])
def test_commands(keyword, rest, words, shell_form):
    """Strict JSON arrays are the exec form, anything else is one text (P40, 1.7)."""
    assert one(f"{keyword} {rest}").command == Command(words, shell_form)


def test_run_flags():
    """RUN keeps mounts in order, network and security (M01, R20, R21)."""
    run = one(
        "RUN --mount=type=cache,target=/c --mount='\"target=/a,b\"',RO,src=$x "
        "--network=none --security=insecure true"
    )
    assert run.mounts == (
        (MountOption("type", "cache"), MountOption("target", "/c")),
        (MountOption("target", "/a,b"), MountOption("ro", None), MountOption("src", "$x")),
    )
    assert (run.network, run.security, run.command.words) == ("none", "insecure", ("true",))


def test_copy():
    """COPY splits at blanks without quoting; flags keep their text (1.5, 3.3)."""
    copy = one(
        'COPY --from=a --chown=1:2 --chmod=$M --link --parents=FALSE --exclude=*.a --exclude=b "a b" c'
    )
    assert (copy.sources, copy.dest) == (('"a', 'b"'), "c")
    assert (copy.source_from, copy.owner, copy.mode) == ("a", "1:2", "$M")
    assert (copy.link, copy.parents, copy.excludes, copy.unpack) == (
        True,
        False,
        ("*.a", "b"),
        None,
    )
    assert one('COPY ["a b", "c"]').sources == ("a b",)
    assert one("COPY --from= a b").source_from == ""
    assert one("COPY -- a /b").sources == ("a",)


def test_add():
    """ADD has a checksum and switches of its own (A01)."""
    add = one("ADD --checksum=sha256:x --keep-git-dir --unpack=false a b")
    assert (add.checksum, add.keep_git_dir, add.unpack) == ("sha256:x", True, False)
    assert one("ADD --unpack a b").unpack is True


def test_copy_heredocs_are_files():
    """Heredoc words leave the sources; tabs are stripped for `<<-`; the last body wins (P54, P55)."""
    copy = one("COPY <<-A x <<'B' <<B /d/\n\t\ta\n\tb\tc\nA\n1\nB\n2\nB")
    assert copy.sources == ("x",)
    assert [(h.name, h.body, h.expand) for h in copy.heredocs] == [
        ("A", "a\nb\tc\n", True),
        ("B", "2\n", True),
        ("B", "2\n", True),
    ]


def test_run_heredocs_stay_raw():
    """RUN keeps the raw body, the shell strips tabs itself (P54, P57)."""
    run = one("RUN cat <<-A\n\ta\n\tA")
    assert (run.command.words, run.heredocs[0].body) == (("cat <<-A",), "\ta\n")


@pytest.mark.parametrize(
    ("line", "pairs", "legacy"),
    [
        ("ENV a=b c=d", (("a", "b"), ("c", "d")), False),
        ("ENV a=\"b c\" d='e'", (("a", '"b c"'), ("d", "'e'")), False),
        ("ENV a b=c  d", (("a", "b=c  d"),), True),
        ("ENV a=", (("a", ""),), False),
        ("ENV a=b=c", (("a", "b=c"),), False),
        ("LABEL a=x\\\n   y=z", (("a", "x"), ("y", "z")), False),
        ('LABEL a="x\\\n   y"', (("a", '"x   y"'),), False),
        ("LABEL a=b\\\\", (("a", "b\\\\"),), False),
        ('LABEL "a b"=c', (('"a b"', "c"),), False),
    ],
)
def test_pairs(line, pairs, legacy):
    """ENV and LABEL take words or the old form; quotes stay for expansion (1.5, 1.7)."""
    found = one(line)
    assert (found.pairs, found.legacy) == (pairs, legacy)


def test_arg():
    """ARG takes any number of names, may stand before FROM and swallows flags (P34, V32)."""
    first, _ = parsed('ARG --x a b= c="d e"\nFROM x')
    assert first.args == (("a", None), ("b", ""), ("c", '"d e"'))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("EXPOSE 80 $P 5-6/udp", ("80", "$P", "5-6/udp")),
        ("VOLUME a b", ("a", "b")),
        ('VOLUME [" /a b ", "c"]', ("/a b", "c")),
        ('SHELL ["a", "-c"]', ("a", "-c")),
    ],
)
def test_words(line, expected):
    """EXPOSE, VOLUME and SHELL are lists of words (1.5)."""
    assert one(line).words == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("USER a b", "a b"),
        ('USER ""', '""'),
        ("WORKDIR  /a  b ", "/a  b"),
        ("STOPSIGNAL --x $S", "$S"),
        ("MAINTAINER A B <c@d>", "A B <c@d>"),
    ],
)
def test_texts(line, expected):
    """The rest of the line is one text (1.5, 1.7)."""
    assert one(line).text == expected


def test_healthcheck():
    """HEALTHCHECK reads durations in Go's syntax and both forms of commands (I09)."""
    check = one(
        "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=0 --start-interval=1ms "
        "--retries=3 cmd\tcurl  x"
    )
    assert (check.interval, check.timeout) == (90 * 10**9, 1_500_000_000)
    assert (check.start_period, check.start_interval, check.retries) == (0, 10**6, 3)
    assert check.command == Command(("curl  x",), shell_form=True)
    assert one('HEALTHCHECK CMD ["a"]').command == Command(("a",), shell_form=False)
    for line in ("HEALTHCHECK NONE", "HEALTHCHECK --interval=x none"):
        assert one(line).none
        assert one(line).command is None


def test_onbuild_stores_the_text():
    """Triggers are stored as written, heredoc bodies behind them; unknown ones pass (I13, P59)."""
    assert one("ONBUILD  run  a \\\n  b").trigger == "run  a   b"
    assert one("ONBUILD foo x").trigger == "foo x"
    assert one("ONBUILD RUN <<-'E'\n\ta\n\tE").trigger == "RUN <<-'E'\n\ta\nE"


def test_triggers_are_read_again():
    """A stored trigger becomes the instruction it says (I13, P59)."""
    stored = one("ONBUILD COPY <<E /x\na\nE").trigger
    copy = instructions.parse_trigger(stored, Directives())
    assert isinstance(copy, syntax.Copy)
    assert copy.heredocs[0].body == "a\n"
    run = instructions.parse_trigger("# escape=`\nRUN a", Directives())
    assert run.command.words == ("a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("# c", "single"),
        ("RUN a\nRUN b", "single"),
        ("FROM x", "isn't allowed"),
        ("ONBUILD RUN x", "isn't allowed"),
        ("MAINTAINER x", "isn't allowed"),
        ("foo x", "unknown instruction: foo"),
        ("RUN <<EOF\nx", "unterminated"),
    ],
)
def test_bad_triggers(text, message):
    """Triggers of foreign images may be anything; only one allowed instruction passes (I13)."""
    with pytest.raises(MistakeError, match=message):
        instructions.parse_trigger(text, Directives())


MISTAKES = [
    ("FROM", "FROM requires either one or three arguments"),
    ("FROM x AS A B", "FROM requires either one or three arguments"),
    ("FROM x foo y", "FROM requires either one or three arguments"),
    (
        "FROM x AS 1a",
        'invalid name for build stage: "1a", name can\'t start with a number or contain symbols',
    ),
    (
        "FROM x AS a/b",
        'invalid name for build stage: "a/b", name can\'t start with a number or contain symbols',
    ),
    ("FROM --platform x", "missing a value on flag: --platform"),
    ("CMD --x y", "unknown flag: --x"),
    ("MAINTAINER --boo x", "unknown flag: --boo"),
    ("ENV --x a=b", "unknown flag: --x"),
    ("ONBUILD --x RUN y", "unknown flag: --x"),
    ("COPY --LINK a b", "unknown flag: --LINK"),
    ("COPY --from a b", "missing a value on flag: --from"),
    ("COPY --link= a b", "missing a value on flag: --link"),
    ("COPY --link=yes a b", "expecting boolean value for flag: --link, not: yes"),
    ("COPY --link --link a b", "duplicate flag specified: --link"),
    ("COPY --checksum=x a b", "unknown flag: --checksum"),
    ("ADD --from=x a b", "unknown flag: --from"),
    (
        "COPY a",
        "COPY requires at least two arguments, but only one was provided; destination could not be determined",
    ),
    (
        "COPY",
        "COPY requires at least two arguments, but none was provided; destination could not be determined",
    ),
    ("COPY [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
    ("COPY --from=$x a b", "variable expansion is not supported for --from=$x"),
    ("COPY a <<E\nE", "COPY cannot accept a heredoc as a destination"),
    ('COPY ["<<E", "/x"]', '"<<E" announces a heredoc that has no body'),
    ("COPY << E /x\nE", 'heredoc "E" is not a source of COPY'),
    ("COPY <<../x /y\n../x", 'heredoc "../x" of COPY does not have the name of a file'),
    ("COPY <<.. /y\n..", 'heredoc ".." of COPY does not have the name of a file'),
    ('CMD ["a", null]', "when using JSON array syntax, arrays must be comprised of strings only"),
    ("CMD [[]]", "when using JSON array syntax, arrays must be comprised of strings only"),
    ("SHELL a", "SHELL requires the arguments to be in JSON form"),
    ("SHELL", "SHELL requires at least one argument"),
    ("SHELL []", "SHELL requires at least one argument"),
    ("USER", "USER requires exactly one argument"),
    ("WORKDIR", "WORKDIR requires exactly one argument"),
    ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
    ("MAINTAINER", "MAINTAINER requires exactly one argument"),
    ("ENV", "ENV requires at least one argument"),
    ("LABEL", "LABEL requires at least one argument"),
    ("ARG", "ARG requires at least one argument"),
    ("EXPOSE", "EXPOSE requires at least one argument"),
    ("VOLUME", "VOLUME requires at least one argument"),
    ("VOLUME []", "VOLUME requires at least one argument"),
    ('VOLUME ["a", " "]', "VOLUME specified can not be an empty string"),
    ("ONBUILD", "ONBUILD requires at least one argument"),
    ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
    ("ENV a", "ENV must have two arguments"),
    ("LABEL a=1 # c", 'syntax error - can\'t find = in "#", must be of the form: name=value'),
    (
        "LABEL a=${v?msg here}",
        'syntax error - can\'t find = in "here}", must be of the form: name=value',
    ),
    ("ENV =x", "ENV names can not be blank"),
    ("ARG =x", "ARG names can not be blank"),
    ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
    ("HEALTHCHECK CMD", "missing command after HEALTHCHECK CMD"),
    ("HEALTHCHECK CMD []", "missing command after HEALTHCHECK CMD"),
    ("HEALTHCHECK FOO x", 'unknown type "FOO" in HEALTHCHECK'),
    ("HEALTHCHECK --timeout=1us CMD x", 'interval "timeout" cannot be less than 1ms'),
    ("HEALTHCHECK --timeout=-1s CMD x", 'interval "timeout" cannot be less than 1ms'),
    ("HEALTHCHECK --timeout=1e9h CMD x", '--timeout: invalid duration "1e9h"'),
    (
        "HEALTHCHECK --timeout=9223372036854775808ns CMD x",
        '--timeout: invalid duration "9223372036854775808ns"',
    ),
    ("HEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
    ("HEALTHCHECK --retries=x CMD x", '--retries: "x" is not a number'),
    ("HEALTHCHECK --retries=99999999999 CMD x", "--retries: 99999999999 is out of range"),
    ("ONBUILD ONBUILD RUN x", "chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
    ("ONBUILD from x", "FROM isn't allowed as an ONBUILD trigger"),
    ("ONBUILD MAINTAINER x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
    ("RUN --network=foo x", 'invalid network mode "foo"'),
    ("RUN --security=foo x", 'security "foo" is not valid'),
    (
        "RUN --device=a x",
        "device feature is only supported in Dockerfile frontend 1.14.0-labs or later",
    ),
    (
        "RUN --mount=from=$a,target=/x x",
        "'from' doesn't support variable expansion, define alias stage instead",
    ),
    ('RUN --mount=target=\\"a x', 'misplaced " in "target="a"'),
    ("RUN --mount= x", "--mount has no options"),
    ("FOO x", "unknown instruction: FOO"),
    ('CMD ["a",\n"b"]', 'unknown instruction: "b"]'),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_mistakes(line, message):
    """Each mistake has the known wording and the place of its line (P32-P34, P40-P44, 1.7)."""
    number = 3 if line.startswith('CMD ["a",\n') else 2
    found = failure(f"FROM x\n{line}\n")
    assert [entry[:2] for entry in found] == [(number, message)]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("FORM x", 'did you mean "FROM"?'),
        ("cpoy a b", 'did you mean "COPY"?'),
        ("COPY --chwon=1 a b", 'did you mean "chown"?'),
        ("RUN --network=hots y", 'did you mean "host"?'),
    ],
)
def test_suggestions(line, hint):
    """Misspelt instructions, flags, mount keys and values get a suggestion (P05)."""
    assert failure(f"FROM x\n{line}")[0][2] == hint


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", 1, "the Dockerfile cannot be empty"),
        ("\n# c\n", 2, "file with no instructions"),
        ("ARG a", 1, "dockerfile contains no stages to build"),
        ("ARG a\nRUN x\nFROM y", 2, "no build stage in current context"),
    ],
)
def test_files_without_stages(text, place, message):
    """Files that cannot have a stage say so (P03, P04)."""
    assert failure(text)[0][:2] == (place, message)


def test_all_mistakes_are_reported_in_order():
    """One pass reports the mistakes of all lines, those of the shape of lines first (P05)."""
    text = "# escape=x\nFROM a\nRUNN b\nCOPY c\nRUN <<EOF\nx\n"
    assert [place for place, *_ in failure(text)] == [1, 5, 3, 4]


def test_the_number_of_reported_mistakes_is_limited():
    """A file of nonsense does not produce endless reports (G13)."""
    assert len(failure("x\n" * 10_000)) == 100


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1h2m3.5s", 3723_500_000_000),
        ("1us", 1000),
        ("1.9999999999s", 1_999_999_999),
        ("1.9999999999999999999s", 2_000_000_000),
        ("-1.5h", -5400 * 10**9),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("0", 0),
        ("+1ns", 1),
    ],
)
def test_durations(text, nanoseconds):
    """Durations follow Go's syntax (I09)."""
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text", ["", "-", "1", "s", ".s", "1x", "1s2", " 1s", "1 s", "1" * 40 + "s"]
)
def test_bad_durations(text):
    """What Go refuses is refused (I09, G11)."""
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


SEED = """# syntax=docker/dockerfile:1
ARG V=1
FROM --platform=$BUILDPLATFORM debian:${V} AS build
RUN --mount=type=cache,target=/x,sharing=locked <<-'EOF' cat
\techo
EOF
ENV a=b c="d e" \\
  # comment

  f='g'
COPY --from=build --chown=1:2 ["a", "b"]
ONBUILD ADD <<A /x
A
HEALTHCHECK --interval=5s CMD ["x"]
SHELL ["/bin/sh", "-c"]
EXPOSE 80/tcp
"""


def accept(text):
    try:
        parsed(text)
    except DockerfileError as refusal:
        rendered = refusal.render()
    else:
        return
    assert rendered


@given(st.text(max_size=200))
def test_arbitrary_text_is_read_or_refused(text):
    """No text makes anything but a DockerfileError (G13)."""
    accept(text)
    accept(f"FROM x\n{text}")


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(SEED)),
            st.integers(0, 20),
            st.one_of(
                st.sampled_from(
                    [
                        "\\",
                        "\n",
                        "<<",
                        '"',
                        "'",
                        "[",
                        "]",
                        "--",
                        "=",
                        "$",
                        "{",
                        "`",
                        "\r",
                        "\0",
                        "\ufeff",
                        "# escape=`\n",
                    ]
                ),
                st.text(max_size=3),
            ),
        ),
        max_size=6,
    )
)
def test_mutants_are_read_or_refused(edits):
    """Damaged Dockerfiles make nothing but a DockerfileError (G13)."""
    text = SEED
    for position, length, replacement in edits:
        text = text[:position] + replacement + text[position + length :]
    accept(text)


@given(
    st.sampled_from(
        [
            "RUN",
            "COPY",
            "ADD",
            "ENV",
            "ARG",
            "LABEL",
            "HEALTHCHECK",
            "ONBUILD",
            "FROM",
            "SHELL",
            "VOLUME",
            "CMD",
        ]
    ),
    st.text("ab =\"'\\<->[],$#:\n1", max_size=40),
)
def test_any_arguments_are_read_or_refused(keyword, rest):
    """Arguments from the characters that matter make nothing but a DockerfileError (G13)."""
    accept(f"FROM x\n{keyword} {rest}")
