"""Named contexts: their names made comparable, their values told apart (F02, S06, S07).

Reads text only: whether a directory, an image or a URL exists is not known here, and a value is
looked at only when a Dockerfile uses its name.
"""

from __future__ import annotations

import contextlib

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.spec.oci import Platform
from cache.spec.reference import Reference
from cache.value import value
from frontend.dockerfile import remote
from frontend.dockerfile.problems import MistakeError
from frontend.graph import (
    ContextOp,
    CopyOp,
    GitOp,
    GraphBuilder,
    HttpOp,
    PathSource,
    Ref,
    RemoteSource,
    ScratchOp,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from frontend.dockerfile.syntax import From
    from frontend.source import Span

LAYOUT = "oci-layout://"
IMAGE = "docker-image://"
_TARGET = "target:"
_SCRATCH = "scratch"
_FILE = "context"  # what the reference calls the file that a URL gives
_MAIN = "context"
_LATEST = ":latest"
_PLATFORM = "::"


@value
class DirectorySource:
    """A directory of the host: the context's value is its path."""


@value
class ImageSource:
    """An image by name, `scratch`, or `oci-layout://…` as it was written."""

    text: str


@value
class StageSource:
    """A stage of the same Dockerfile."""

    name: str


@value
class FileSource:
    """A single file, fetched; it is named `context` whatever it holds."""

    op: HttpOp


@value
class GitSource:
    """The files of a git commit."""

    op: GitOp


class ContextError(MistakeError):
    """The value of a named context that is used says nothing that can be loaded."""


ContextSource = DirectorySource | ImageSource | StageSource | FileSource | GitSource


@value
class NamedContext:
    """A named context that is used. `name` is what a ContextOp calls it."""

    name: str
    source: ContextSource


class Contexts:
    """The named contexts of a request, by normalised name."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Take (name, value) pairs; of one name the last counts.

        Raises:
            MistakeError: a name is no image name.
        """
        self._values = {_given(name): text for name, text in pairs}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._values)

    def find(self, name: str, platform: Platform) -> NamedContext | None:
        """Find the context for a name on a platform; `name::os/arch` goes before `name` (S07).

        Raises:
            ContextError: its value says nothing that can be loaded.
        """
        if not self._values or name.lower() == _SCRATCH:
            return None
        plain = _familiar(name)
        if plain is None:
            return None
        for key in (f"{plain}{_PLATFORM}{platform}", plain):
            if key in self._values:
                shown = f"{key}{_LATEST}" if key == _MAIN else key
                try:
                    return NamedContext(shown, parse_source(self._values[key]))
                except PybuildError as error:
                    message = f"context {key}: {error.message}"
                    raise ContextError(message, hint=error.hint) from error
        return None

    def replaces(self, stage: From, target: Platform) -> bool:
        """Whether the stage of a FROM is not built because a context stands in for it."""
        if stage.stage.lower() == _MAIN:
            return False
        platform = target
        with contextlib.suppress(PybuildError):  # reported where the stage is lowered
            platform = Platform.parse(stage.platform) if stage.platform else target
        try:
            found = self.find(stage.stage, platform)
        except PybuildError:
            return True  # a value that cannot be read is reported if the stage is used
        if found is None:
            return False
        source = found.source
        return not (isinstance(source, StageSource) and source.name.lower() == stage.stage)

    def path(self, name: str) -> str:
        """Give the directory of a ContextOp's name."""
        return self._values[_MAIN if name == _MAIN + _LATEST else name]


def copied_tree(graph: GraphBuilder, context: NamedContext, span: Span) -> Ref:
    """Add what a COPY or a mount reads a context from."""
    source = context.source
    if isinstance(source, FileSource):
        shown = f"[context {context.name}] {remote.shown(source.op.url)}"
        file = graph.add(source.op, name=shown, span=span)
        copied = CopyOp((RemoteSource(1, source.op.filename),), "/")
        return graph.add(copied, graph.add(ScratchOp()), file, name=shown, span=span)
    if isinstance(source, GitSource):
        shown = f"[context {context.name}] {remote.shown(source.op.url)}"
        return graph.add(source.op, name=shown, span=span)
    shown = f"[context {context.name}] load from client"
    return graph.add(ContextOp(context.name), name=shown, span=span)


def base_tree(graph: GraphBuilder, context: NamedContext, span: Span) -> Ref:
    """Add the file system of a stage that is built FROM a context."""
    tree = copied_tree(graph, context, span)
    if isinstance(context.source, FileSource):
        return tree
    name = f"[context {context.name}] copy"
    scratch = graph.add(ScratchOp())
    return graph.add(CopyOp((PathSource(1, "/"),), "/"), scratch, tree, name=name, span=span)


def base_text(context: NamedContext) -> str:
    """Word where a context came from, for the history of an image built FROM it."""
    source = context.source
    if isinstance(source, FileSource):
        return f"http url {remote.shown(source.op.url)}"
    if isinstance(source, GitSource):
        url = remote.shown(source.op.url)
        return f"git snapshot for {url}" + (f"#{source.op.ref}" if source.op.ref else "")
    return f"local source for {context.name}"


def parse_source(text: str) -> ContextSource:
    """Tell what the value of --build-context means.

    Raises:
        PybuildError: an image name or a git query in it is malformed.
    """
    if text.startswith(IMAGE):
        image = text.removeprefix(IMAGE)
        if image != _SCRATCH:
            Reference.parse(image)
        return ImageSource(image)
    if text.startswith(LAYOUT):
        return ImageSource(text)
    if text.startswith(_TARGET):
        return StageSource(text.removeprefix(_TARGET))
    if text.startswith(("/", ".")) or not text:
        return DirectorySource()
    from frontend.dockerfile.giturl import parse_git  # noqa: PLC0415 - start-up time

    op = parse_git(text)
    if op is not None:
        return GitSource(op)
    return FileSource(HttpOp(text, _FILE)) if remote.is_http(text) else DirectorySource()


def check_stage_name(name: str) -> None:
    """Refuse the name of a stage that no context could have, as the reference does for all stages.

    Raises:
        MistakeError: such as for `a-` or `a..b`.
    """
    if name not in {"", _SCRATCH, _MAIN} and _familiar(name) is None:
        raise MistakeError(
            f"invalid context name {name[:100]}: invalid reference format",
            hint="let the stage's name have single dots or underlines and end in a letter or digit",
        )


def _given(name: str) -> str:
    """Normalise the name of a --build-context."""
    plain, colons, text = name.partition(_PLATFORM)
    familiar = _familiar(plain)
    if familiar is None:
        raise MistakeError(
            f"invalid context name {name[:60]!r}",
            hint="names are like those of images: lower case letters, digits and - _ . /",
        )
    if not colons:
        return familiar
    try:
        return f"{familiar}{_PLATFORM}{Platform.parse(text)}"
    except PybuildError as error:
        message = f"invalid context name {name[:60]!r}: {error.message}"
        raise MistakeError(message, hint="write NAME::os/architecture") from error


def _familiar(name: str) -> str | None:
    """Make names of one image equal: `alpine` for docker.io/library/alpine:latest."""
    try:
        reference = Reference.parse(name)
    except PybuildError:
        return None
    return reference.familiar.removesuffix(_LATEST)
