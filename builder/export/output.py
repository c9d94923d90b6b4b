"""What `--output` asks for, as a value, and the rules between outputs; opens and builds nothing."""

from __future__ import annotations

from enum import StrEnum

from builder.errors import UsageError
from cache.hints import TYPE_CHECKING
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.export.annotation import Annotation
    from cache.spec.reference import Reference

STDOUT = "-"


class OutputType(StrEnum):
    """Where a result goes. IMAGE stays in the store unless pushed; REGISTRY is a pushed IMAGE."""

    IMAGE = "image"
    REGISTRY = "registry"
    OCI = "oci"
    DOCKER = "docker"
    LOCAL = "local"
    TAR = "tar"
    CACHEONLY = "cacheonly"


class Compression(StrEnum):
    """How newly made layer blobs are stored (O34)."""

    GZIP = "gzip"
    ZSTD = "zstd"
    UNCOMPRESSED = "uncompressed"


@value
class Times:
    """Whose times an output has: `source-date-epoch=` in place of the build's, and rewriting.

    `overridden` with no epoch means that the output has no epoch (O23).
    """

    overridden: bool = False
    epoch: int | None = None
    rewrite: bool = False

    def over(self, epoch: int | None) -> int | None:
        """The epoch of the output in a build with this one."""
        return self.epoch if self.overridden else epoch


@value
class Naming:
    """How an image is named and sent beyond its tags."""

    by_digest: bool = False
    canonical: bool = False
    insecure: bool = False
    store: bool = True
    unpack: bool = False
    dangling: str = ""
    dangling_only_empty: bool = False


@value
class OutputSpec:
    """One `--output`.

    dest: a path, "-" for standard output, "" for outputs without one.
    compression_level: None means the compression's own default.
    delete: what is at a local destination and not in the result goes.
    platform_split: None means a directory for each platform if there are several (O40).
    """

    type: OutputType
    dest: str = ""
    names: tuple[Reference, ...] = ()
    push: bool = False
    tar: bool = True
    oci_mediatypes: bool = True
    compression: Compression = Compression.GZIP
    compression_level: int | None = None
    force_compression: bool = False
    annotations: tuple[Annotation, ...] = ()
    times: Times = Times()
    naming: Naming = Naming()
    delete: bool = False
    platform_split: bool | None = None

    @property
    def to_stdout(self) -> bool:
        """Whether this output takes standard output."""
        return self.dest == STDOUT

    @property
    def is_archive(self) -> bool:
        """Whether the output is an image layout; docker's without a destination is only loaded."""
        return self.type in {OutputType.OCI, OutputType.DOCKER} and bool(self.dest)

    @property
    def is_image(self) -> bool:
        """Whether the output has manifests, which can be annotated."""
        return self.type not in {OutputType.LOCAL, OutputType.TAR, OutputType.CACHEONLY}


def check_outputs(outputs: Sequence[OutputSpec]) -> None:
    """Refuse outputs that would write over each other (O43).

    Raises:
        UsageError: two outputs share standard output or a destination.
    """
    seen: set[str] = set()
    for output in outputs:
        if not output.dest:
            continue
        if output.dest in seen:
            where = "standard output" if output.to_stdout else repr(output.dest)
            msg = f"only one output can be written to {where}"
            raise UsageError(msg, hint="give each output its own dest=")
        seen.add(output.dest)
