"""Which frontends `# syntax=` may name: those of the language that is built in.

A frontend of BuildKit is a program in an image. None is fetched or run here, so a file that asks
for another language is refused, not read as something that it is not (P14).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from frontend.source import Diagnostic, DockerfileError, Span, printable

if TYPE_CHECKING:
    from frontend.source import SourceFile

HINT = "leave it out if the file is an ordinary Dockerfile: that language is built in"
_OURS = (
    "dockerfile"  # docker/dockerfile, dockerfile-upstream, and what mirrors and BuildKit call it
)


def is_builtin(syntax: str) -> bool:
    """Say whether the value of `# syntax=` or BUILDKIT_SYNTAX asks for what is built in.

    A mirror of the image counts as the image: the last part of the repository decides.
    """
    image = syntax.split(maxsplit=1)[0] if syntax.strip() else _OURS
    return image.rpartition("/")[2].startswith(_OURS)


def refusal(source: SourceFile, syntax: str) -> DockerfileError:
    """Describe a directive that names another frontend, at its line."""
    lines = source.text.splitlines()[:4]  # a shebang and three directives at most
    number = next((n for n, line in enumerate(lines, 1) if syntax in line), 1)
    message = f'frontend "{printable(syntax[:100])}" is not built in, and none is fetched'
    return DockerfileError(source, (Diagnostic(message, Span(number, number), hint=HINT),))
