"""COPY, ADD and WORKDIR as steps: keys from content, layers written without a process."""

from __future__ import annotations

import contextlib

from builder.solver.copy_key import RemoteFile, copy_key_parts
from builder.solver.output import FileOutput, Output, TreeOutput
from builder.solver.selection import digest_subtree
from cache.archive.entry import Kind
from cache.hints import TYPE_CHECKING, BinaryIO
from cache.keys import CacheKey
from cache.spec.oci import Descriptor
from frontend.graph import CopyOp, MkdirOp, PathSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from builder.context.memo import SelectionCache, StatCache
    from builder.context.source import SourceTree
    from builder.solver.earlier import EarlierLayers
    from builder.solver.scheduler import StepLog
    from builder.solver.trees import Trees
    from cache.content import ContentProvider
    from cache.layers import LayerStore, LayerWriter
    from cache.spec.oci import Layer
    from frontend.graph import Op

_FETCHED = "application/octet-stream"
_STDERR = 2


class FileHandler:
    """OpHandler for CopyOp and MkdirOp."""

    def __init__(
        self,
        trees: Trees,
        layers: LayerStore,
        content: ContentProvider,
        memo: StatCache,
        now: Callable[[], int],
        earlier: EarlierLayers | None = None,
        lasting: SelectionCache | None = None,
    ) -> None:
        """`now` gives the mtime (ns) of what a step makes itself; `earlier` spares reading.

        `lasting` remembers what was selected of trees that never change, else `memo` does.
        """
        self._trees = trees
        self._layers = layers
        self._content = content
        self._memo = memo
        self._now = now
        self._earlier = earlier
        self._lasting = lasting

    def key(self, op: Op, inputs: Sequence[Output]) -> CacheKey:
        """The parent's output digest, the instruction and the content it copies (K03)."""
        if not isinstance(op, (CopyOp, MkdirOp)):
            raise TypeError(op)
        kind = "copy.v2" if isinstance(op, CopyOp) else "mkdir.v2"
        with contextlib.ExitStack() as stack:
            sources = self._sources(inputs, stack)
            parts = copy_key_parts(op, sources, self._remote(inputs), self._memo, self._lasting)
        return CacheKey.of(("op", kind), ("parent", _chain(inputs[0])), *parts)

    def run(self, op: Op, inputs: Sequence[Output], log: StepLog) -> Layer:
        """Write the layer."""
        from builder.solver.mkdir_op import write_mkdir  # noqa: PLC0415 - nor makes directories

        def warn(text: str) -> None:
            log.output(_STDERR, f"warning: {text}\n".encode())

        with contextlib.ExitStack() as stack:
            base = stack.enter_context(self._trees.opened(inputs[0]))
            writer = stack.enter_context(self._layers.writer())
            if isinstance(op, MkdirOp):
                write_mkdir(op, base, writer, mtime=self._now(), warn=warn)
            elif isinstance(op, CopyOp):
                return self._copy(op, base, inputs, writer, stack, warn)
            else:
                raise TypeError(op)
            return writer.commit()

    def _copy(
        self,
        op: CopyOp,
        base: SourceTree,
        inputs: Sequence[Output],
        writer: LayerWriter,
        stack: contextlib.ExitStack,
        warn: Callable[[str], None],
    ) -> Layer:
        """Write a COPY's layer; what did not change comes from the one it wrote before."""
        from builder.solver.copy_op import write_copy  # noqa: PLC0415 - a cached build copies nothing

        sources = self._sources(inputs, stack)
        known = self._earlier
        key = known.key(op, sources) if known is not None else None
        earlier = stack.enter_context(known.opened(key)) if known is not None else None
        write_copy(
            op,
            base,
            sources,
            self._remote(inputs),
            writer,
            created_mtime=self._now(),
            warn=warn,
            earlier=earlier,
        )
        layer = writer.commit()
        if known is not None:
            known.remember(key, layer.diff_id)
        return layer

    def _sources(
        self, inputs: Sequence[Output], stack: contextlib.ExitStack
    ) -> dict[int, SourceTree]:
        return {
            index: stack.enter_context(self._trees.opened(output))
            for index, output in enumerate(inputs)
            if index and not isinstance(output, FileOutput)
        }

    def _remote(self, inputs: Sequence[Output]) -> dict[int, RemoteFile]:
        return {
            index: RemoteFile(output.digest, output.size, output.mtime, self._opener(output))
            for index, output in enumerate(inputs)
            if isinstance(output, FileOutput)
        }

    def _opener(self, output: FileOutput) -> Callable[[], AbstractContextManager[BinaryIO]]:
        descriptor = Descriptor(_FETCHED, output.digest, output.size)
        return lambda: self._content.open(descriptor)


class StoredMountContent:
    """Content behind bind and cache mounts: identified and written as COPY does it."""

    def __init__(self, trees: Trees, layers: LayerStore, memo: StatCache) -> None:
        """Use what the file handler uses."""
        self._trees = trees
        self._layers = layers
        self._memo = memo

    def digest(self, output: Output, path: str) -> str:
        """Identify a subtree by content (K13)."""
        with self._trees.opened(output) as tree:
            return str(digest_subtree(tree, path, self._memo))

    def layer(self, output: Output, path: str) -> tuple[Layer, str]:
        """Write a subtree as a layer of its own; a file lies at the root under its name."""
        from builder.solver.copy_op import write_copy  # noqa: PLC0415 - rarely needed

        with self._trees.opened(output) as tree, self._layers.writer() as writer:
            entry = tree.get(tree.resolve(path.strip("/")))
            name = path.rstrip("/").rpartition("/")[2]
            is_file = entry is not None and entry.kind is not Kind.DIRECTORY
            op = CopyOp((PathSource(1, path),), "/")
            with self._trees.opened(TreeOutput(())) as empty:
                write_copy(op, empty, {1: tree}, {}, writer, created_mtime=0)
            return writer.commit(), name if is_file else ""

    def fill(self, output: Output, path: str, directory: int) -> None:
        """Extract a subtree into a directory."""
        from cache.archive.extract import extract_layer  # noqa: PLC0415 - rarely needed

        layer, _ = self.layer(output, path)
        with self._layers.open_tar(layer) as stream:
            extract_layer(stream, directory, None)


def _chain(output: Output) -> str:
    return str(output.chain) if isinstance(output, TreeOutput) else ""
