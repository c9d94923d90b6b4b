"""Files that tell scripts what a build resulted in."""

from __future__ import annotations

import base64
import json
import os

import pytest
from support.images import World

from builder.errors import ExportError, UsageError
from builder.export.exporter import BlobForm, publish_index
from builder.export.resultfile import metadata, remove_stale, warnings_json, write_result
from cache.spec.reference import Reference
from frontend.source import Diagnostic, SourceFile, Span


def test_stale_results_go_before_the_build(tmp_path):
    """An old file is gone at the start; a link is removed, not followed (O71, K08)."""
    old = tmp_path / "iid"
    old.write_text("sha256:old")
    remove_stale(str(old))
    remove_stale(str(old))
    assert not old.exists()
    canary = tmp_path / "canary"
    canary.write_text("alive")
    old.symlink_to(canary)
    remove_stale(str(old))
    write_result(str(old), b"new")
    assert canary.read_text() == "alive"
    assert old.read_bytes() == b"new"


def test_warnings_are_told_as_buildx_tells_them():
    """O70: each with its rule, text, page, lines and the file, texts in base64."""
    source = SourceFile("Dockerfile", "FROM scratch\nENV a b\n")
    found = [Diagnostic("use =", Span(2, 2), rule="LegacyKeyValueFormat")]
    (document,) = json.loads(json.dumps(warnings_json(source, found)))
    short = base64.b64decode(document["short"]).decode()
    assert short == "LegacyKeyValueFormat: use = (line 2)"
    assert document["url"].endswith("/legacy-key-value-format/")
    assert document["range"] == [{"start": {"line": 2}, "end": {"line": 2}}]
    assert base64.b64decode(document["sourceInfo"]["data"]).decode() == source.text
    assert document["level"] == 1
    assert len(document["detail"]) == 1


def test_impossible_places_are_refused_early(tmp_path):
    """A directory or a missing parent is a usage error before the build."""
    for path in (tmp_path, tmp_path / "no" / "iid"):
        with pytest.raises(UsageError, match="cannot write a result"):
            remove_stale(str(path))
    with pytest.raises(ExportError, match="cannot write to"):
        write_result(str(tmp_path / "no" / "iid"), b"x")


def test_results_are_written_whole(tmp_path):
    """The file is 0644 at most and no temporary stays (O70)."""
    umask = os.umask(0)
    try:
        write_result(str(tmp_path / "iid"), b"sha256:x")
    finally:
        os.umask(umask)
    assert (tmp_path / "iid").stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["iid"]


def test_metadata_has_dockers_keys():
    """containerimage.* and image.name, two blanks of indent (O44, O70)."""
    world = World()
    image = world.small()
    data = metadata([image], [Reference.parse("app:1")], more={"buildx.build.ref": "x"})
    document = json.loads(data)
    assert document == {
        "buildx.build.ref": "x",
        "containerimage.config.digest": str(image.config_blob.digest),
        "containerimage.descriptor": {
            "digest": str(image.manifest.digest),
            "mediaType": image.manifest.media_type,
            "platform": {"architecture": "amd64", "os": "linux"},
            "size": image.manifest.size,
        },
        "containerimage.digest": str(image.manifest.digest),
        "image.name": "docker.io/library/app:1",
    }
    assert data.startswith(b'{\n  "')
    index = publish_index([image], form=BlobForm(), content=world.content)
    assert "containerimage.config.digest" not in json.loads(metadata([image], (), index=index))
