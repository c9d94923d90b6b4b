"""Reading the Dockerfile and its ignore file, wherever the user said they are (D01, D11, B05)."""

from __future__ import annotations

import os
import stat
import sys

from builder.errors import UsageError
from cache.hints import TYPE_CHECKING
from cache.value import value
from frontend.dockerfile import remote
from frontend.source import MAX_SOURCE, SourceFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from cache.spec.oci import Layer

MAX_IGNORE = 1024 * 1024  # bytes of a .dockerignore
MAX_FETCHED = 2 * 1024 * 1024  # bytes of a Dockerfile that -f gives by URL
STDIN = "-"
NAME = "Dockerfile"
LOWER_NAME = "dockerfile"
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def _unknown() -> int | None:
    return None


@value
class BuildInput:
    """What a build reads: its Dockerfile and its context.

    An ignore file may lie beside `path`, "" for nowhere. `layers` are the context where it is no
    directory; `changed` says when that was, in seconds since 1970, None where nobody does.
    """

    source: SourceFile
    path: str
    layers: tuple[Layer, ...] | None = None
    changed: Callable[[], int | None] = _unknown


def is_url(text: str) -> bool:
    """Whether a context or a Dockerfile is fetched by http(s)."""
    return text[:8].lower().startswith(("http://", "https://"))


def is_directory(path: str) -> bool:
    """Say whether the context is a directory, or something that has to be loaded (B01-B07).

    Raises:
        UsageError: it is neither.
    """
    if path == STDIN:
        return False
    try:
        os.stat(path)
    except PermissionError as error:
        msg = f'unable to prepare context: path "{path}": permission denied'
        raise UsageError(msg, hint="check the directory and those above it") from error
    except (OSError, ValueError):
        pass  # said below
    if os.path.isdir(path):
        return True
    if is_url(path) or _is_git(path):
        return False
    if not os.path.exists(path):
        msg = f'unable to prepare context: path "{path}" not found'
        raise UsageError(msg, hint=_instead_of(path))
    msg = f'unable to prepare context: "{path}" is not a directory'
    raise UsageError(msg, hint="name the directory; a Dockerfile is named with -f")


def _instead_of(path: str) -> str:
    """What to write where a context that is not there is named."""
    from builder.commandhelp import PAGES  # noqa: PLC0415 - only when something is wrong

    if path in PAGES or path in {"build", "version", "help"}:
        return f"a command comes first: pybuild {path} …; a directory of that name is ./{path}"
    return "name a directory that exists, a URL, or - for standard input"


def _is_git(text: str) -> bool:
    from frontend.dockerfile.giturl import parse_git  # noqa: PLC0415 - start-up time

    return parse_git(text) is not None


def read_dockerfile(
    context: str, name: str, fetch: Callable[[str, int], bytes]
) -> tuple[SourceFile, str]:
    """Read the Dockerfile; gives its text and the path its ignore file may lie beside.

    `fetch` gets a URL of at most so many bytes.

    Raises:
        UsageError: absent, no regular file, too large, or not UTF-8.
    """
    if name == STDIN:
        data = sys.stdin.buffer.read(MAX_SOURCE + 1)
        return source_file(NAME, data, "standard input"), ""
    if is_url(name):
        shown = remote.shown(name)
        return source_file(shown, fetch(name, MAX_FETCHED), shown), ""
    path = name or _default(context)
    # A name the user gave may lead anywhere; the context's own Dockerfile only within it.
    read = read_regular if name else read_confined
    data = read(path, MAX_SOURCE)
    if data is None and os.path.basename(path) == NAME:
        path = os.path.join(os.path.dirname(path), LOWER_NAME)
        data = read(path, MAX_SOURCE)
    if data is None:
        path = name or _default(context)
        msg = f"failed to read dockerfile: open {path}: no such file or directory"
        from builder.nearby import advice  # noqa: PLC0415 - only when it is missing

        raise UsageError(msg, hint=advice(context, name, path))
    return source_file(name or os.path.basename(path), data, path), path


def source_file(name: str, data: bytes, where: str) -> SourceFile:
    """Make a Dockerfile of bytes; `where` names them in errors.

    Raises:
        UsageError: too large, or not UTF-8.
    """
    return SourceFile(name, _text(data, where))


def read_ignore(context: str, dockerfile: str) -> tuple[str, str]:
    """Read the ignore file that counts: its name and text, the text empty when there is none.

    Raises:
        UsageError: it is no regular file, too large, or not UTF-8.
    """
    own = f"{dockerfile}.dockerignore"
    if dockerfile and os.path.lexists(own):
        data = read_confined(own, MAX_IGNORE)
        return own, _text(data or b"", own)
    path = os.path.join(context, ".dockerignore")
    data = read_regular(path, MAX_IGNORE, follow=False)
    return ".dockerignore", _text(data or b"", path)


def read_regular(path: str, limit: int, *, follow: bool = True) -> bytes | None:
    """Read a regular file of at most `limit` bytes, None when absent; never blocks on a fifo.

    Raises:
        UsageError: something else is there, or it cannot be read.
    """
    try:
        fd = os.open(path, _FLAGS if follow else _FLAGS | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    return _read(fd, path, limit)


def read_confined(path: str, limit: int) -> bytes | None:
    """Read a regular file as `read_regular` does, but a link leads nowhere outside its directory.

    Errors show lines of what they read, so a link of the context's author must not choose what
    that is (B12).

    Raises:
        UsageError: something else is there, or it cannot be read.
    """
    if not os.path.islink(path):
        return read_regular(path, limit, follow=False)
    from cache.archive.rooted import open_in_root  # noqa: PLC0415 - only for a link

    directory, name = os.path.split(path)
    try:
        root = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_in_root(root, name, _FLAGS)
        finally:
            os.close(root)
    except OSError as error:
        msg = f"cannot read {path}, a link: {error.strerror}"
        raise UsageError(msg, hint="a link must lead to a file in its own directory") from error
    return _read(fd, path, limit)


def _unreadable(path: str, error: OSError) -> UsageError:
    denied = isinstance(error, PermissionError)
    hint = "make it, and the directories above it, readable for this user" if denied else None
    return UsageError(f"cannot read {path}: {error.strerror}", hint=hint)


def _read(fd: int, path: str, limit: int) -> bytes:
    """Read and close `fd`; its kind is looked at first, for a directory cannot be wrapped."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            inside = os.path.join(path, NAME)
            hint = f"did you mean {inside}?" if os.path.isfile(inside) else None
            msg = f"{path} is not a regular file"
            raise UsageError(msg, hint=hint)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    finally:
        os.close(fd)
    if len(data) > limit:
        msg = f"{path} is larger than {limit} bytes"
        raise UsageError(msg)
    return data


def _default(context: str) -> str:
    path = os.path.join(context, NAME)
    lower = os.path.join(context, LOWER_NAME)
    return lower if not os.path.lexists(path) and os.path.lexists(lower) else path


def _text(data: bytes, where: str) -> str:
    if len(data) > MAX_SOURCE:
        msg = f"{where} is larger than {MAX_SOURCE} bytes"
        raise UsageError(msg)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        msg = f"{where}:{line}: not UTF-8 text"
        raise UsageError(msg) from error
