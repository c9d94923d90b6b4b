"""Image names: parse, normalise, render (distribution-spec and docker's reference grammar)."""

from __future__ import annotations

import re
from typing import Self

from cache.errors import InvalidDocumentError
from cache.spec.digest import Digest
from cache.value import replace, value

DEFAULT_REGISTRY = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_REGISTRY = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?\Z"
)
_MAX_NAME = 255


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
    if _REPOSITORY.match(repository) is None or len(registry) + len(repository) >= _MAX_NAME:
        hint = "repository names are lower case" if repository != repository.lower() else None
        msg = f"invalid image name {shown!r}"
        raise InvalidDocumentError(msg, hint=hint)
    if _REGISTRY.match(registry) is None:
        msg = f"invalid registry host in image name {shown!r}"
        raise InvalidDocumentError(msg)
    if tag is not None and _TAG.match(tag) is None:
        msg = f"invalid tag in image name {shown!r}"
        raise InvalidDocumentError(msg)
