"""Word expansion: every form, every error, and hostile input (V01-V12, G01, G02)."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.dockerfile import glob, shell

ENV = {
    "x": "foobarbar",
    "empty": "",
    "path": "/usr/local/bin",
    "ports": "80 443/udp",
    "lines": "ab\nab",
    "stars": "a*b?c",
    "q": "it's",
    "ünïcode": "yes",
}

EXPANDED = [
    ("$x", "foobarbar"),
    ("${x}", "foobarbar"),
    ("a${x}b$x", "afoobarbarbfoobarbar"),
    ("$ünïcode", "yes"),
    ("he$1x", "hex"),
    ("$999aaa", "aaa"),
    ("$@$*$#$?$-$$$!$0", ""),
    ("$.", "$."),
    ("$", "$"),
    ("a$", "a$"),
    ("$unset", ""),
    ("${x:-d}", "foobarbar"),
    ("${unset:-d}", "d"),
    ("${unset-d}", "d"),
    ("${empty:-d}", "d"),
    ("${empty-d}", ""),
    ("${x:+y}", "y"),
    ("${empty:+y}", ""),
    ("${empty+y}", "y"),
    ("${unset+y}", ""),
    ("${x:?no}", "foobarbar"),
    ("${empty?no}", ""),
    ("${unset:-${also:-${x}}}", "foobarbar"),
    ("${unset:-bbb {foo}", "bbb {foo"),
    ("${XXX:-\\${PWD}z}", "${PWDz}"),
    ("${unset:-'a}b'}", "a}b"),
    ('${unset:-"$x"}', "foobarbar"),
    ("${x#f*b}", "arbar"),
    ("${x##f*b}", "ar"),
    ("${x#bar}", "foobarbar"),
    ("${x%b*}", "foobar"),
    ("${x%%b*}", "foo"),
    ("${path##*/}", "bin"),
    ("${path%/*}", "/usr/local"),
    ("${path#/???/}", "local/bin"),
    ("${unset#a}", ""),
    ("${x/bar/Q}", "fooQbar"),
    ("${x//bar/Q}", "fooQQ"),
    ("${x/o*a/Q}", "fQr"),
    ("${x/nothing/Q}", "foobarbar"),
    ("${x//o/}", "fbarbar"),
    ("${x//Q/}", "foobarbar"),
    ("${x//bar/$path}", "foo/usr/local/bin/usr/local/bin"),
    ("${x//bar/$1}", "foo"),
    ("${path//\\//-}", "-usr-local-bin"),
    ("${x//?/.}", "........."),
    ("${x/#/Q}", "foobarbar"),
    ("${x//*/Q}", "Q"),
    ("${lines//a*/Q}", "Q\nQ"),
    ("${lines//*b/Q}", "Q\nQ"),
    ("${lines/b*a/Q}", "ab\nab"),
    ("${stars/\\*/-}", "a-b?c"),
    ("${stars/\\?/-}", "a*b-c"),
    ("${stars/[a]/-}", "a*b?c"),
    ("${x//$unset/-}", "-f-o-o-b-a-r-b-a-r-"),
    ("${x/$unset/-}", "-foobarbar"),
    ("a\\tb", "atb"),
    ('"a\\tb"', "a\\tb"),
    ('"a\\"b\\$x\\\\"', 'a"b$x\\'),
    ("'$x\\'", "$x\\"),
    ('"$x"', "foobarbar"),
    ('"it\'s"', "it's"),
    ("$q", "it's"),
    ("\\$x", "$x"),
    ("lone\\", "lone"),
    ("a'b'\"c\"d", "abcd"),
    ("'a' \"b\"", "a b"),
]


@pytest.mark.parametrize(("text", "expected"), EXPANDED)
def test_expands(text, expected):
    """Each form gives what the reference gives (V01-V03, V05-V08, V10, V11)."""
    assert shell.expand(text, ENV) == expected


FAILING = [
    ("${}", "bad substitution"),
    ("${:a}", "bad substitution"),
    ("${{x}", "bad substitution"),
    ("${", "missing '}'"),
    ("${x", "missing '}'"),
    ("${x:-a", "missing '}'"),
    ("${x/a", "missing '/' in ${}"),
    ("${x/a/b", "missing '}'"),
    ("${x=1}", "unsupported modifier (=)"),
    ("${x:=1}", "unsupported modifier (:=)"),
    ("${x:YYY}", "unsupported modifier (:Y)"),
    ("${x:#f}", "unsupported modifier (:#)"),
    ("${x:%f}", "unsupported modifier (:%)"),
    ("${.}", "unsupported modifier (.)"),
    ("${unset:?why not}", "unset: why not"),
    ("${unset?}", "unset: is not allowed to be unset"),
    ("${empty:?}", "empty: is not allowed to be empty"),
    ("${x#\\q}", "invalid escape '\\q'"),
    ("'abc", "single-quote"),
    ('"abc', "double-quote"),
    ('"abc\\', "double-quote"),
]


@pytest.mark.parametrize(("text", "message"), FAILING)
def test_refuses(text, message):
    """Malformed words are errors with the known wording (V04, V07, V09, V10)."""
    with pytest.raises(shell.ExpansionError, match=re.escape(message)):
        shell.expand(text, ENV)


def test_backtick_escape():
    """The escape directive decides what escapes (P13)."""
    assert shell.expand("`$x \\n", ENV, escape="`") == "$x \\n"
    assert shell.expand('"`"$x"', ENV, escape="`") == '"foobarbar'


def test_undefined_names_are_reported_whatever_the_form():
    """Every reference to an unset name is heard of, positions and special parameters as well (V12)."""
    seen = []
    shell.expand("$a ${b:-$c} ${d+e} $1 $@ $x '$f'", ENV, undefined=seen.append)
    assert seen == ["a", "c", "b", "d", "1", "@"]


def test_expand_words_splits_what_variables_hold():
    """EXPOSE splits at blanks of values, not at quoted ones; empty words vanish (2.2)."""
    assert shell.expand_words("$ports  22 'a b'c \"\" $unset", ENV) == (
        "80",
        "443/udp",
        "22",
        "a bc",
    )
    assert shell.expand_words("", ENV) == ()


def test_expand_heredoc_keeps_quotes():
    """Bodies of heredocs expand variables; quotes are text and backslash escapes (P55)."""
    body = "\"$x\" '${x}' \\$x \\\\ `$x`\n\\\nend\n"
    assert shell.expand_heredoc(body, ENV) == (
        "\"foobarbar\" 'foobarbar' $x \\ `foobarbar`\n\nend\n"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=b c=d", ("a=b", "c=d")),
        ('a="b c" d', ('a="b c"', "d")),
        ("a='b \\' c", ("a='b \\'", "c")),
        ("a=b\\ c d", ("a=b\\ c", "d")),
        ('a="b\\" c" d', ('a="b\\" c"', "d")),
        ("a=${v?msg here}", ("a=${v?msg", "here}")),
        ("a='open b", ("a='open b",)),
        ("a=x\\", ("a=x",)),
        ("a=x\\\\", ("a=x\\\\",)),
        ("\\", ()),
        ("  ", ()),
    ],
)
def test_split_words(text, words):
    """Words of ENV, LABEL, ARG keep quotes and escapes (1.5)."""
    assert shell.split_words(text) == words


def test_nesting_is_limited():
    """Ten thousand nested substitutions are an error, not a crash (G02)."""
    with pytest.raises(shell.ExpansionError, match="nested"):
        shell.expand("${a:-" * 10_000 + "}" * 10_000, {})
    assert shell.expand("${a:-" * 50 + "x" + "}" * 50, {}) == "x"


def test_size_is_limited():
    """A value that doubles sixty times stops at the limit (G01)."""
    value = "x" * 1024
    while len(value) < shell.MAX_EXPANDED:
        value = shell.expand("$a$a", {"a": value})
    with pytest.raises(shell.ExpansionError, match="longer than"):
        shell.expand("$a$a", {"a": value})


def cost(text):
    """Seconds of processor time that expanding a text takes."""
    begin = time.process_time()
    with contextlib.suppress(shell.ExpansionError):
        shell.expand(text, {"a": "a" * 4_000})
    return time.process_time() - begin


@pytest.mark.parametrize(
    ("head", "piece", "tail", "count"),
    [
        ("", "$", "", 60_000),
        ("", "\\", "", 60_000),
        ("", "'", "", 60_000),
        ("", '"', "", 60_000),
        ("${a#", "*a", "b}", 1500),
        ("${a%", "*a", "b}", 1500),
        ("${a//", "*a?", "b/x}", 1000),
        ("${a//a*b", "/x", "}", 1),
        ("${a//", "?", "b/x}", 3000),
        ("", "${a:-", "", 15),
        ("", "'a'\"$a\"", "", 10_000),
    ],
)
def test_hostile_words_take_linear_time(head, piece, tail, count):
    """Pathological globs and runs of special characters cost as much per character (G02).

    Compared on the same machine, again if it was busy: four times the text, not sixteen the time.
    """
    few, many = head + piece * count + tail, head + piece * count * 4 + tail
    cost(few)
    assert any(cost(many) < 9 * cost(few) + 0.02 for _ in range(8))


def test_too_expensive_patterns_are_refused():
    """A long pattern against a long value is an error instead of a wait (G02)."""
    with pytest.raises(shell.ExpansionError, match="too long"):
        shell.expand("${a#" + "a?" * 5_000 + "}", {"a": "a" * 1_000_000})


def as_regex(tokens, *, greedy):
    """Translate tokens the obvious way, which may go back without end."""
    star = ".*" if greedy else ".*?"
    return "".join(star if t == "*" else "." if t == "?" else re.escape(t[1:]) for t in tokens)


small = st.text("ab\n", max_size=10)
patterns = st.text("ab*?\n", max_size=6)


@given(patterns, small)
def test_prefixes_agree_with_a_backtracking_matcher(pattern, value):
    """The atomic matcher finds the same shortest and longest prefix (V05)."""
    tokens = glob.parse_glob(pattern, "\\")
    for longest in (False, True):
        ends = [
            end
            for end in range(len(value) + 1)
            if re.fullmatch(as_regex(tokens, greedy=longest), value[:end])
        ]
        expected = (max(ends) if longest else min(ends)) if ends else 0
        assert glob.prefix_end(tokens, value, longest=longest) == expected


@given(patterns, small)
def test_first_match_agrees_with_a_backtracking_matcher(pattern, value):
    """The leftmost match with greedy stars is the one a regular expression finds (V06)."""
    tokens = glob.parse_glob(pattern, "\\")
    found = re.search(as_regex(tokens, greedy=True), value)
    ours = list(glob.matches(tokens, value, every=False))
    assert [start for start, _ in ours] == ([found.start()] if found else [])
    if found:
        assert ours == [found.span()]


@given(st.text(), st.dictionaries(st.text(max_size=3), st.text(max_size=20)))
def test_any_text_expands_or_is_refused(text, env):
    """No text makes anything but an ExpansionError (G02)."""
    for function in (shell.expand, shell.expand_words, shell.expand_heredoc):
        with contextlib.suppress(shell.ExpansionError):
            function(text, env)
