"""What to say of a source that is not there: ignored, misspelled, or what there is instead."""

from __future__ import annotations

from builder.context.source import CopyError, join, shown
from cache.hints import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.context.source import SourceTree

_NAMED = 5  # names shown to who asked for one that is not there


def not_found(tree: SourceTree, path: str) -> CopyError:
    """The error for a source that is not there."""
    return CopyError(f'"{shown(path)}": not found', hint=hint(tree, path))


def hint(tree: SourceTree, path: str) -> str | None:
    """Say why a path may be missing: ignored, or misspelled."""
    here = ""
    for part in path.split("/"):
        below = join(here, part)
        if tree.hidden(below):
            return f"{shown(below)[1:]} is excluded by .dockerignore"
        if tree.get(below) is None:
            return _near(tree, here, part)
        here = tree.resolve(below)
    return "it is a link whose target is not there"


def _near(tree: SourceTree, parent: str, name: str) -> str:
    import difflib  # noqa: PLC0415 - only on the way to an error

    names = tree.children(parent)[:2000]
    folded = [other for other in names if other.lower() == name.lower()]
    close = folded or difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {shown(join(parent, close[0]))[1:]}?"
    where = shown(parent) if parent else "the top of the build context" if tree.place else "/"
    held = ", ".join(shown(other)[1:] for other in sorted(names)[:_NAMED])
    more = ", ..." if len(names) > _NAMED else ""
    return f"{where} has {held}{more}" if held else f"{where} is empty"
