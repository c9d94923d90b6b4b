"""Platforms, descriptors, layers and the JSON border (image-spec v1.1)."""

from __future__ import annotations

import json

from cache.errors import InvalidDocumentError
from cache.hints import TYPE_CHECKING, Self, cast
from cache.spec.digest import Digest
from cache.value import field, value

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_DOCUMENT = 4 * 1024 * 1024  # bytes of one manifest, index or config
_MAX_DEPTH = 64

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
LAYER_TYPES = (
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
)


@value
class Platform:
    """Operating system, architecture and variant, normalised as containerd does."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `os[(version)][/arch[/variant]]` or a bare arch or os.

        Raises:
            InvalidDocumentError: a single word that is neither an operating system nor an
                architecture we know, or several that are not shaped like names.
        """
        parts = text.split("/")
        name, version = _os_of(parts[0])
        fits = name and all(map(_is_word, parts[1:]))
        if len(parts) > 1 and not fits:
            raise _unknown_platform(text)
        parts = [part.lower() for part in (name, *parts[1:])]
        if len(parts) == 1 and parts[0] in _OSES:
            return cls(os=parts[0], os_version=version)
        if len(parts) == 1:
            parts = ["linux", *parts]
        elif len(parts) > _PLATFORM_PARTS:
            raise _unknown_platform(text)
        architecture, variant = _normalise_arch(parts[1], parts[2] if parts[2:] else "")
        if "/" not in text and (architecture not in _ARCHES or version):
            raise _unknown_platform(text)
        return cls(_OS_ALIASES.get(parts[0], parts[0]), architecture, variant, version)

    def is_known(self) -> bool:
        """Whether there are machines of this architecture, as far as we know."""
        return self.architecture in _ARCHES

    def __str__(self) -> str:
        """Render as `os/arch[/variant]`."""
        tail = f"/{self.variant}" if self.variant else ""
        return f"{self.os}/{self.architecture}{tail}"


_PLATFORM_PARTS = 3
_WORD = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz-"
_OS_ALIASES = {"macos": "darwin"}
_OSES = frozenset({"linux", "windows", "darwin", "freebsd", "wasip1"})
_ARCHES = frozenset(
    [
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    ]
)
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}


def _normalise_arch(architecture: str, variant: str) -> tuple[str, str]:
    architecture, implied = _ALIASES.get(architecture, (architecture, ""))
    variant = variant or implied
    if variant.isdigit():
        variant = f"v{variant}"
    if architecture == "arm64" and variant in {"v8", ""}:
        return architecture, ""
    if architecture == "arm" and not variant:
        return architecture, "v7"
    if architecture == "amd64" and variant == "v1":
        return architecture, ""
    return architecture, variant


def _os_of(text: str) -> tuple[str, str]:
    """The operating system and its version in brackets; two times "" for what is neither."""
    name, bracket, version = text.partition("(")
    fits = _is_word(name) and (not bracket or version[-1:] == ")")
    version = version[:-1]
    return (name, version) if fits and not version.strip(_WORD + ".%") else ("", "")


def _is_word(text: str) -> bool:
    return bool(text) and not text.strip(_WORD)


def _unknown_platform(text: str) -> InvalidDocumentError:
    msg = f"failed to parse platform {text[:60]!r}: unknown operating system or architecture"
    return InvalidDocumentError(msg, hint="write it as os/arch, such as linux/amd64")


@value
class Descriptor:
    """What a blob is, its digest and its size in bytes (image-spec descriptor.md)."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None


@value
class Layer:
    """A layer: its blob as stored (compressed or not) and the digest of its uncompressed tar."""

    blob: Descriptor
    diff_id: Digest


def chain_id(diff_ids: Sequence[Digest]) -> Digest:
    """Identify a stack of layers, base first (image-spec config.md, "Layer ChainID").

    The empty stack has the digest of no bytes, so that scratch has an identity too.
    """
    if not diff_ids:
        return Digest.of(b"")
    head, *rest = diff_ids
    for diff_id in rest:
        head = Digest.of(f"{head} {diff_id}".encode())
    return head


def canonical_json(value: object) -> bytes:
    """Encode with sorted keys, no blanks and UTF-8: the only encoder whose bytes are digested."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def load_object(data: bytes, what: str) -> dict[str, object]:
    """Decode one JSON object under limits: 4 MiB, 64 levels, no repeated keys.

    Raises:
        InvalidDocumentError: over a limit, not JSON, ambiguous, or not an object.
    """
    if len(data) > MAX_DOCUMENT:
        msg = f"{what}: document of {len(data)} bytes is over the limit of {MAX_DOCUMENT}"
        raise InvalidDocumentError(msg)
    _check_depth(data, what)
    try:
        value = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        msg = f"{what}: malformed JSON ({str(error)[:100]})"
        raise InvalidDocumentError(msg) from error
    if not isinstance(value, dict):
        msg = f"{what}: expected a JSON object"
        raise InvalidDocumentError(msg)
    return cast("dict[str, object]", value)


def _check_depth(data: bytes, what: str) -> None:
    depth = 0
    in_string = escaped = False
    for byte in data.translate(None, _NOT_STRUCTURE):
        if escaped:
            escaped = False
        elif in_string:
            escaped = byte == ord("\\")
            in_string = byte != ord('"')
        elif byte == ord('"'):
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > _MAX_DEPTH:
                msg = f"{what}: JSON nested deeper than {_MAX_DEPTH} levels"
                raise InvalidDocumentError(msg)
        elif byte in b"]}":
            depth -= 1


_NOT_STRUCTURE = bytes(b for b in range(256) if b not in b'[]{}"\\ntrbfu/')


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        msg = "repeated key"
        raise ValueError(msg)
    return result


def _no_constant(name: str) -> object:
    msg = f"{name} is not JSON"
    raise ValueError(msg)
