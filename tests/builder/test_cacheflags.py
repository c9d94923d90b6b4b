"""--cache-from and --cache-to as texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cacheflags import parse_cache_from, parse_cache_to
from builder.errors import UsageError
from builder.request import CachePlace


def test_names_alone_are_of_a_registry():
    """The short form is a list of names, made full."""
    assert parse_cache_from("app:cache,r.example/x") == (
        CachePlace(local=False, place="docker.io/library/app:cache"),
        CachePlace(local=False, place="r.example/x:latest"),
    )


def test_what_is_written_has_a_form():
    """Mode, compression and the rest are those of docker's."""
    (place,) = parse_cache_to(
        "type=registry,ref=r.example/x,mode=max,compression=zstd,compression-level=7,"
        "force-compression=true,oci-mediatypes=false,image-manifest=true,ignore-error=1"
    )
    assert place == CachePlace(
        local=False, place="r.example/x:latest", everything=True, compression="zstd", level=7,
        force=True, oci_types=False, ignore_error=True,
    )  # fmt: skip


def test_a_directory_may_hold_several():
    """A tag or a digest says which one is meant."""
    digest = "sha256:" + "0" * 64
    assert parse_cache_from(f"type=local,src=d,digest={digest}")[0].tag == f"@{digest}"
    assert parse_cache_to("type=local,dest=d,tag=main")[0].tag == "main"


@pytest.mark.parametrize(
    "text",
    ["type=registry", "type=registry,ref=A B", "type=local,src=d,mode=max", "type=elsewhere,ref=x",
     "ref=x", "type=registry,ref=x,bogus=1", "x,type=registry", "type=local,src="],
)  # fmt: skip
def test_what_is_no_place_to_read_is_named(text):
    """Errors carry the text and the way out."""
    with pytest.raises(UsageError) as caught:
        parse_cache_from(text)
    assert "--cache-from" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "end", ["mode=most", "compression=lzma", "compression-level=fast", "compression-level=99",
            "image-manifest=false", "ignore-error=perhaps"]
)  # fmt: skip
def test_what_is_no_form_is_named(end):
    """A value that means nothing is refused, not skipped."""
    with pytest.raises(UsageError) as caught:
        parse_cache_to(f"type=registry,ref=x,{end}")
    assert caught.value.hint


@given(st.text(max_size=60))
def test_any_text_is_places_or_a_usage_error(text):
    """Nothing else comes out (G14)."""
    for parse in (parse_cache_from, parse_cache_to):
        try:
            places = parse(text)
        except UsageError:
            continue
        assert all(isinstance(place, CachePlace) for place in places)
