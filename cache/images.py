"""The local image store: names to image manifests kept in the content store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cache.errors import ContentNotFoundError, PybuildError
from cache.spec.config import ImageConfig
from cache.spec.digest import Digest
from cache.spec.fields import Fields
from cache.spec.manifest import Image, Manifest, descriptor_from, descriptor_json, pair_layers
from cache.spec.oci import MAX_DOCUMENT, canonical_json, load_object
from cache.value import value

if TYPE_CHECKING:
    from cache.content import ContentProvider
    from cache.database import Database
    from cache.spec.oci import Descriptor
    from cache.spec.reference import Reference


@value
class Named:
    """An image of the store: its manifest, its full names, when it was put (ns since epoch)."""

    manifest: Descriptor
    names: tuple[str, ...]
    created: int


class ImageStore:
    """Names and manifests; the image ID is the config's digest, as docker's is."""

    def __init__(self, database: Database, content: ContentProvider) -> None:
        """Use an open database and the content its manifests lie in."""
        self._database = database
        self._content = content

    def put(self, manifest: Descriptor, names: tuple[Reference, ...]) -> None:
        """Remember an image and point names at it; a name moves from an older image."""
        if self._is_so(manifest, names):
            return  # nothing to write: a cached rebuild waits for no disk
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

    def find(self, reference: Reference) -> Image | None:
        """Look a name (or name@digest) up; an image whose content is gone is not found."""
        digest = reference.digest
        if digest is None:
            rows = self._database.rows("SELECT image FROM names WHERE name = ?", (str(reference),))
            if not rows:
                return None
            digest = Digest.parse(str(rows[0][0]))
        manifest = self._manifest(str(digest))
        try:
            return None if manifest is None else self.load(manifest)
        except ContentNotFoundError:
            return None

    def find_id(self, prefix: str) -> Image | None:
        """Look an image up by a unique prefix (at least 4 digits) of its ID or manifest digest."""
        text = prefix.removeprefix("sha256:").lower()
        if len(text) < 4 or any(c not in "0123456789abcdef" for c in text):  # noqa: PLR2004
            return None
        found: dict[Digest, Image] = {}
        for named in self.list():
            image = self.load(named.manifest)
            if image.config_blob.digest.hex.startswith(
                text
            ) or image.manifest.digest.hex.startswith(text):
                found[image.config_blob.digest] = image
        return next(iter(found.values())) if len(found) == 1 else None

    def load(self, manifest: Descriptor) -> Image:
        """Read an image's documents, verified.

        Raises:
            ContentNotFoundError: a document is gone; InvalidDocumentError: it is malformed.
        """
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
