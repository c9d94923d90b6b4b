"""Base images by name: the local store first, then the registry; kept so that the next build asks nobody."""

from __future__ import annotations

from cache.errors import ContentNotFoundError, PybuildError
from cache.hints import TYPE_CHECKING, Protocol
from cache.spec.reference import Reference
from frontend.dockerfile.contexts import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.state import State
    from cache.spec.digest import Digest
    from cache.spec.manifest import Image
    from cache.spec.oci import Platform


class RemoteImages(Protocol):
    """Where images that are not here can be had."""

    def fetch(self, reference: Reference, platform: Platform) -> tuple[Image, bytes, bytes]:
        """An image with its manifest's and its config's bytes, verified; no layer is fetched."""


class BaseImages:
    """ImageResolver over a state directory and a registry."""

    def __init__(
        self,
        state: State,
        remote: RemoteImages,
        *,
        pull: bool,
        platform: Platform,
        notice: Callable[[str], None],
    ) -> None:
        """With `pull`, ask the registry even for names known here; `notice` is told of waits."""
        self._state = state
        self._remote = remote
        self._pull = pull
        self._platform = platform
        self._notice = notice
        self.resolved: dict[Digest, Image] = {}

    def resolve(self, reference: str, platform: Platform | None = None) -> Image:
        """Find an image of this platform (the target's by default).

        Raises:
            InvalidDocumentError: no image name; ContentNotFoundError: no such image anywhere.
            PybuildError: an OCI layout that cannot be read.
        """
        wanted = platform or self._platform
        if reference.startswith(LAYOUT):
            image = self._layout(reference, wanted)
        else:
            image = self._resolve(reference, wanted)
        self.resolved[image.manifest.digest] = image
        return image

    def _layout(self, text: str, wanted: Platform) -> Image:
        from builder.layout_images import layout_image  # noqa: PLC0415 - rarely a base

        image = layout_image(text, wanted, self._state.store)
        self._state.images.put(image.manifest, ())
        return image

    def _resolve(self, reference: str, wanted: Platform) -> Image:
        name = Reference.parse(reference)
        local = self._local(name, reference, wanted)
        if local is not None and (not self._pull or name.digest is not None):
            return local
        try:
            return self.fetch(name, wanted)
        except PybuildError as error:
            if local is not None and not getattr(error, "temporary", False):
                return local  # built here, unknown to its registry
            hint = self._other_platform(name, wanted) or error.hint
            raise ContentNotFoundError(f"{reference}: {error.message}", hint=hint) from error

    def _other_platform(self, name: Reference, wanted: Platform) -> str | None:
        """Say so when an image of this name is here, but for other platforms."""
        stored = self._state.images.find(name)
        if stored is None or _best(stored.images, wanted) is not None:
            return None
        offered = ", ".join(str(image.config.platform) for image in stored.images)
        return f"the local {name.familiar} is for {offered}, not for {wanted}"

    def _local(self, name: Reference, text: str, wanted: Platform) -> Image | None:
        stored = self._state.images.find(name) or self._state.images.find_id(text)
        return None if stored is None else _best(stored.images, wanted)

    def fetch(self, name: Reference, platform: Platform) -> Image:
        """Resolve at the registry and keep the documents and where the layers are."""
        self._notice(f"resolving {name.familiar}")
        image, manifest, config = self._remote.fetch(name, platform)
        for media_type, data, digest in (
            (image.manifest.media_type, manifest, image.manifest.digest),
            (image.config_blob.media_type, config, image.config_blob.digest),
        ):
            with self._state.store.writer() as writer:
                writer.write(data)
                writer.commit(media_type, digest)
        self._state.layers.remember_origin([layer.blob for layer in image.layers], name.name)
        names = (name,) if name.digest is None else ()
        self._state.images.put(image.manifest, names)
        return image


def _best(images: Sequence[Image], wanted: Platform) -> Image | None:
    """The image that fits a platform best; None when none can run there."""
    for image in images:
        if image.config.platform == wanted:
            return image
    from builder.registry.platforms import rank  # noqa: PLC0415 - most bases are for this machine

    ranked = [(rank(image.config.platform, wanted), n) for n, image in enumerate(images)]
    fitting = sorted((how, n) for how, n in ranked if how is not None)
    return images[fitting[0][1]] if fitting else None
