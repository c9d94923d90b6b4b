"""Base images for tests: a resolver that serves configs from memory and notes what it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache.errors import PybuildError
from cache.spec import oci
from cache.spec.config import DEFAULT_PATH, History, ImageConfig
from cache.spec.digest import Digest
from cache.spec.manifest import Image
from cache.spec.oci import Descriptor, Layer, Platform
from cache.spec.reference import Reference
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATH = (("PATH", DEFAULT_PATH),)
_TIME = "2026-01-02T03:04:05Z"

IMAGES: Mapping[str, ImageConfig] = {
    "busybox": ImageConfig(
        created=_TIME,
        env=_PATH,
        cmd=("sh",),
        history=(History("BusyBox 1.37", _TIME),),
    ),
    "alpine": ImageConfig(env=_PATH, cmd=("/bin/sh",), working_dir="/"),
    "golang": ImageConfig(env=(*_PATH, ("GOPATH", "/go")), working_dir="/go"),
    "python:3": ImageConfig(  # noqa: S604 - the shell of an image, nothing is run
        author="someone",
        env=(("PATH", "/usr/local/bin:/bin"), ("LANG", "C.UTF-8")),
        entrypoint=("/entry",),
        cmd=("python3",),
        user="app",
        working_dir="/srv",
        exposed_ports=("8080/tcp",),
        volumes=("/data",),
        labels=(("vendor", "v"), ("release", "1")),
        stop_signal="SIGINT",
        shell=("/bin/bash", "-c"),
    ),
    "nopath": ImageConfig(env=(("A", "b"),)),
    "triggers": ImageConfig(
        env=_PATH,
        on_build=("ARG MODE=fast", "WORKDIR /app", "COPY . .", "RUN make $MODE"),
    ),
    "needy": ImageConfig(env=_PATH, on_build=("COPY --from=deps /out /in",)),
    "broken": ImageConfig(env=_PATH, on_build=("FROM x", "FNTRYPOINT a")),
    "foreign": ImageConfig(platform=Platform("linux", "s390x"), env=_PATH),
}


class UnknownImageError(PybuildError):
    """The fake registry has no such image."""


class FakeResolver:
    """An ImageResolver over a mapping from image names to configs; `asked` keeps the questions."""

    def __init__(self, images: Mapping[str, ImageConfig] = IMAGES) -> None:
        self._images = {str(Reference.parse(name)): config for name, config in images.items()}
        self.asked: list[tuple[str, Platform | None]] = []

    def resolve(self, reference: str, platform: Platform | None) -> Image:
        self.asked.append((reference, platform))
        name = Reference.parse(reference)
        config = self._images.get(f"{name.name}:{name.tag or 'latest'}")
        if config is None:
            raise UnknownImageError(f"{reference}: not found", hint="check the name")
        if platform is not None and config.platform == Platform():
            config = replace(config, platform=platform)
        return image_of(str(Reference.parse(reference)), config)


def image_of(reference: str, config: ImageConfig) -> Image:
    """An image of one layer with a config; digests are made from the name and platform."""
    digest = Digest.of(f"{reference} {config.platform}".encode())
    layer = Layer(Descriptor(oci.OCI_LAYER_GZIP, digest, 10), digest)
    return Image(
        Descriptor(oci.OCI_MANIFEST, digest, 100),
        Descriptor(oci.OCI_CONFIG, digest, 200),
        replace(config, diff_ids=(digest,)),
        (layer,),
    )
