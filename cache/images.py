"""The local image store: names to image manifests and indexes kept in the content store."""

from __future__ import annotations

import time

from cache.errors import ContentNotFoundError, PybuildError
from cache.hints import TYPE_CHECKING
from cache.spec.config import ImageConfig
from cache.spec.digest import Digest
from cache.spec.fields import Fields
from cache.spec.manifest import (
    Image,
    Index,
    Manifest,
    descriptor_from,
    descriptor_json,
    pair_layers,
)
from cache.spec.oci import INDEX_TYPES, MAX_DOCUMENT, canonical_json, load_object
from cache.value import value

if TYPE_CHECKING:
    from cache.content import ContentStore
    from cache.database import Database
    from cache.spec.oci import Descriptor, Platform
    from cache.spec.reference import Reference


@value
class Named:
    """An image of the store: its manifest or index, its full names, when it was put (ns)."""

    manifest: Descriptor
    names: tuple[str, ...]
    created: int


@value
class Stored:
    """What a name leads to: one image, or the index of several platforms' images."""

    root: Descriptor
    images: tuple[Image, ...]

    @property
    def is_index(self) -> bool:
        """Whether there is an index, be it of one image."""
        return self.root.media_type in INDEX_TYPES

    @property
    def index(self) -> Descriptor | None:
        """The index, if there is one."""
        return self.root if self.is_index else None

    @property
    def id(self) -> Digest:
        """The image ID: the config's digest, or that of an index of several."""
        return self.root.digest if self.is_index else self.images[0].config_blob.digest

    def choose(self, platform: Platform) -> Image:
        """The image for a platform: the same, or of the same architecture, or else the first."""
        wanted = (platform.os, platform.architecture)
        ranked = sorted(
            self.images,
            key=lambda image: (
                image.config.platform != platform,
                (image.config.platform.os, image.config.platform.architecture) != wanted,
            ),
        )
        return ranked[0]


class ImageStore:
    """Names and manifests; the image ID is the config's digest, as docker's is."""

    def __init__(self, database: Database, content: ContentStore) -> None:
        """Use an open database and the content its manifests lie in."""
        self._database = database
        self._content = content

    def put(self, manifest: Descriptor, names: tuple[Reference, ...]) -> None:
        """Remember an image and point names at it; a name moves from an older image."""
        if self._is_so(manifest, names):
            return  # nothing to write: a cached rebuild waits for no disk
        self._content.settle()
        now = time.time_ns()
        row = canonical_json(descriptor_json(manifest)).decode()
        with self._database.transaction():
            self._database.rows(
                "INSERT INTO images VALUES (?, ?, ?) ON CONFLICT (digest) DO NOTHING",
                (str(manifest.digest), row, now),
            )
            for name in names:
                self._database.rows(
                    "INSERT OR REPLACE INTO names VALUES (?, ?, ?)",
                    (str(name), str(manifest.digest), now),
                )

    def _is_so(self, manifest: Descriptor, names: tuple[Reference, ...]) -> bool:
        digest = str(manifest.digest)
        known = self._database.rows("SELECT 1 FROM images WHERE digest = ?", (digest,))
        if not known:
            return False
        held = self._database.rows("SELECT name FROM names WHERE image = ?", (digest,))
        return {str(name) for name in names} <= {str(row[0]) for row in held}

    def find(self, reference: Reference) -> Stored | None:
        """Look a name (or name@digest) up; an image whose content is gone is not found."""
        digest = reference.digest
        if digest is None:
            rows = self._database.rows("SELECT image FROM names WHERE name = ?", (str(reference),))
            if not rows:
                return None
            digest = Digest.parse(str(rows[0][0]))
        root = self._manifest(str(digest))
        try:
            return None if root is None else self.load(root)
        except ContentNotFoundError:
            return None

    def find_id(self, prefix: str) -> Stored | None:
        """Look an image up by a unique prefix (at least 4 digits) of its ID or a digest of it."""
        text = prefix.removeprefix("sha256:").lower()
        if len(text) < 4 or any(c not in "0123456789abcdef" for c in text):  # noqa: PLR2004
            return None
        found: dict[Digest, Stored] = {}
        for named in self.list():
            stored = self.load(named.manifest)
            if stored.root.digest.hex.startswith(text):
                found[stored.id] = stored
            for image in stored.images:
                ids = (image.config_blob.digest, image.manifest.digest)
                if any(digest.hex.startswith(text) for digest in ids):
                    found.setdefault(image.config_blob.digest, Stored(image.manifest, (image,)))
        return next(iter(found.values())) if len(found) == 1 else None

    def load(self, root: Descriptor) -> Stored:
        """Read the documents a name leads to, verified.

        Raises:
            ContentNotFoundError: a document is gone; InvalidDocumentError: it is malformed.
        """
        if root.media_type not in INDEX_TYPES:
            return Stored(root, (self._image(root),))
        index = Index.from_json(self._read(root), root.media_type)
        entries = (entry for entry in index.manifests if not _is_attestation(entry))
        return Stored(root, tuple(self._image(entry) for entry in entries))

    def _image(self, manifest: Descriptor) -> Image:
        document = Manifest.from_json(self._read(manifest), manifest.media_type)
        config = ImageConfig.from_json(self._read(document.config))
        return Image(manifest, document.config, config, pair_layers(document, config))

    def list(self) -> tuple[Named, ...]:
        """Every image, newest first."""
        names: dict[str, list[str]] = {}
        for name, image in self._database.rows("SELECT name, image FROM names ORDER BY name"):
            names.setdefault(str(image), []).append(str(name))
        found = []
        rows = self._database.rows("SELECT digest, created FROM images ORDER BY created DESC")
        for digest, created in rows:
            manifest = self._manifest(str(digest))
            if manifest is not None and isinstance(created, int):
                found.append(Named(manifest, tuple(names.get(str(digest), ())), created))
        return tuple(found)

    def untag(self, reference: Reference) -> bool:
        """Remove a name; the image stays until `remove`."""
        rows = self._database.rows(
            "DELETE FROM names WHERE name = ? RETURNING name", (str(reference),)
        )
        return bool(rows)

    def remove(self, manifest: Digest) -> None:
        """Forget an image and its names."""
        with self._database.transaction():
            self._database.rows("DELETE FROM names WHERE image = ?", (str(manifest),))
            self._database.rows("DELETE FROM images WHERE digest = ?", (str(manifest),))

    def _manifest(self, digest: str) -> Descriptor | None:
        rows = self._database.rows("SELECT manifest FROM images WHERE digest = ?", (digest,))
        if not rows:
            return None
        try:
            return descriptor_from(
                Fields(load_object(str(rows[0][0]).encode(), "image row"), "image row")
            )
        except PybuildError:
            return None

    def _read(self, descriptor: Descriptor) -> bytes:
        with self._content.open(descriptor) as stream:
            return stream.read(MAX_DOCUMENT + 1)


def _is_attestation(entry: Descriptor) -> bool:
    return entry.platform is not None and entry.platform.os == "unknown"
