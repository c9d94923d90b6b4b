"""The grammar of `--output`."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import UsageError
from builder.export.annotation import Annotation, AnnotationType
from builder.export.option import parse_output
from builder.export.output import (
    Compression,
    Naming,
    OutputSpec,
    OutputType,
    Times,
    check_outputs,
)
from cache.spec.oci import Platform
from cache.spec.reference import Reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("out", OutputSpec(OutputType.LOCAL, "out")),
        ("./a=b", OutputSpec(OutputType.LOCAL, "./a=b")),
        ("-", OutputSpec(OutputType.TAR, "-")),
        ("type=oci", OutputSpec(OutputType.OCI, "-")),
        ("type=tar,dest=x.tar", OutputSpec(OutputType.TAR, "x.tar")),
        ("type=local,dest=d", OutputSpec(OutputType.LOCAL, "d")),
        ("type=oci,tar=false,dest=d", OutputSpec(OutputType.OCI, "d", tar=False)),
        ("type=docker,TAR=T", OutputSpec(OutputType.DOCKER)),
        ("type=docker,dest=-", OutputSpec(OutputType.DOCKER, "-")),
        ("type=cacheonly", OutputSpec(OutputType.CACHEONLY)),
        ('type=oci,"dest=a,b"', OutputSpec(OutputType.OCI, "a,b")),
        (
            "type=image,push=true,compression=zstd,compression-level=22,force-compression=1",
            OutputSpec(
                OutputType.IMAGE,
                push=True,
                compression=Compression.ZSTD,
                compression_level=22,
                force_compression=True,
            ),
        ),
        (
            "type=oci,rewrite-timestamp=true,source-date-epoch=7",
            OutputSpec(OutputType.OCI, "-", times=Times(overridden=True, epoch=7, rewrite=True)),
        ),
        (
            "type=tar,source-date-epoch=,platform-split=false",
            OutputSpec(OutputType.TAR, "-", times=Times(overridden=True), platform_split=False),
        ),
        (
            "type=local,dest=d,mode=Delete",
            OutputSpec(OutputType.LOCAL, "d", delete=True),
        ),
        (
            "type=oci,annotation.K=v,annotation-index[linux/arm64].a.b==",
            OutputSpec(
                OutputType.OCI,
                "-",
                annotations=(
                    Annotation(AnnotationType.MANIFEST, "k", "v"),
                    Annotation(AnnotationType.INDEX, "a.b", "=", Platform.parse("arm64")),
                ),
            ),
        ),
        (
            "type=image,name=a,push=,push-by-digest=1,registry.insecure=,store=0,name-canonical=",
            OutputSpec(
                OutputType.IMAGE,
                names=(Reference.parse("a"),),
                push=True,
                naming=Naming(by_digest=True, canonical=True, insecure=True, store=False),
            ),
        ),
        (
            'type=registry,"name=a,b:1",oci-mediatypes=false',
            OutputSpec(
                OutputType.REGISTRY,
                names=(Reference.parse("a"), Reference.parse("b:1")),
                push=True,
                oci_mediatypes=False,
            ),
        ),
    ],
)
def test_outputs_are_read_as_docker_reads_them(text, expected):
    """Fields are RFC 4180, a bare path is a local directory, "-" a tar on standard output (O43)."""
    assert parse_output(text) == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "empty output", None),
        ("dest=x", "has no type", "add type="),
        ("type=dokcer", "unknown output type 'dokcer'", "did you mean 'docker'?"),
        ("type=oci,dset=x", "unknown output option 'dset'", "did you mean 'dest'?"),
        ("type=oci,frobnicate=1", "unknown output option", "known here: type, dest"),
        ("type=local,dest=x,compression=gzip", "'local' has no option 'compression'", None),
        ("type=docker,dest=x,context=c", "'context' is not supported", "no daemon"),
        ("type=oci,compression=estargz", "'estargz' is not supported", "gzip"),
        ("type=oci,annotation=b", "unknown output option 'annotation'", "annotation.KEY"),
        ("type=oci,annotation-x.a=b", "unknown annotation type 'x'", "index-descriptor"),
        ("type=oci,annotation[plan9].a=b", "failed to parse platform", None),
        (
            "type=oci,oci-mediatypes=false,annotation-index.a=b",
            'cannot export annotations with "oci-mediatypes=false"',
            None,
        ),
        (
            "type=oci,oci-mediatypes=false,oci-artifact=true",
            'conflicts with "oci-mediatypes=false"',
            None,
        ),
        ("type=image,rewrite-timestamp=true,unpack=true", 'conflicts with "unpack"', None),
        ("type=registry,name=r/a:1,push-by-digest=true", "tagged ref r/a:1 by digest", None),
        ("type=local,dest=x,mode=move", "invalid local exporter mode 'move'", "delete"),
        ("type=tar,mode=delete", "'tar' has no option 'mode'", None),
        ("type=oci,source-date-epoch=soon", "invalid SOURCE_DATE_EPOCH 'soon'", None),
        ("type=oci,dest=a,dest=b", "'dest' is given twice", None),
        ("type=oci,dest", "field 'dest' is not key=value", None),
        ('type=oci,"dest=a', "invalid output", "quote a field"),
        ("type=local", "needs a directory", "add dest="),
        ("type=local,dest=-", "cannot go to standard output", None),
        ("type=oci,tar=false", "needs a directory", None),
        ("type=oci,tar=maybe", "'tar' is not true or false", None),
        ("type=oci,compression=gzp", "unknown compression 'gzp'", "did you mean 'gzip'?"),
        ("type=oci,compression-level=10", "invalid compression level: 10", "from 0 to 9"),
        ("type=oci,compression-level=best", "non-integer value best", "from 0 to 9"),
        ("type=registry,push=false", "always pushes", None),
        ("type=image,name=../x", "in image name", None),
        ("type=image,name=Upper", "invalid image name", "lower case"),
        (f"type=image,name=a@sha256:{'0' * 64}", "cannot hold a digest", None),
        ("type=tar,dest=a\0b", "NUL", None),
    ],
)
def test_mistakes_are_named(text, message, hint):
    """Unknown, misplaced and contradictory options are errors that say what was meant (K05)."""
    with pytest.raises(UsageError) as caught:
        parse_output(text)
    assert message in caught.value.message
    if hint:
        assert hint in (caught.value.hint or "")


@given(st.text(max_size=60))
def test_any_text_is_a_spec_or_a_usage_error(text):
    """No option text makes anything but a value or a UsageError."""
    with contextlib.suppress(UsageError):
        assert isinstance(parse_output(text), OutputSpec)


@given(st.text(min_size=1, max_size=40).filter(lambda t: "\0" not in t and t != "-"))
def test_a_quoted_destination_is_taken_verbatim(dest):
    """Whatever a path holds, RFC 4180 quoting carries it."""
    quoted = '"dest=' + dest.replace('"', '""') + '"'
    assert parse_output(f"type=tar,{quoted}").dest == dest


def test_outputs_that_collide_are_refused():
    """Standard output and every destination can be given once only (O43)."""
    out = parse_output("type=oci")
    with pytest.raises(UsageError, match="standard output"):
        check_outputs([out, parse_output("-")])
    with pytest.raises(UsageError, match="'x'"):
        check_outputs([parse_output("x"), parse_output("type=tar,dest=x")])
    check_outputs([out, parse_output("x"), parse_output("type=image"), parse_output("type=image")])
