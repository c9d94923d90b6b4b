"""Reading an OCI layout directory with nothing but the standard library and zstd."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard
from support import image_schema

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """A layout directory with one image."""

    path: Path

    def blob(self, digest):
        """A blob's bytes, whose digest is checked."""
        data = (self.path / "blobs" / digest.replace(":", "/", 1)).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
        return data

    @property
    def index(self):
        """index.json."""
        return json.loads((self.path / "index.json").read_bytes())

    @property
    def digest(self):
        """The digest of the first manifest."""
        return self.index["manifests"][0]["digest"]

    @property
    def manifest(self):
        """The first manifest."""
        return json.loads(self.blob(self.digest))

    @property
    def config(self):
        """The config."""
        return json.loads(self.blob(self.manifest["config"]["digest"]))

    def layers(self):
        """The layers as uncompressed tar bytes, lowest first."""
        return [plain(self.blob(layer["digest"])) for layer in self.manifest["layers"]]

    def owner(self, path):
        """Uid and gid of a path in the topmost layer that has it."""
        for number in reversed(range(len(self.manifest["layers"]))):
            member = self.entries(number).get(path)
            if member is not None:
                return member.uid, member.gid
        raise KeyError(path)

    def entries(self, number=-1):
        """The members of one layer by name, the last unless told."""
        with tarfile.open(fileobj=io.BytesIO(self.layers()[number])) as archive:
            return {member.name.rstrip("/"): member for member in archive}

    def check(self):
        """Everything the specification says of the documents and what they say of each other."""
        image_schema.check("layout", json.loads((self.path / "oci-layout").read_bytes()))
        image_schema.check("index", self.index)
        manifest, config = self.manifest, self.config
        image_schema.check("manifest", manifest)
        image_schema.check("config", config)
        for described in (self.index["manifests"][0], manifest["config"], *manifest["layers"]):
            assert len(self.blob(described["digest"])) == described["size"]
        plains = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in self.layers()]
        assert plains == config["rootfs"]["diff_ids"]
        filled = [entry for entry in config.get("history", []) if not entry.get("empty_layer")]
        assert len(filled) == len(plains)
        return self


def plain(data):
    """The bytes of a blob without its compression."""
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    if data[:4] == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data
