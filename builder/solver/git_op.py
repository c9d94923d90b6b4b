"""A git repository as a step: known by its commit, written as one layer (K22, A09, A10)."""

from __future__ import annotations

import threading

from cache.hints import TYPE_CHECKING
from cache.keys import CacheKey
from frontend.graph import GitOp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.git.source import GitSource
    from builder.solver.output import Output
    from builder.solver.scheduler import StepLog
    from cache.layers import LayerStore
    from cache.spec.oci import Layer
    from frontend.graph import Op


class GitHandler:
    """OpHandler for GitOp; the git program is looked for when the first one is asked for."""

    def __init__(
        self, make: Callable[[], GitSource], layers: LayerStore, now: Callable[[], int]
    ) -> None:
        """`make` gives the source; `now` gives the mtime (ns) of a checkout."""
        self._make = make
        self._made: GitSource | None = None
        self._lock = threading.Lock()
        self._layers = layers
        self._now = now

    def cancel(self) -> None:
        """Kill running git commands."""
        with self._lock:
            if self._made is not None:
                self._made.cancel()

    def _source(self) -> GitSource:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def key(self, op: Op, inputs: Sequence[Output]) -> CacheKey:
        """The commit that the reference names now, and what is made of it."""
        del inputs
        if not isinstance(op, GitOp):
            raise TypeError(op)
        resolved = self._source().resolve(op)
        # A kept .git tells the remote, the reference and the tag; the files alone do not.
        kept = f"{op.url}#{resolved.full}" if op.keep_git_dir and not op.subdir else ""
        return CacheKey.of(
            ("op", "git.v1"),
            ("commit", resolved.sha if kept else resolved.commit),
            ("git directory", kept),
            ("subdirectory", op.subdir),
            ("submodules", str(op.submodules)),
            ("mtime", op.mtime),
        )

    def run(self, op: Op, inputs: Sequence[Output], log: StepLog) -> Layer:
        """Fetch what is missing and write the layer."""
        del inputs, log
        if not isinstance(op, GitOp):
            raise TypeError(op)
        with self._layers.writer() as writer:
            self._source().write(op, writer, self._now())
            return writer.commit()
