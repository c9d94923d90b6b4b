"""Build contexts that are no directory: a tar or a Dockerfile on standard input, a URL, a git repository.

Owns getting them before the Dockerfile is read, which may lie inside (B02-B07). Loaded only when
the context is of such a kind; what a COPY does with the tree is not known here.
"""

from __future__ import annotations

import posixpath
import sys
from typing import TYPE_CHECKING, BinaryIO

from builder.dockerfile_input import (
    LOWER_NAME,
    NAME,
    STDIN,
    BuildInput,
    is_url,
    read_dockerfile,
    source_file,
)
from builder.errors import UsageError
from builder.solver.file_op import FileHandler
from builder.solver.git_op import GitHandler
from builder.solver.http_op import MAX_DOWNLOAD, HttpHandler
from builder.solver.output import FileOutput, TreeOutput
from builder.solver.trees import Trees
from cache.archive.entry import Kind
from cache.compress import HEAD, sniff
from cache.records import Record
from cache.spec.oci import Descriptor, Layer
from cache.statcache import StoredStatCache
from cache.value import replace
from frontend.dockerfile import remote
from frontend.dockerfile.giturl import parse_git
from frontend.graph import CopyOp, GitOp, HttpOp, RemoteSource, Unpack
from frontend.source import MAX_SOURCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from builder.clock import Clock
    from builder.remote import Network
    from builder.request import BuildRequest
    from builder.solver.output import Output
    from builder.solver.scheduler import OpHandler
    from builder.state import State
    from frontend.graph import Op

    _Changed = Callable[[], int | None]

_CHUNK = 1 << 20
_SECOND = 1_000_000_000
_FILE = "context"  # what the reference calls a context that is one file
_BLOB = "application/octet-stream"
_KEEP_GIT_DIR = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
_EPOCH = "SOURCE_DATE_EPOCH"
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_BOTH_STDIN = "invalid argument: can't use stdin for both build context and dockerfile"


class QuietLog:
    """A StepLog of what happens before there are steps."""

    def output(self, stream: int, data: bytes) -> None:
        """Nothing of this has output."""

    def flush(self) -> None:
        """Nothing is held."""

    def progress(self, item: str, current: int, total: int) -> None:
        """Nobody is told."""

    def tail(self) -> tuple[str, ...]:
        """No lines."""
        return ()


class RemoteContext:
    """Loads the context of one build."""

    def __init__(
        self,
        request: BuildRequest,
        state: State,
        network: Network,
        secrets: Mapping[str, bytes],
        clock: Clock,
        notice: Callable[[str], None],
    ) -> None:
        """Take what loading needs; nothing is fetched yet. `notice` is told of waits."""
        self._request = request
        self._state = state
        self._network = network
        self._secrets = secrets
        self._clock = clock
        self._notice = notice
        self._trees = Trees({}, state.layers)

    def load(self, stdin: BinaryIO | None = None) -> BuildInput:
        """Load the context and the Dockerfile.

        Raises:
            UsageError: both are standard input, or there is no Dockerfile where it was looked for.
            PybuildError: it cannot be fetched or unpacked.
        """
        if self._request.context == STDIN:
            return self._standard_input(stdin or sys.stdin.buffer)
        git = parse_git(self._request.context)
        return self._url() if git is None else self._git(git)

    def _standard_input(self, stdin: BinaryIO) -> BuildInput:
        if self._request.dockerfile == STDIN:
            raise UsageError(_BOTH_STDIN, hint="give one of them as a file")
        head = _exactly(stdin, HEAD)
        if sniff(head):
            return self._archive(self._stored(head, stdin))
        if self._request.dockerfile:
            msg = "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"
            raise UsageError(
                msg, hint="standard input is no tar archive; leave out -f, or send one"
            )
        data = head + _exactly(stdin, MAX_SOURCE + 1 - len(head))
        return BuildInput(source_file(NAME, data, "standard input"), "", ())

    def _stored(self, head: bytes, stdin: BinaryIO) -> FileOutput:
        """Keep an archive from standard input in the store, never whole in memory."""
        size = len(head)
        with self._state.store.writer() as writer:
            writer.write(head)
            while data := stdin.read(_CHUNK):
                size += len(data)
                if size > MAX_DOWNLOAD:
                    msg = f"the context on standard input is larger than {MAX_DOWNLOAD} bytes"
                    raise UsageError(msg)
                writer.write(data)
            blob = writer.commit(_BLOB)
        return FileOutput(blob.digest, blob.size, 0)

    def _url(self) -> BuildInput:
        op = HttpOp(self._request.context, _FILE)
        file = self._fetched(op)
        if self._is_archive(file):
            return self._archive(file)
        tree = self._tree(CopyOp((RemoteSource(1, _FILE),), "/"), file)
        if self._is_elsewhere():
            return self._with_local_dockerfile(tree, lambda: _seconds(file.mtime))
        with self._opened(file) as stream:
            data = _exactly(stream, MAX_SOURCE + 1)
        source = source_file(NAME, data, remote.shown(self._request.context))
        return BuildInput(source, "", tree.layers, lambda: _seconds(file.mtime))

    def _fetched(self, op: HttpOp) -> FileOutput:
        self._notice(f"fetching {remote.shown(op.url)}")
        state = self._state
        handler = HttpHandler(self._network.get, state.store, state.memos, self._secrets)
        file = handler.run(op, (), QuietLog())
        if not isinstance(file, FileOutput):
            raise TypeError(file)
        return file

    def _is_archive(self, file: FileOutput) -> bool:
        with self._opened(file) as stream:
            return bool(sniff(_exactly(stream, HEAD)))

    def _git_handler(self) -> GitHandler:
        state = self._state
        return GitHandler(
            lambda: self._network.git(state.root, self._request, self._secrets),
            state.layers,
            self._clock.nanoseconds,
        )

    def _git(self, op: GitOp) -> BuildInput:
        arguments = dict(self._request.build_args)
        if arguments.get(_KEEP_GIT_DIR) in _TRUE:
            op = replace(op, keep_git_dir=True)
        if arguments.get(_EPOCH):
            op = replace(op, mtime="commit")
        self._notice(f"fetching {remote.shown(self._request.context)}")
        handler = self._git_handler()
        dated = replace(op, mtime="commit")
        return self._with_dockerfile(
            self._made(handler, op, ()), lambda: self._newest(self._made(handler, dated, ()))
        )

    def _archive(self, file: FileOutput) -> BuildInput:
        tree = self._tree(CopyOp((RemoteSource(1, _FILE),), "/", unpack=Unpack.ALWAYS), file)
        return self._with_dockerfile(tree, lambda: _seconds(file.mtime) or self._newest(tree))

    def _with_dockerfile(self, tree: TreeOutput, changed: _Changed) -> BuildInput:
        """Find the Dockerfile of a tree: inside it, unless -f leads elsewhere (B05)."""
        if self._is_elsewhere():
            return self._with_local_dockerfile(tree, changed)
        name = self._request.dockerfile or NAME
        data = self._read(tree, name)
        if data is None and posixpath.basename(name) == NAME:
            data = self._read(tree, posixpath.join(posixpath.dirname(name), LOWER_NAME))
        if data is None:
            msg = f"failed to read dockerfile: open {name}: no such file or directory"
            raise UsageError(msg, hint="-f names a file inside the context")
        return BuildInput(source_file(name, data, name), "", tree.layers, changed)

    def _is_elsewhere(self) -> bool:
        name = self._request.dockerfile
        outside = name.startswith("/") and self._request.context != STDIN
        return name == STDIN or is_url(name) or outside

    def _with_local_dockerfile(self, tree: TreeOutput, changed: _Changed) -> BuildInput:
        source, _ = read_dockerfile("", self._request.dockerfile, self._network.read)
        return BuildInput(source, "", tree.layers, changed)

    def _tree(self, op: CopyOp, file: FileOutput) -> TreeOutput:
        """Make a tree of a file, as a COPY or an ADD would."""
        memo = StoredStatCache(self._state.memos)
        handler = FileHandler(
            self._trees, self._state.layers, self._state.store, memo, self._clock.nanoseconds
        )
        return self._made(handler, op, (TreeOutput(()), file))

    def _made(self, handler: OpHandler, op: Op, inputs: Sequence[Output]) -> TreeOutput:
        """Do what a step would, unless its record is there."""
        key = handler.key(op, inputs)
        known = self._state.records.get(key) if key is not None else None
        if known is not None and known.layer is not None and self._state.layers.has(known.layer):
            return TreeOutput((known.layer,), known.created)
        layer = handler.run(op, inputs, QuietLog())
        if key is None or not isinstance(layer, Layer):
            raise TypeError(op)
        output = TreeOutput((layer,), self._clock.text())
        self._state.records.put(Record(key, output.chain, layer, output.created, ""))
        return output

    def time_of(self, op: GitOp | HttpOp) -> int | None:
        """When what an op fetches was changed, in seconds since 1970 (O20)."""
        if isinstance(op, GitOp):
            return self._newest(self._made(self._git_handler(), replace(op, mtime="commit"), ()))
        file = self._fetched(op)
        if file.mtime or not self._is_archive(file):
            return _seconds(file.mtime)
        unpacked = CopyOp((RemoteSource(1, op.filename),), "/", unpack=Unpack.ALWAYS)
        return self._newest(self._tree(unpacked, file))

    def _newest(self, tree: TreeOutput) -> int | None:
        """When the newest file of a tree was changed."""
        entries = (entry for layer in tree.layers for entry in self._state.layers.index(layer))
        times = [entry.mtime for entry in entries if entry.kind is Kind.FILE]
        return max(times) // _SECOND if times else None

    def _read(self, tree: TreeOutput, name: str) -> bytes | None:
        """Read a file of a tree, links followed inside it; None when it is not there."""
        with self._trees.opened(tree) as source:
            entry = source.get(source.resolve(name))
            if entry is None:
                return None
            if entry.kind is not Kind.FILE or entry.size > MAX_SOURCE:
                msg = f"failed to read dockerfile: {name} is no file of at most {MAX_SOURCE} bytes"
                raise UsageError(msg)
            return source.read(entry.path)

    def _opened(self, file: FileOutput) -> AbstractContextManager[BinaryIO]:
        return self._state.store.open(Descriptor(_BLOB, file.digest, file.size))


def _seconds(mtime: int) -> int | None:
    return mtime // _SECOND if mtime else None


def _exactly(stream: BinaryIO, count: int) -> bytes:
    """At most `count` bytes, fewer at the end of the stream only."""
    pieces: list[bytes] = []
    while count > 0 and (data := stream.read(count)):
        pieces.append(data)
        count -= len(data)
    return b"".join(pieces)
