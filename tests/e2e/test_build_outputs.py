"""What builds leave behind: several platforms, media types, annotations, times, directories."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile

import pytest
from support import image_schema, peers
from support.layout_files import Layout

EPOCH = 1_700_000_000
SEVERAL = "linux/amd64,linux/arm64,linux/arm/v6"
PLATFORMS = """\
FROM --platform=$BUILDPLATFORM {base} AS tools
RUN echo made on $(uname -m) > /made
FROM scratch
ARG TARGETPLATFORM
ARG TARGETARCH
COPY --from=tools /made /made
COPY only-$TARGETARCH /own
LABEL for=$TARGETPLATFORM
"""
FILES = {"only-amd64": "amd64\n", "only-arm64": "arm64\n", "only-arm": "arm\n"}
TIMES = """\
FROM {base}
COPY old new /
RUN echo made > /made && mkdir -p /d/e
WORKDIR /w
"""


def documents(archive, *, check=True):
    """The documents and blobs of a layout tar by path, checked against the specification."""
    with tarfile.open(archive) as tar:
        held = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    image_schema.check("layout", json.loads(held["oci-layout"]))
    if check:
        image_schema.check("index", json.loads(held["index.json"]))
    return held


def blob(held, descriptor):
    """A document of a layout by its descriptor."""
    data = held["blobs/" + descriptor["digest"].replace(":", "/")]
    assert len(data) == descriptor["size"]
    return json.loads(data)


def root(held):
    """The one entry of index.json."""
    (entry,) = json.loads(held["index.json"])["manifests"]
    return entry


def test_several_platforms_are_one_index(pybuild, busybox, registry, tmp_path):
    """One build gives an index of every platform; what runs on this machine runs once (S08, T108)."""
    name = registry.name(f"several-{pybuild.uid}:1")
    context = pybuild.context("several", PLATFORMS.format(base=busybox), FILES)
    out = pybuild.own(pybuild.home) / "several.tar"
    done = pybuild.good(
        "--platform", SEVERAL, "-t", name, "--push", "-o", f"type=oci,dest={out}", context
    )
    assert len([step for step in done.steps if "uname" in step]) == 1
    assert any(step.startswith("[linux/arm64 stage-1 ") for step in done.steps)
    held = documents(out)
    index = blob(held, root(held))
    image_schema.check("index", index)
    shown = [entry["platform"] for entry in index["manifests"]]
    assert [p["architecture"] for p in shown] == ["amd64", "arm64", "arm"]
    assert shown[2]["variant"] == "v6"
    for entry in index["manifests"]:
        manifest = blob(held, entry)
        config = blob(held, manifest["config"])
        image_schema.check("manifest", manifest)
        image_schema.check("config", config)
        assert config["architecture"] == entry["platform"]["architecture"]
    pushed = peers.inspect(f"docker://{name}", raw=True)
    assert pushed["manifests"] == index["manifests"]
    for architecture in ("amd64", "arm64"):
        flags = [f"--override-arch={architecture}"]
        seen = peers.inspect(f"docker://{name}", *flags)
        assert seen["Labels"] == {"for": f"linux/{architecture}"}
        assert peers.inspect(f"oci-archive:{out}", *flags)["Architecture"] == architecture
    layout = tmp_path / "arm"
    peers.copy(f"docker://{name}", f"oci:{layout}:it", "--override-arch=arm64")
    Layout(layout).check()
    rootfs = peers.unpack(layout, "it", tmp_path / "bundle")
    assert (rootfs / "own").read_text() == "arm64\n"


def test_the_local_store_knows_an_index(pybuild, busybox, registry):
    """An index has a name like any image: shown, built on, run, pushed and removed (S08)."""
    base = f"local.test/several-{pybuild.uid}:1"
    context = pybuild.context("several", PLATFORMS.format(base=busybox), FILES)
    many = ("--platform", "linux/amd64,linux/arm64")
    iid = pybuild.good(*many, "-t", base, "-q", context).out.strip()
    (shown,) = json.loads(pybuild.good("inspect", base).out)
    assert shown["Id"] == iid == shown["Index"]["digest"]
    assert shown["Platforms"] == ["linux/amd64", "linux/arm64"]
    assert iid.removeprefix("sha256:")[:12] in pybuild.good("images").out
    child = pybuild.context("child", f"FROM {base}\nCOPY own /\nENV a=b\n", {"own": "x"})
    for architecture in ("amd64", "arm64"):
        name = f"local.test/child-{architecture}:1"
        pybuild.good("--platform", f"linux/{architecture}", "-t", name, child)
        (made,) = json.loads(pybuild.good("inspect", name).out)
        assert made["config"]["Labels"] == {"for": f"linux/{architecture}"}
    absent = pybuild.run("--platform", "linux/s390x", child)
    assert absent.code == 1
    assert "is for linux/amd64, linux/arm64, not for linux/s390x" in absent.err
    target = registry.name(f"pushed-{pybuild.uid}:1")
    digest = pybuild.good("push", base, target).out.strip().rpartition("@")[2]
    raw = peers.inspect(f"docker://{target}", raw=True)
    assert [entry["platform"]["architecture"] for entry in raw["manifests"]] == ["amd64", "arm64"]
    fresh = pybuild.with_state("fresh")
    pinned = f"{target.rpartition(':')[0]}@{digest}"
    again = pybuild.context("again", f"FROM {pinned}\nCOPY --from={target} /own /two\n")
    fresh.good("--platform", "linux/arm64", "-t", "again", again)
    (made,) = json.loads(fresh.good("inspect", "again").out)
    assert made["architecture"] == "arm64"
    pybuild.good("prune")
    pybuild.good("rmi", base)
    assert pybuild.run("inspect", base).code == 1


def test_a_step_for_another_machine_is_named(pybuild, busybox):
    """A RUN whose programs this machine cannot start names the step and the ways out (S08)."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\0\xb7\0\x01" + bytes(240)
    context = pybuild.context(
        "foreign", "FROM scratch\nCOPY tool /bin/sh\nRUN tool\n", {"tool": header}
    )
    (context / "tool").chmod(0o755)
    done = pybuild.run("--platform", "linux/arm64", context)
    assert done.code == 1
    assert "RUN tool" in done.err
    # Without qemu the kernel complains, with it qemu, for this is a program in name only.
    assert re.search("exec format error|Invalid ELF image", done.err)
    if "exec format error" in done.err:
        assert "$BUILDPLATFORM" in done.err


@pytest.mark.parametrize("family", ["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "uncompressed"])
def test_every_form_is_read_by_others(root_pybuild, busybox, tmp_path, family, compression):
    """Media types and compressions are what the output asks for, and skopeo reads them (O30, O34)."""
    home = root_pybuild.home / f"form-{family}-{compression}"
    pybuild = root_pybuild._with(home=home, state=home / "state")
    context = pybuild.context(
        "form", f"FROM scratch\nCOPY a /\nLABEL a={family}\n", {"a": "x" * 999}
    )
    out = tmp_path / "out.tar"
    types = "true" if family == "oci" else "false"
    form = f"compression={compression},compression-level=1,oci-mediatypes={types}"
    pybuild.good("-t", "form:1", "-o", f"type=oci,dest={out},{form}", context)
    held = documents(out, check=family == "oci")
    manifest = blob(held, root(held))
    if family == "oci":
        image_schema.check("manifest", manifest)
    ending = {"gzip": "gzip", "zstd": "zstd", "uncompressed": "tar"}[compression]
    (layer,) = manifest["layers"]
    if family == "docker" and compression == "uncompressed":
        ending = "diff.tar"
    assert layer["mediaType"].endswith(ending)
    assert ("docker" in manifest["mediaType"]) == (family == "docker")
    if family == "docker" and compression == "zstd":
        return  # which BuildKit writes too, but skopeo does not read
    assert peers.inspect(f"oci-archive:{out}")["Labels"] == {"a": family}
    peers.copy(f"oci-archive:{out}", f"dir:{tmp_path / 'copy'}")
    if compression != "zstd":  # skopeo knows no docker archive of it
        peers.copy(f"oci-archive:{out}", f"docker-archive:{tmp_path / 'archive'}:form:1")


def test_annotations_are_where_they_were_asked_for(pybuild, tmp_path):
    """--annotation and annotation attributes reach manifests, indexes and descriptors (O33)."""
    context = pybuild.context("notes", "FROM scratch\nENV a=b\n")
    out = pybuild.home / "notes.tar"
    flags = [
        "--annotation",
        "index,manifest:who=all",
        "--annotation",
        "manifest[linux/arm64]:who=arm",
    ]
    more = "annotation-index-descriptor.about=index,annotation-manifest-descriptor.about=one"
    output = f"type=oci,dest={out},{more}"
    pybuild.good("--platform", "linux/amd64,linux/arm64", *flags, "-o", output, context)
    held = documents(out)
    index = blob(held, root(held))
    assert root(held)["annotations"]["about"] == "index"
    assert index["annotations"] == {"who": "all"}
    assert [entry["annotations"] for entry in index["manifests"]] == [{"about": "one"}] * 2
    notes = [blob(held, entry)["annotations"]["who"] for entry in index["manifests"]]
    assert notes == ["all", "arm"]
    refused = pybuild.run("--annotation", "index:a=b", "-o", f"type=oci,dest={out}", context)
    assert refused.code == 2
    assert "index annotations not supported for single platform export" in refused.err


def _mtimes(archive):
    """Times of the entries of each layer, base first."""
    held = documents(archive)
    layers = blob(held, root(held))["layers"]
    times = []
    for layer in layers:
        data = held["blobs/" + layer["digest"].replace(":", "/")]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            times.append({m.name.rstrip("/"): m.mtime for m in tar.getmembers()})
    return layers, times


def test_an_epoch_gives_the_same_image_anywhere(root_pybuild, busybox, tmp_path):
    """With SOURCE_DATE_EPOCH two cold builds give one digest; rewriting holds all times (O21, O22, T112)."""
    results = {}
    for number in range(2):
        home = root_pybuild.home / f"epoch-{number}"
        pybuild = root_pybuild._with(home=home, state=home / "state")
        text = TIMES.format(base=busybox)
        context = pybuild.context("times", text, {"old": "o", "new": "n"})
        os.utime(context / "old", (1e9, 1e9))
        os.utime(context / "new", (1.75e9, 1.75e9))
        pybuild.good("-t", "plain", context)
        before = json.loads(pybuild.good("inspect", "plain").out)
        env = {"SOURCE_DATE_EPOCH": str(EPOCH)}
        for kind, more in (("kept", ""), ("rewritten", ",rewrite-timestamp=true")):
            out = home / f"{kind}.tar"
            pybuild.good("-o", f"type=oci,dest={out}{more}", context, env=env)
            results[kind, number] = out.read_bytes()
        pybuild.good("-t", "plain", context)
        assert json.loads(pybuild.good("inspect", "plain").out) == before
    assert results["kept", 0] == results["kept", 1]
    assert results["rewritten", 0] == results["rewritten", 1]
    layers, times = _mtimes(home / "kept.tar")
    assert times[-3]["new"] == 1.75e9  # what COPY brings keeps its time
    assert times[-2]["made"] == times[-1]["w"] == EPOCH
    layers, times = _mtimes(home / "rewritten.tar")
    assert times[-3] == {"old": 1e9, "new": EPOCH}
    mark = {"buildkit/rewritten-timestamp": str(EPOCH)}
    assert [layer.get("annotations") for layer in layers[-3:]] == [mark] * 3
    assert not any(layer.get("annotations") for layer in layers[:-3])


def test_a_directory_can_be_made_to_hold_the_result_only(pybuild):
    """mode=delete needs leave on the command line; then what is not in the result goes (O41)."""
    context = pybuild.context("tree", "FROM scratch\nCOPY a /d/\n", {"a": "x"})
    dest = pybuild.home / "dest"
    (dest / "old").mkdir(parents=True)
    pybuild.own(dest)
    output = f"type=local,dest={dest},mode=delete"
    refused = pybuild.run("-o", output, context)
    assert refused.code == 2
    assert "--allow buildx.local.delete" in refused.err
    assert (dest / "old").is_dir()
    pybuild.good("-o", output, "--allow", "buildx.local.delete", context)
    assert os.listdir(dest) == ["d"]
    both = ("--platform", "linux/amd64,linux/arm64", "-o")
    clash = pybuild.run(*both, f"type=local,dest={dest},platform-split=false", context)
    assert "cannot overwrite d/a from linux/amd64 with linux/arm64" in clash.err
    pybuild.good(*both, f"type=local,dest={dest}", context)
    assert sorted(os.listdir(dest)) == ["d", "linux_amd64", "linux_arm64"]
    tar = pybuild.home / "both.tar"
    pybuild.good(*both, f"type=tar,dest={tar}", context)
    with tarfile.open(tar) as archive:
        assert "linux_arm64/d/a" in archive.getnames()


def test_a_push_by_digest_leaves_no_tag(pybuild, registry):
    """push-by-digest sends an image that is found by its digest only (C-push)."""
    context = pybuild.context("digest", f"FROM scratch\nLABEL by=digest-{pybuild.uid}\n")
    name = registry.name(f"by-digest-{pybuild.uid}")
    meta = pybuild.home / "meta.json"
    output = f"type=image,name={name},push=true,push-by-digest=true,name-canonical=true"
    pybuild.good("-o", output, "--metadata-file", meta, context)
    digest = json.loads(meta.read_text())["containerimage.digest"]
    seen = peers.inspect(f"docker://{name}@{digest}", "--no-tags")
    assert seen["Labels"] == {"by": f"digest-{pybuild.uid}"}
    assert peers.run(
        "skopeo", "inspect", "--tls-verify=false", f"docker://{name}:latest", check=False
    ).returncode
    pybuild.good("inspect", f"{name}@{digest}")
