"""The OCI vocabulary: names, platforms, documents under attack."""

from __future__ import annotations

import json

import pytest

from cache.errors import InvalidDocumentError
from cache.spec import oci
from cache.spec.config import History, ImageConfig
from cache.spec.digest import Digest
from cache.spec.manifest import Index, Manifest, pair_layers
from cache.spec.oci import Descriptor, Platform, chain_id, load_object
from cache.spec.reference import Reference

_D = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("a/b:1", "docker.io/a/b:1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
        (f"x@{_D}", f"docker.io/library/x@{_D}"),
        (f"x:1@{_D}", f"docker.io/library/x:1@{_D}"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("index.docker.io/x", "docker.io/library/x:latest"),
    ],
)
def test_reference_is_normalised(text: str, full: str) -> None:
    """Familiar names read as docker reads them and render in full."""
    assert str(Reference.parse(text)) == full
    assert Reference.parse(full) == Reference.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "../x", "A/b", "x:", "x:tag with blank", "x@sha256:1", "-o", "a//b", "/x", "x" * 300,
     "ho_st.io/x", "h.io:99999999/x", "x\n", "ü", "h.io/x:1:2"],
)  # fmt: skip
def test_bad_reference_is_refused(text: str) -> None:
    """The reference grammar is enforced; a name never becomes a path (K05)."""
    with pytest.raises(InvalidDocumentError):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("armhf", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux", "linux/amd64"),
        ("Bogus/amd64", "bogus/amd64"),
        ("macos/x86_64", "darwin/amd64"),
    ],
)
def test_platform_is_normalised(text: str, shown: str) -> None:
    """Aliases of architectures become the names docker uses (F03)."""
    assert str(Platform.parse(text)) == shown


@pytest.mark.parametrize("text", ["bogus", "linux/amd64/x/y", "/", "linux/", "linux/*", "a/"])
def test_unknown_platform_is_refused(text: str) -> None:
    """Unknown systems and architectures are named (1.7)."""
    with pytest.raises(InvalidDocumentError, match="unknown operating system"):
        Platform.parse(text)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"1", b'{"a":1,"a":2}', b'{"a":NaN}', b"{} x", b'{"a":' + b"9" * 5000 + b"}",
     b"[" * 100000, b'{"a":' * 1000 + b"1" + b"}" * 1000, b'{"a":"\\ud800"}', b"\xff\xfe{}",
     b" " * (oci.MAX_DOCUMENT + 1)],
)  # fmt: skip
def test_hostile_json_is_refused(data: bytes) -> None:
    """Depth, repeated keys, long integers, surrogates, size: an error, never a traceback (E02)."""
    with pytest.raises(InvalidDocumentError):
        load_object(data, "test")


def test_depth_counts_no_brackets_in_strings() -> None:
    """Brackets inside strings are not nesting."""
    text = json.dumps({"a": "[" * 500 + '\\"' + "{" * 500})
    assert load_object(text.encode(), "test")["a"] == "[" * 500 + '\\"' + "{" * 500


def _manifest(**changes: object) -> bytes:
    document: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": oci.OCI_MANIFEST,
        "config": {"mediaType": oci.OCI_CONFIG, "digest": _D, "size": 2},
        "layers": [{"mediaType": oci.OCI_LAYER_GZIP, "digest": _D, "size": 3}],
    }
    document.update(changes)
    return json.dumps({k: v for k, v in document.items() if v is not None}).encode()


def test_manifest_round_trips() -> None:
    """Encoding what was decoded gives the same manifest."""
    manifest = Manifest.from_json(_manifest())
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"manifests": []},
        {"schemaVersion": 1},
        {"config": None},
        {"config": {"mediaType": "x", "digest": "sha256:../../x", "size": 1}},
        {"layers": [{"mediaType": "x", "digest": _D, "size": -1}]},
        {"layers": [{"mediaType": "x", "digest": _D, "size": "1"}]},
        {"layers": [{"mediaType": "x", "digest": _D, "size": 1.5}]},
        {"layers": [{"mediaType": "x", "digest": _D, "size": True}]},
        {"layers": [{"mediaType": "x", "digest": _D}]},
        {"layers": [{"mediaType": "x", "digest": _D, "size": 1}] * 501},
        {"mediaType": oci.OCI_INDEX},
        {"layers": {}},
    ],
)
def test_bad_manifest_is_refused(changes: dict[str, object]) -> None:
    """Ambiguous documents and impossible descriptors are refused (E03, E04, E05)."""
    with pytest.raises(InvalidDocumentError):
        Manifest.from_json(_manifest(**changes))


def test_announced_type_must_match_body() -> None:
    """A body of another type than its transport announced is refused (E04)."""
    with pytest.raises(InvalidDocumentError):
        Manifest.from_json(_manifest(), oci.DOCKER_MANIFEST)
    with pytest.raises(InvalidDocumentError):
        Index.from_json(_manifest(), oci.OCI_MANIFEST)


def test_layers_and_diff_ids_must_pair() -> None:
    """As many layers as diff_ids, of known types (E07)."""
    manifest = Manifest.from_json(_manifest())
    with pytest.raises(InvalidDocumentError):
        pair_layers(manifest, ImageConfig())
    good = ImageConfig(diff_ids=(Digest.parse(_D),))
    assert pair_layers(manifest, good)[0].blob.size == 3
    odd = Manifest(manifest.config, (Descriptor("application/x", Digest.parse(_D), 1),))
    with pytest.raises(InvalidDocumentError):
        pair_layers(odd, good)


@pytest.mark.parametrize(
    "run",
    [{"Env": ["PATH"]}, {"Env": ["=x"]}, {"Env": "A=b"}, {"Cmd": "sh"}, {"User": {}},
     {"Labels": []}, {"ExposedPorts": []}, {"Healthcheck": {"Retries": -1}}],
)  # fmt: skip
def test_bad_config_is_refused(run: dict[str, object]) -> None:
    """A field of a wrong type names itself; a host variable is never imported (E09, E10)."""
    with pytest.raises(InvalidDocumentError, match="image config"):
        ImageConfig.from_json(json.dumps({"config": run}).encode())


def test_config_round_trips() -> None:
    """Every field survives JSON."""
    config = ImageConfig(  # noqa: S604 - a field of that name
        env=(("A", "b=c"), ("Z", "")), cmd=("sh",), entrypoint=("/x",), user="1:2",
        working_dir="/w", labels=(("a", "b"),), volumes=("/v",), exposed_ports=("80/tcp",),
        history=(History("RUN x", "2020-01-01T00:00:00Z", "c"),), diff_ids=(Digest.parse(_D),),
        shell=("/bin/sh", "-c"), on_build=("RUN y",), stop_signal="TERM", args_escaped=True,
    )  # fmt: skip
    assert ImageConfig.from_json(config.to_json()) == config


def test_chain_id_follows_the_spec() -> None:
    """One layer is its own chain; two hash as the spec says."""
    a, b = Digest.of(b"a"), Digest.of(b"b")
    assert chain_id([a]) == a
    assert chain_id([a, b]) == Digest.of(f"{a} {b}".encode())
