"""Ignore rules against examples of the reference and an independent matcher (D03-D07, B11)."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend import ignore


def matcher(*lines):
    return ignore.IgnoreMatcher(ignore.parse_ignore("\n".join(lines), ".dockerignore"))


def cleaned(text):
    return [(p.text, p.reincludes) for p in ignore.parse_ignore(text, ".dockerignore")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeffa\r\n\n  b  \n", [("a", False), ("b", False)]),
        ("# c\n #d", [("#d", False)]),
        ("! a", [("a", True)]),
        ("./a/\n/b\n//c//d\na/../e\n../f", [(x, False) for x in ("a", "b", "c/d", "e", "../f")]),
        ("/\n.\n!.", [("/", False), (".", False), (".", True)]),
        ("!!a\n/!b", [("!a", True), ("!b", False)]),
    ],
)
def test_files_are_cleaned(text, expected):
    """Comments, blanks, `!` and paths are read as the reference does (D03)."""
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a\n!", 2, "illegal exclusion pattern"),
        ("a\n\n! ", 3, "illegal exclusion pattern"),
        ("\\C", 1, "is not a character"),
        ("!/", 1, "illegal exclusion pattern"),
        ("[a-", 1, "unclosed"),
        ("[^", 1, "unclosed"),
        ("[", 1, "unclosed"),
        ("[]", 1, "misplaced ]"),
        ("[a-]", 1, "misplaced ]"),
        ("[-a]", 1, "misplaced -"),
        ("[z-a]", 1, "ends before it begins"),
        ("[" + "a" * 1_000_000, 1, "more than"),
        ("a\\", 1, "last \\"),
        ("a**b" * 40, 1, "inside names"),
    ],
)
def test_bad_patterns_are_errors(text, line, message):
    """A bad pattern is an error with its line, its text is not shown (D03, D06, B11, B12)."""
    with pytest.raises(ignore.IgnoreSyntaxError, match=re.escape(message)) as caught:
        ignore.parse_ignore(text, "x.dockerignore")
    assert caught.value.message.startswith(f"x.dockerignore:{line}: ")


VERDICTS = [
    (["*.log"], ["a.log", "a.log/b"], ["d/a.log", "a.logs", "log"]),
    (["foo"], ["foo", "foo/bar"], ["a/foo", "foobar"]),
    (["**/foo"], ["foo", "a/foo", "a/b/foo/c"], ["a/xfoo"]),
    (["**foo"], ["foo", "a/foo", "xfoo", "a/xfoo"], ["foox"]),
    (["**.a/b"], ["x.a/b", ".a/b", "y/x.a/b"], ["b", "x.a/c"]),
    (["**"], ["a", "a/b"], []),
    (["a/**"], ["a/b", "a/b/c"], ["a", "ab"]),
    (["a**"], ["a", "ab", "ab/c", "a/b"], ["ba"]),
    (["a/**/b"], ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/bx"]),
    (["a**b"], ["ab", "ax/b", "a/b", "ax/y/b"], ["axb", "a"]),
    (["a**/b"], ["ab", "a/b", "axx/b"], ["axb"]),
    (["**/*.py"], ["x.py", "a/x.py", ".py"], ["x.pyc"]),
    (["*/*.py"], ["a/x.py"], ["x.py", "a/b/x.py"]),
    (["a?c"], ["abc"], ["ac", "a/c", "abbc"]),
    (["[a-c]x"], ["ax", "cx"], ["dx"]),
    (["[^a]x"], ["bx"], ["ax", "/x"]),
    (["[!b]"], ["!", "b"], ["a"]),
    (["[\\]*]"], ["]", "*"], ["a"]),
    (["a]"], ["a]"], ["a"]),
    (["\\*"], ["*"], ["a"]),
    (["\\d"], ["1"], ["d"]),
    (["\\w\\D\\.\\é"], ["ax.é"], ["-x.é", "a1.é"]),
    (["\\ax"], ["\ax"], ["ax"]),
    (["a.b+(c)|{d}$^"], ["a.b+(c)|{d}$^"], ["axb"]),
    (["*", "!a"], ["b", "c/d"], ["a", "a/b"]),
    (["d", "!d/x"], ["d", "d/y"], ["d/x", "d/x/z"]),
    (["!d/x", "d"], ["d", "d/x"], ["e"]),
    (["d", "!d/x", "d/x/y"], ["d/x/y", "d/z"], ["d/x", "d/x/w"]),
    (["**/*.md", "!README.md"], ["a.md", "a/README.md"], ["README.md"]),
    (["**/x", "!d"], ["x", "d/x"], ["d"]),
    ([".git", "*/.git"], [".git/config", "a/.git/b"], ["a/b/.git"]),
    (["A"], ["A"], ["a"]),
    (["/"], [], ["a"]),
    (["."], [], ["a"]),
    (["***x"], ["x", "a/yx", "yx"], ["xy"]),
    (["a\nb"], ["a", "b"], []),
    (["ünï*"], ["ünïcode"], ["uni"]),
]


@pytest.mark.parametrize(("lines", "excluded", "kept"), VERDICTS)
def test_verdicts(lines, excluded, kept):
    """Examples of what is excluded and what is not (D04-D07, D10)."""
    rules = matcher(*lines)
    assert [path for path in excluded if not rules.ignores(path)] == []
    assert [path for path in kept if rules.ignores(path)] == []
    assert not rules.ignores("")
    assert not rules.ignores(".")


def test_flag_patterns_keep_a_leading_slash():
    """Patterns of --exclude match nothing when they begin with a slash (CP06)."""
    rules = ignore.IgnoreMatcher(ignore.parse_patterns(["/a", " ", "b/", "! c"]))
    assert [rules.ignores(path) for path in ("a", "b", "c")] == [False, True, False]
    with pytest.raises(ignore.IgnoreSyntaxError, match=r'pattern "\["'):
        ignore.parse_patterns(["["])


@pytest.mark.parametrize(
    ("lines", "directory", "expected"),
    [
        (["d", "!d/x"], "d", True),
        (["d", "!e/x"], "d", False),
        (["*", "!a/b/c"], "a/b", True),
        (["*", "!a/b/c"], "a/x", False),
        (["*", "!**/x"], "a/x/y", True),
        (["*", "!a*/b"], "ax", True),
        (["*", "!a*/b"], "bx", False),
        (["d"], "d", False),
    ],
)
def test_pruning(lines, directory, expected):
    """Excluded directories are entered only when a `!` can match below (D07)."""
    rules = matcher(*lines)
    state = rules.root
    for name in directory.split("/"):
        state = rules.enter(state, name)
    assert rules.may_reinclude_below(state) is expected


def as_regex(pattern):
    """Translate as the sheet says (D06), without care for cost."""
    if pattern.startswith("**") and not re.search(r"[*?\[\\]", pattern[2:]):
        rest = pattern[2:]
        return "(?s:.*)" + re.escape(rest) + ("|" + re.escape(rest[1:]) if rest[:1] == "/" else "")
    out, rest = "", pattern
    while rest:
        if rest.startswith("**"):
            rest = rest[2:].removeprefix("/")
            out += "(.*/)?" if rest else ".*"
        elif rest[0] == "[":
            end = rest.index("]")
            out += "(?!/)" + rest[: end + 1]
            rest = rest[end + 1 :]
        else:
            out += {"*": "[^/]*", "?": "[^/]"}.get(rest[0]) or re.escape(rest[0])
            rest = rest[1:]
    return out


class Reference:
    """The rules said again, one pattern and one path at a time (D04)."""

    def __init__(self, lines):
        self.patterns = [
            (p.reincludes, re.compile(as_regex(p.text), re.DOTALL))
            for p in ignore.parse_ignore("\n".join(lines), "x")
        ]

    def ignores(self, path):
        names = path.split("/")
        recorded = [False] * len(self.patterns)
        verdict = False
        for depth in range(1, len(names) + 1):
            here = "/".join(names[:depth])
            verdict = False
            for number, (reincludes, regex) in enumerate(self.patterns):
                if not recorded[number]:
                    if reincludes != verdict:
                        continue
                    recorded[number] = bool(regex.fullmatch(here))
                if recorded[number]:
                    verdict = not reincludes
        return verdict


part = st.text("ab", min_size=1, max_size=2)
segment = st.one_of(
    part,
    st.just("**"),
    st.text("ab*?", min_size=1, max_size=4),
    st.sampled_from(["[a]", "[^a]b", "[a-b]*", "*.a", "a.*", "***"]),
)
lines = st.lists(
    st.tuples(st.sampled_from(["", "", "!"]), st.lists(segment, min_size=1, max_size=4)).map(
        lambda pair: pair[0] + "/".join(pair[1])
    ),
    max_size=5,
)
paths = st.lists(st.one_of(part, st.sampled_from(["a.a", "x"])), min_size=1, max_size=5).map(
    "/".join
)


@given(lines, st.lists(paths, max_size=10))
def test_agrees_with_an_independent_matcher(texts, asked):
    """Verdicts are those of the rules applied naively, for any patterns and paths (D04, D06)."""
    rules, reference = matcher(*texts), Reference(texts)
    for path in asked:
        assert rules.ignores(path) == reference.ignores(path), path


@given(lines, paths, st.sets(st.one_of(part, st.text("ab.x", min_size=1, max_size=3))))
def test_whole_directories(texts, path, names):
    """Asking for all names of a directory at once says the same as asking for each (D04)."""
    rules = matcher(*texts)
    here = rules.directory(path)
    assert rules.excluded(here, names) == {name for name in names if rules.excludes(here, name)}


@given(st.sets(part, min_size=1), st.integers(1, 200))
def test_whole_directories_with_many_patterns(names, count):
    """The same where so many patterns are there that they are searched another way (B11)."""
    texts = [f"**/*{n:b}a" for n in range(count)] + [f"b{n:b}*" for n in range(count)]
    rules = matcher(*texts, "*[ab]b", "!a?")
    assert rules.excluded(rules.root, names) == {
        name for name in names if rules.excludes(rules.root, name)
    }


@given(lines, st.lists(paths, max_size=10))
def test_pruning_loses_nothing(texts, asked):
    """Nothing below an excluded directory that may be pruned is ever included (D07)."""
    rules = matcher(*texts)
    for path in asked:
        state = rules.root
        pruned = False
        for name in path.split("/"):
            assert not pruned or rules.excludes(state, name)
            state = rules.enter(state, name)
            pruned = pruned or (state.excluded and not rules.may_reinclude_below(state))


HOSTILE = {
    "crossings then stars": [f"{'**/' * k}{'*a' * k}b" for k in range(2, 41)],
    "crossings between": ["**/*a/" * 40 + "b"],
    "long pattern": ["a*" * 200_000],
    "many segments": ["a/" * 500_000 + "b"],
    "stars only": ["*" * 1_000_000],
    "crossings only": ["**/" * 300_000 + "a"],
    "long class": ["[" + "a" * 900 + "]"] * 900,
    "negations": ["*"] + [f"!x{i}/y" for i in range(10_000)],
    "names": [f"name{i}" for i in range(30_000)],
    "names anywhere": [f"**/name{i}" for i in range(30_000)],
    "suffixes": [f"**/*.x{i}" for i in range(15_000)],
    "below names anywhere": [f"**/a/**/n{i}/z" for i in range(20_000)],
    "globs": [f"**/a*b{i}*c" for i in range(300)],
}


@pytest.mark.parametrize("texts", HOSTILE.values(), ids=HOSTILE)
def test_hostile_patterns_take_linear_time(texts):
    """Repeated `**/` and `*a`, long and many patterns stay quick over thousands of files (B11)."""
    begin = time.process_time()
    rules = matcher(*texts)
    count = 0
    for directory in range(100):
        state = rules.enter(rules.enter(rules.root, "a"), f"n{directory}")
        for number in itertools.repeat("a" * 60, 50):
            count += rules.excludes(state, f"{number}{count % 7}")
    assert time.process_time() - begin < 5


def test_too_many_patterns_are_refused():
    """Files no person wrote are errors instead of waits (B11)."""
    for text in ("a\n" * 100_001, "a*b*c\n" * 1001):
        with pytest.raises(ignore.IgnoreSyntaxError, match="more than"):
            ignore.parse_ignore(text, "x")
