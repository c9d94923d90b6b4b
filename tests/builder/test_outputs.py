"""Outputs of a command line, refused before anything is built."""

from __future__ import annotations

import pytest

from builder.errors import UsageError
from builder.export.output import OutputType
from builder.outputs import insecure_hosts, outputs_of
from builder.request import BuildRequest
from cache.spec.oci import Platform
from cache.spec.reference import Reference

TAG = Reference.parse("reg.test/app:1")
BOTH = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))


def outputs(*texts, **request):
    """The outputs of a request, away from a terminal."""
    return outputs_of(BuildRequest(".", outputs=texts, **request), stdout_is_terminal=False)


def test_push_is_an_output():
    """--push pushes the image outputs there are, or is an output of its own."""
    (alone,) = outputs(push=True, tags=(TAG,))
    assert (alone.type, alone.push) == (OutputType.REGISTRY, True)
    (image,) = outputs("type=image,name=a", push=True)
    assert (image.type, image.push) == (OutputType.IMAGE, True)
    kinds = [output.type for output in outputs("out", push=True, tags=(TAG,))]
    assert kinds == [OutputType.LOCAL, OutputType.REGISTRY]


@pytest.mark.parametrize(
    ("texts", "request_", "message"),
    [
        ((), {"push": True}, "tag is needed"),
        (("type=local,dest=out,mode=delete",), {}, "mode=delete would remove"),
        (("type=docker,dest=x.tar",), {"platforms": BOTH}, "manifest lists"),
        ((), {"annotations": ("index:a=b",)}, "index annotations not supported"),
        (("type=oci,annotation-index.a=b",), {}, "index annotations not supported"),
        (
            ("type=oci",),
            {"platforms": BOTH, "annotations": ("manifest[linux/s390x]:a=b",)},
            "no platform linux/s390x",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(texts, request_, message):
    """Nothing is built for an output that would fail in the end (O33, O43)."""
    with pytest.raises(UsageError, match=message):
        outputs(*texts, **request_)


def test_an_index_is_loaded_and_annotated(tmp_path):
    """What the store and layouts can hold is allowed: an index, and annotations of one."""
    notes = ("index,manifest[linux/arm64]:a=b",)
    made = outputs("type=docker", f"type=oci,dest={tmp_path}/x", platforms=BOTH, annotations=notes)
    assert [output.type for output in made] == [OutputType.DOCKER, OutputType.OCI]
    assert outputs(f"{tmp_path}/out", annotations=("index:a=b",))  # nothing there to annotate


def test_an_output_names_insecure_hosts():
    """registry.insecure speaks for the hosts of the names it pushes."""
    request = BuildRequest(".", tags=(TAG,), insecure_registries=("other.test",))
    made = outputs("type=image,push=true,registry.insecure=true", tags=(TAG,))
    assert insecure_hosts(request, made) == ("other.test", "reg.test")
