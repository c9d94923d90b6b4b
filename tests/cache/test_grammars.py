"""Names checked by hand are those that the patterns of their grammars fit."""

from __future__ import annotations

import datetime as dt
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.export.timestamp import seconds_of
from cache.errors import InvalidDocumentError
from cache.spec import reference
from cache.spec.digest import Digest
from cache.spec.oci import Platform

LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
REGISTRY = rf"(?:{LABEL}(?:\.{LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
WORD = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
OS = r"[A-Za-z0-9_-]+(?:\([A-Za-z0-9_.%-]*\))?"
FIRST = dt.datetime(1, 1, 3)  # noqa: DTZ001 - its zone comes later
STAMP = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)"


def near(alphabet, *patterns):
    """Text that fits a pattern, or nearly."""
    fits = st.one_of(st.from_regex(re.compile(p, re.ASCII), fullmatch=True) for p in patterns)
    spoilt = st.tuples(fits, st.integers(0, 9), st.text(alphabet, max_size=2)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :]
    )
    return st.one_of(fits, spoilt, st.text(alphabet, max_size=12))


@given(near("aZ0.-:[]\n é٣", REGISTRY))
def test_registry_hosts_are_those_of_the_pattern(text):
    """A host, or an address in brackets, and a port (R grammar)."""
    assert reference._is_registry(text) == bool(re.fullmatch(REGISTRY, text))


@given(near("aZ0._-\n é", TAG))
def test_tags_are_those_of_the_pattern(text):
    """At most 128 characters, no dot or dash in front."""
    assert reference._is_tag(text) == bool(re.fullmatch(TAG, text))


@given(near("aZ0._-/\n é", WORD, rf"{WORD}/{WORD}"))
def test_repositories_are_those_of_the_pattern(text):
    """Lower-case words with separators between them."""
    assert reference._is_repository(text) == bool(re.fullmatch(f"{WORD}(?:/{WORD})*", text))


@given(near("a0f:g\n", "sha256:[0-9a-f]{64}", "sha512:[0-9a-f]{128}", "sha512:[0-9a-f]{64}"))
def test_digests_are_those_of_the_pattern(text):
    """Lower-case hex as long as the algorithm says."""
    if re.fullmatch("sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}", text):
        assert str(Digest.parse(text)) == text
    else:
        with pytest.raises(InvalidDocumentError):
            Digest.parse(text)


@given(near("aZ0._-()%/\n é", f"{OS}/amd64", f"windows{OS[18:]}/arm64"))
def test_platforms_of_two_words_are_those_of_the_pattern(text):
    """An operating system with its version, and an architecture."""
    if text.count("/") != 1:
        return
    if re.fullmatch(f"{OS}/[A-Za-z0-9_-]+", text):
        name, _, version = text.partition("/")[0].partition("(")
        found = Platform.parse(text)
        assert found.os in {name.lower(), "darwin"}
        assert found.os_version == version.removesuffix(")")
    else:
        with pytest.raises(InvalidDocumentError):
            Platform.parse(text)


@given(st.datetimes(min_value=FIRST), st.integers(-1439, 1439))
def test_times_are_what_the_calendar_says(moment, minutes):
    """Seconds since 1970, whatever the zone."""
    zone = dt.timezone(dt.timedelta(minutes=minutes))
    there = moment.replace(tzinfo=zone, microsecond=0)
    assert seconds_of(there.isoformat()) == int(there.timestamp())


@given(near("09-:TtZz+. \n٣", STAMP))
def test_times_are_those_of_the_pattern(text):
    """What is not RFC 3339 is no time; a fitting one may still have a thirteenth month."""
    if not re.fullmatch(STAMP, text, re.ASCII):
        assert seconds_of(text) is None
