"""Where output bytes go: standard output or a file that is replaced whole or not at all.

Knows paths and descriptors, not what is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from builder.errors import ExportError, UsageError
from builder.export.output import STDOUT, OutputType
from cache.hints import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from builder.export.output import OutputSpec
    from cache.archive.writer import Sink

_ELSEWHERE = "name a place where you can write"
_ROOM = "free some space there, or name another place"
_ADVICE = {
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
}
_READABLE = 0o666  # less the umask
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def check_destination(output: OutputSpec, *, stdout_is_terminal: bool) -> None:
    """Refuse before the build what could not be written after it (O43).

    Raises:
        UsageError: a terminal, or something of the wrong kind, stands at the destination.
        ExportError: the destination cannot be looked at or written to.
    """
    if not output.dest:
        return
    if output.dest == STDOUT:
        if stdout_is_terminal:
            msg = f"refusing to write type={output.type} to a terminal"
            raise UsageError(msg, hint="add dest=FILE, or redirect standard output")
        return
    directory = output.type is OutputType.LOCAL or not output.tar
    try:
        mode = os.stat(output.dest).st_mode if directory else os.lstat(output.dest).st_mode
    except FileNotFoundError:
        _check_room(output.dest, made=directory)
        return
    except OSError as error:
        raise _cannot(output.dest, error) from error
    if directory and not stat.S_ISDIR(mode):
        msg = f"destination {output.dest!r} is not a directory"
        raise UsageError(msg, hint="name a directory, or a new place for one")
    if directory:
        _check_writable(output.dest, output.dest)
    else:
        _check_file(output.dest, mode)
        _check_room(output.dest, made=False)


@contextlib.contextmanager
def open_destination(dest: str, stdout: BinaryIO) -> Iterator[Sink]:
    """Open a file, or standard output for "-", to write to.

    A file appears under its name when the block ends well, complete; until then, and for good
    when the block fails, what was there before stays as it was (K02). What replaces a file is on
    disk first, so that no loss of power takes both. Where there is nothing to lose, the disk is not
    waited for, as by other programs that write a file.

    Raises:
        ExportError: it cannot be written.
        UsageError: standard output is a terminal, or the destination no regular file.
    """
    if dest == STDOUT:
        if stdout.isatty():
            msg = "refusing to write an archive to a terminal"
            raise UsageError(msg, hint="add dest=FILE, or redirect standard output")
        with writing(dest):
            yield stdout
            stdout.flush()
        return
    parent, name = os.path.split(dest)
    with writing(dest):
        replaces = _is_there(dest)
        directory = os.open(parent or ".", _DIRECTORY)
        try:
            with replacing(directory, name, durable=replaces) as file:
                yield _early(file) if replaces else file
        finally:
            os.close(directory)


@contextlib.contextmanager
def replacing(
    directory: int, name: str, mode: int = _READABLE, *, durable: bool = True
) -> Iterator[BinaryIO]:
    """Write a file aside in an open directory; on success sync it and rename it into place.

    What is not to be `durable` is left to the system to write out when it likes.
    """
    # The name is cut so that a destination of 255 bytes still has room for the rest.
    aside = f".{name[:40]}.{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(aside, flags, mode, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(descriptor)
        os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=directory)
        raise
    if durable:
        os.fsync(directory)


def _is_there(dest: str) -> bool:
    """Whether a file will be replaced; anything else there is refused."""
    try:
        mode = os.lstat(dest).st_mode
    except FileNotFoundError:
        return False
    _check_file(dest, mode)
    return True


def _early(file: BinaryIO) -> Sink:
    """A file that will be waited for: the disk is at work while it is written."""
    from cache.writeback import EarlyFile  # noqa: PLC0415 - only when a file is replaced

    return EarlyFile(file)


@contextlib.contextmanager
def writing(dest: str) -> Iterator[None]:
    """Say of which destination the system complained."""
    try:
        yield
    except OSError as error:
        if dest == STDOUT and isinstance(error, BrokenPipeError):
            raise  # whoever read has enough: the end of any filter
        raise _cannot(dest, error) from error


def _cannot(dest: str, error: OSError) -> ExportError:
    if dest == STDOUT:
        return ExportError(f"cannot write to standard output: {error.strerror}")
    hint = _ADVICE.get(error.errno or 0)
    return ExportError(f"cannot write to {dest!r}: {error.strerror}", hint=hint)


def _check_file(dest: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        msg = f"destination {dest!r} is a directory"
        raise UsageError(msg, hint="name a file in it, or use type=local or tar=false")
    if not stat.S_ISREG(mode):
        # Replacing /dev/stdout or a pipe by a file is never what was meant.
        msg = f"destination {dest!r} is not a regular file"
        raise UsageError(msg, hint="use dest=- and redirect standard output")


def _check_room(dest: str, *, made: bool) -> None:
    """See that there is a directory to write in; a missing one is `made` for some outputs."""
    parent = os.path.dirname(dest.rstrip("/")) or "."
    while made and not os.path.lexists(parent):
        parent = os.path.dirname(parent) or "."
    if not os.path.isdir(parent):
        msg = f"directory {parent!r} of the destination does not exist"
        raise UsageError(msg, hint="make it first, or name another destination")
    _check_writable(dest, parent)


def _check_writable(dest: str, directory: str) -> None:
    """Names are made in the directory, whatever the file's own mode."""
    if not os.access(directory, os.W_OK | os.X_OK):
        is_ours = os.access(directory, os.F_OK) and not os.statvfs(directory).f_flag & os.ST_RDONLY
        number = errno.EACCES if is_ours else errno.EROFS
        raise _cannot(dest, OSError(number, os.strerror(number)))
