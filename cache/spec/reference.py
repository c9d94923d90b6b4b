"""Image names: parse, normalise, render (distribution-spec and docker's reference grammar)."""

from __future__ import annotations

import re

from cache.errors import InvalidDocumentError
from cache.hints import Self
from cache.spec.digest import Digest
from cache.value import replace, value

DEFAULT_REGISTRY = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_IPV6 = "0123456789ABCDEFabcdef:"
_MAX_NAME = 255
_MAX_TAG = 128
_MAX_PORT = 5  # digits


@value
class Reference:
    """A normalised image name: registry host, repository, and tag and/or digest."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a familiar or full name; `busybox` is `docker.io/library/busybox:latest`.

        Raises:
            InvalidDocumentError: the name breaks the reference grammar.
        """
        name, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        head, slash, tail = name.partition("/")
        if slash and (any(c in head for c in ".:[") or head == "localhost"):
            registry, rest = head, tail
        else:
            registry, rest = DEFAULT_REGISTRY, name
        if registry == "index.docker.io":
            registry = DEFAULT_REGISTRY
        repository, colon, tag_text = rest.partition(":")
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            repository = f"library/{repository}"
        tag = tag_text if colon else (None if digest else "latest")
        _check(text, registry, repository, tag)
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """The full name without tag or digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The short form docker shows: docker.io and library/ left out."""
        text = str(self)
        return text.removeprefix("docker.io/").removeprefix("library/")

    def pinned(self, digest: Digest) -> Self:
        """Name the same image by digest."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        """Render in full."""
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def _check(text: str, registry: str, repository: str, tag: str | None) -> None:
    shown = text[:100]
    if not _is_repository(repository) or len(registry) + len(repository) >= _MAX_NAME:
        hint = "repository names are lower case" if repository != repository.lower() else None
        msg = f"invalid image name {shown!r}"
        raise InvalidDocumentError(msg, hint=hint)
    if not _is_registry(registry):
        msg = f"invalid registry host in image name {shown!r}"
        raise InvalidDocumentError(msg)
    if tag is not None and not _is_tag(tag):
        msg = f"invalid tag in image name {shown!r}"
        raise InvalidDocumentError(msg)


# By hand where that is short: compiling patterns took longer than the rest of a cached build's names.
def _is_repository(text: str) -> bool:
    return all(re.fullmatch(_COMPONENT, part) for part in text.split("/"))


def _is_tag(text: str) -> bool:
    fits = 0 < len(text) <= _MAX_TAG and text[0] not in ".-"
    return fits and not text.strip(_ALPHANUMERIC + "_.-")


def _is_registry(text: str) -> bool:
    host, colon, port = text, "", ""
    if not text.endswith("]"):
        host, colon, port = text.partition(":") if text[:1] != "[" else text.rpartition(":")
    if colon and not (port.isascii() and port.isdecimal() and len(port) <= _MAX_PORT):
        return False
    if host[:1] == "[":
        inside = host[1:-1]
        return host[-1] == "]" and bool(inside) and not inside.strip(_IPV6)
    return all(
        label.strip("-") == label != "" and not label.strip(_ALPHANUMERIC + "-")
        for label in host.split(".")
    )
