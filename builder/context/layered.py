"""A stack of layers as a tree to copy from: entries from the indexes, bytes from the tars.

Must not know how layers are stored, compressed or fetched.
"""

from __future__ import annotations

import contextlib
import io

from builder.context.source import CopyError, join, resolve, shown
from cache.archive.entry import Kind
from cache.hints import TYPE_CHECKING, BinaryIO, Protocol, Self, cast
from cache.spec import hashes
from cache.spec.digest import framed

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType

    from cache.archive.entry import Entry
    from cache.spec.oci import Layer

_CHUNK = 1 << 20


class _Node(Protocol):
    @property
    def entry(self) -> Entry: ...
    @property
    def layer(self) -> int: ...
    @property
    def group(self) -> str: ...


class MergedTree(Protocol):
    """What is needed of `cache.archive.tree.Tree`."""

    def node(self, path: str, /) -> _Node | None:
        """An entry with the layer its payload is in."""

    def children(self, path: str, /) -> list[str]:
        """Sorted names in a directory."""


class SeekableLayers(Protocol):
    """What is needed of a LayerStore."""

    def open_seekable(self, layer: Layer) -> AbstractContextManager[BinaryIO]:
        """The uncompressed tar as a seekable file."""


class LayerTree:
    """A SourceTree over layers, base first. One thread at a time; close it after use."""

    place = ""

    def __init__(self, tree: MergedTree, layers: Sequence[Layer], store: SeekableLayers) -> None:
        """Read entries of `tree`, whose node numbers index `layers`."""
        self._tree = tree
        self._layers = tuple(layers)
        self._store = store
        self._files: dict[int, BinaryIO] = {}
        self._stack = contextlib.ExitStack()
        self._digests: dict[tuple[int, int], bytes] = {}

    def __repr__(self) -> str:
        """Count the layers."""
        return f"<LayerTree {len(self._layers)} layers>"

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Close the opened tars."""
        self.close()

    def close(self) -> None:
        """Close the opened tars; idempotent."""
        self._files.clear()
        self._stack.close()

    def get(self, path: str, /) -> Entry | None:
        """The merged entry."""
        node = self._tree.node(path)
        return node.entry if node is not None else None

    def children(self, path: str, /) -> list[str]:
        """Sorted names in a directory."""
        return self._tree.children(path)

    def entries(self, path: str, /) -> list[Entry]:
        """The merged entries of a directory."""
        found = (self.get(join(path, name)) for name in self._tree.children(path))
        return [entry for entry in found if entry is not None]

    def resolve(self, path: str, /, *, follow_last: bool = True) -> str:
        """Follow links inside the tree."""
        return resolve(self.get, path, follow_last=follow_last)

    def _locate(self, path: str) -> tuple[BinaryIO, int, int, int]:
        node = self._tree.node(path)
        if node is None or node.entry.kind is not Kind.FILE or node.entry.offset < 0:
            raise CopyError(f'"{shown(path)}": not a file in the layers')
        file = self._files.get(node.layer)
        if file is None:
            file = self._stack.enter_context(self._store.open_seekable(self._layers[node.layer]))
            self._files[node.layer] = file
        return file, node.layer, node.entry.offset, node.entry.size

    @contextlib.contextmanager
    def open(self, path: str, /) -> Iterator[BinaryIO]:
        """The payload, straight from the layer's tar."""
        file, _, offset, size = self._locate(path)
        yield cast("BinaryIO", _Window(file, offset, size, path))

    def read(self, path: str, /) -> bytes:
        """The whole payload."""
        file, _, offset, size = self._locate(path)
        file.seek(offset)
        data = file.read(size)
        if len(data) != size:
            raise CopyError(f'"{shown(path)}": the layer ends inside the file')
        return data

    def digest(self, path: str, /) -> bytes:
        """The sha256 of the payload; each payload is hashed once."""
        _, layer, offset, _ = self._locate(path)
        known = self._digests.get((layer, offset))
        if known is None:
            state = hashes.sha256()
            with self.open(path) as stream:
                while chunk := stream.read(_CHUNK):
                    state.update(chunk)
            known = self._digests[layer, offset] = state.digest()
        return known

    def known_digest(self, path: str, /) -> bytes | None:
        """Nothing: taking from another layer would be no cheaper."""

    def group(self, path: str, /) -> Hashable | None:
        """The hardlink group the layers give."""
        node = self._tree.node(path)
        return (node.layer, node.group) if node is not None and node.group else None

    @property
    def lasting(self) -> bytes | None:
        """The stack: layers never change."""
        return self.fingerprint("")

    def fingerprint(self, path: str, /) -> bytes | None:
        """The stack and the path: layers never change."""
        parts = [str(layer.diff_id).encode() for layer in self._layers]
        return bytes.fromhex(
            framed("pybuild.layers.v1", [*parts, path.encode("utf-8", "surrogateescape")]).hex
        )

    def trusted(self, path: str, /) -> bool:
        """Layers are named by their digest."""
        del path
        return True

    def hidden(self, path: str, /) -> bool:
        """Nothing is ignored here (D02)."""
        del path
        return False


class _Window(io.RawIOBase):
    """`size` bytes of a file from an offset; the file must not be used by others meanwhile."""

    def __init__(self, file: BinaryIO, offset: int, size: int, path: str) -> None:
        super().__init__()
        self._file = file
        self._left = size
        self._path = path
        file.seek(offset)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        want = self._left if size is None or size < 0 else min(size, self._left)
        data = self._file.read(want)
        if want and not data:
            raise CopyError(f'"{shown(self._path)}": the layer ends inside the file')
        self._left -= len(data)
        return data

    def readinto(self, buffer: object, /) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)
