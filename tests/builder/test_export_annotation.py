"""Annotations: the grammar of --annotation, and which document gets which."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import UsageError
from builder.export.annotation import (
    Annotation,
    AnnotationType,
    annotation_of,
    check_annotations,
    parse_annotations,
    texts_for,
)
from cache.spec.oci import Platform

ARM = Platform.parse("linux/arm64")
AMD = Platform.parse("linux/amd64")


def test_the_flag_names_types_and_platforms():
    """`index,manifest[linux/arm64]:k=v` is two annotations; without types it is a manifest's (O33)."""
    assert parse_annotations(["a.b=c=d", "index,manifest-descriptor[linux/arm64]:K=v"]) == (
        Annotation(AnnotationType.MANIFEST, "a.b", "c=d"),
        Annotation(AnnotationType.INDEX, "K", "v"),
        Annotation(AnnotationType.MANIFEST_DESCRIPTOR, "K", "v", ARM),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "expected key=value"),
        ("index:=v", "key is empty"),
        ("layer:a=b", "unknown annotation type 'layer'"),
        ("index[:a=b", "invalid annotation type 'index['"),
        (":a=b", "invalid annotation type ''"),
        ("index[vax]:a=b", "failed to parse platform"),
    ],
)
def test_mistakes_in_the_flag_are_named(text, message):
    """A wrong --annotation is an error that shows how one is written (O33)."""
    with pytest.raises(UsageError) as caught:
        parse_annotations([text])
    assert message in caught.value.message


def test_platforms_override_what_is_said_for_all():
    """A document gets what is for every platform, and over it what is for its own (O33)."""
    found = parse_annotations(["manifest[linux/arm64]:a=arm", "a=all", "b=1", "index:c=2"])
    assert texts_for(found, AnnotationType.MANIFEST, ARM) == {"a": "arm", "b": "1"}
    assert texts_for(found, AnnotationType.MANIFEST, AMD) == {"a": "all", "b": "1"}
    assert texts_for(found, AnnotationType.INDEX) == {"c": "2"}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("index:a=b", {}, "index annotations not supported for single platform export"),
        ("index-descriptor:a=b", {}, "index annotations not supported"),
        (
            "manifest[linux/arm64]:a=b",
            {"has_index": True},
            "no platform linux/arm64 found in source",
        ),
        ("manifest-descriptor:a=b", {"oci_types": False}, "oci-mediatypes=false"),
    ],
)
def test_what_nothing_can_carry_is_refused(text, options, message):
    """An annotation of something the result does not have is an error (O33)."""
    chosen = {"has_index": False, "oci_types": True, **options}
    with pytest.raises(UsageError, match=message):
        check_annotations(parse_annotations([text]), [AMD], **chosen)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    """No text makes anything but annotations or a UsageError."""
    with contextlib.suppress(UsageError):
        parse_annotations([text])
    with contextlib.suppress(UsageError):
        annotation_of("annotation" + text, "v")
