"""The LayerStore of a state directory: tars and their forms in the blob store, indexes beside."""

from __future__ import annotations

import contextlib
import os
import threading

from cache.errors import ContentNotFoundError, DigestMismatchError, PybuildError
from cache.hints import TYPE_CHECKING, BinaryIO, cast
from cache.spec import hashes, oci
from cache.spec.oci import Descriptor, Layer
from cache.value import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from cache.ahead import Ahead, Follow
    from cache.archive.entry import Entry
    from cache.arrivals import Arrivals
    from cache.content import ContentProvider
    from cache.database import Database
    from cache.forms import Forms
    from cache.layeringest import TarIngest
    from cache.localstore import BlobWriter, LocalStore
    from cache.spec.digest import Digest

    Progress = Callable[[str, int, int], None]

_PIECE = 1 << 20
_LARGE = 8 << 20  # bytes of a blob for which a thread is worth while
_PLAIN = 256 * 1024  # bytes of a tar in one piece, which may wait for its reader
_UNCOMPRESSED = (oci.OCI_LAYER, oci.DOCKER_LAYER)
_PLAIN_FORM = ("", False)  # what `compressing` asks for where it was not called


class StoredLayers:
    """Layers over a LocalStore; blobs that are not there yet come from `remote`."""

    def __init__(
        self,
        root: str,
        store: LocalStore,
        database: Database,
        remote: ContentProvider,
        progress: Progress | None = None,
    ) -> None:
        """Keep indexes under `root/index`."""
        self._root = os.path.join(root, "index")
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        self._store = store
        self._database = database
        self._remote = remote
        self._progress: Progress = progress or _quiet
        self._verified: set[Digest] = set()
        self._wanted = threading.local()
        self._ahead: dict[Digest, Ahead] = {}
        self._guard = threading.Lock()
        self._fetching: Arrivals | None = None
        self.follow: Follow | None = None  # who reads along what is compressed

    @contextlib.contextmanager
    def writer(self) -> Iterator[TarIngest]:
        """Begin a layer."""
        from cache.layeringest import Measure, TarIngest  # noqa: PLC0415 - a cached build writes none

        media_type, alone = getattr(self._wanted, "form", _PLAIN_FORM)
        if not media_type:
            with self._store.writer() as blob:
                yield TarIngest(blob, None, self._keep_written)
            return
        from cache.ahead import Ahead  # noqa: PLC0415 - only where something is compressed

        ahead = Ahead(self._store, media_type, self.follow)
        try:
            if alone:
                yield TarIngest(Measure(), ahead, self._keep_form)
            else:
                with self._store.writer() as blob:
                    yield TarIngest(blob, ahead, self._keep_written)
        finally:
            if ahead not in self._ahead.values():
                ahead.drop()

    @contextlib.contextmanager
    def compressing(self, media_type: str, *, alone: bool = False) -> Iterator[None]:
        """Compress the layers that this thread writes inside the block while it does so.

        An empty media type asks for nothing. `compressed` gives what came of it. With `alone`
        only that is stored: half the bytes, and the tar is made from it if it is asked for.
        """
        before = getattr(self._wanted, "form", _PLAIN_FORM)
        self._wanted.form = (media_type, alone)
        try:
            yield
        finally:
            self._wanted.form = before

    def close(self) -> None:
        """Drop what nobody has asked for and stop fetching; idempotent."""
        if self._fetching is not None:
            self._fetching.close()
        while self._ahead:
            self._ahead.popitem()[1].drop()

    @property
    def _forms(self) -> Forms:
        from cache.forms import Forms  # noqa: PLC0415 - a cached build mostly asks for none

        return Forms(self._store, self._database)

    def _keep_written(self, diff_id: Digest, entries: list[Entry], ahead: Ahead | None) -> None:
        self._keep_index(diff_id, entries)
        if ahead is not None and diff_id not in self._ahead:
            self._ahead[diff_id] = ahead  # written twice, the writer drops the second

    def _keep_form(self, diff_id: Digest, entries: list[Entry], ahead: Ahead | None) -> None:
        """Have the one form that there is on the disk before anything refers to the layer."""
        if ahead is not None:
            self._forms.keep(diff_id, ahead.media_type, ahead.made())
        self._keep_index(diff_id, entries)

    def open_tar(self, layer: Layer) -> AbstractContextManager[BinaryIO]:
        """Open the uncompressed tar, verified at its end."""
        return self._open_tar(layer)

    @contextlib.contextmanager
    def _open_tar(self, layer: Layer) -> Iterator[BinaryIO]:
        size = self._store.size(layer.diff_id)
        if size is not None:
            with self._store.open(Descriptor(oci.OCI_LAYER, layer.diff_id, size)) as stream:
                yield stream
            return
        from cache.readahead import ReadAhead  # noqa: PLC0415 - a cached build reads no layer

        layer = self._readable(layer)
        with self._compressed(layer.blob) as (stream, watched):
            pieces = _unpacked(stream, layer)
            with contextlib.closing(ReadAhead(pieces, watched)) as ahead:
                yield cast("BinaryIO", ahead)

    def _readable(self, layer: Layer) -> Layer:
        """A layer whose tar is not stored, by the blob to make it from."""
        kept = self._forms.first(layer.diff_id) if _is_plain(layer) else None
        return layer if kept is None else Layer(kept, layer.diff_id)

    @contextlib.contextmanager
    def _compressed(self, blob: Descriptor) -> Iterator[tuple[BinaryIO, Callable[[], None]]]:
        """A blob's bytes, those still to come too, and what tells the step that reads them."""
        arrival = self._arrivals().get(blob)
        if arrival is None:
            with self._store.open(blob) as stream:
                yield stream, _nothing
            return
        from cache.arrivals import ArrivalReader  # noqa: PLC0415 - a cached build fetches nothing

        reader = cast("BinaryIO", ArrivalReader(arrival))
        yield reader, lambda: arrival.report(self._progress)

    def _arrivals(self) -> Arrivals:
        from cache.arrivals import Arrivals  # noqa: PLC0415 - a cached build fetches nothing

        with self._guard:
            if self._fetching is None:
                self._fetching = Arrivals(self._store, self._remote)
            return self._fetching

    def expect(self, layers: Iterable[Layer]) -> None:
        """Begin to fetch what is not stored of layers that will be opened in this order."""
        self._arrivals().begin(
            self._readable(layer).blob
            for layer in layers
            if self._store.size(layer.diff_id) is None
        )

    @contextlib.contextmanager
    def open_seekable(self, layer: Layer) -> Iterator[BinaryIO]:
        """Open the uncompressed tar as a file; the first opening in a process verifies it."""
        size = self._store.size(layer.diff_id)
        if size is None:
            with self._open_tar(layer) as stream, self._store.writer() as blob:
                size = copy(stream, blob)
                blob.commit(oci.OCI_LAYER, layer.diff_id)
            self._verified.add(layer.diff_id)
        descriptor = Descriptor(oci.OCI_LAYER, layer.diff_id, size)
        if layer.diff_id not in self._verified:
            with self._store.open(descriptor) as stream:
                drain(stream)
            self._verified.add(layer.diff_id)
        with self._store.open_raw(descriptor) as stream:
            yield stream

    @contextlib.contextmanager
    def kept(self, diff_id: Digest, /) -> Iterator[tuple[tuple[Entry, ...], BinaryIO]]:
        """Give a stored layer's entries and its tar as it lies there: verify what you take of it.

        Raises:
            ContentNotFoundError: it is not stored as a plain tar.
        """
        size = self._store.size(diff_id)
        if size is None:
            msg = f"{diff_id} is not in the store"
            raise ContentNotFoundError(msg)
        descriptor = Descriptor(oci.OCI_LAYER, diff_id, size)
        entries = self.index(Layer(descriptor, diff_id))
        with (
            self._store.open_raw(descriptor) as stream,
            open(stream.fileno(), "rb", buffering=_PIECE, closefd=False) as buffered,
        ):
            yield entries, buffered

    def index(self, layer: Layer) -> tuple[Entry, ...]:
        """Entries in tar order, from the kept index or else from the tar."""
        from cache.archive.index import load_index  # noqa: PLC0415 - a cached build needs no tree

        try:
            with open(os.path.join(self._root, layer.diff_id.hex), "rb") as file:
                return load_index(file.read())
        except (OSError, PybuildError):
            from cache.archive.reader import scan_entries  # noqa: PLC0415 - the index was lost

            with self.open_seekable(layer) as stream:
                entries = list(scan_entries(stream))
            self._keep_index(layer.diff_id, entries)
            return tuple(entries)

    def has_devices(self, layer: Layer) -> bool:
        """Whether a layer has devices outside of /dev, told without reading all of its index."""
        from cache.archive.index import MAGIC_SIZE, names_devices  # noqa: PLC0415 - as above

        try:
            with open(os.path.join(self._root, layer.diff_id.hex), "rb", buffering=0) as file:
                return names_devices(file.read(MAGIC_SIZE))
        except FileNotFoundError:
            self.index(layer)
            return self.has_devices(layer)

    def keep_index(self, layer: Layer, entries: list[Entry]) -> None:
        """Keep the entries that were seen while a verified tar streamed by."""
        self._keep_index(layer.diff_id, entries)

    def compressed(self, layer: Layer, media_type: str, level: int | None = None) -> Descriptor:
        """Give the layer in another compression."""
        if layer.blob.media_type == media_type and level is None:
            self.ensure(layer.blob)
            return layer.blob
        if media_type in _UNCOMPRESSED:
            with self.open_seekable(layer) as stream:
                size = stream.seek(0, os.SEEK_END)
            return Descriptor(media_type, layer.diff_id, size)
        form = media_type if level is None else f"{media_type};level={level}"
        kept = self._forms.find(layer.diff_id, form)
        if kept is not None:
            return replace(kept, media_type=media_type)
        ahead = self._ahead.pop(layer.diff_id, None) if level is None else None
        made = ahead.result() if ahead is not None and ahead.media_type == media_type else None
        descriptor = made or self._compress(layer, media_type, level)
        self._forms.keep(layer.diff_id, form, descriptor)
        return descriptor

    def _compress(self, layer: Layer, media_type: str, level: int | None) -> Descriptor:
        with self._open_tar(layer) as stream, self._store.writer() as blob:
            from cache import compress  # noqa: PLC0415 - a cached build compresses nothing

            sink = compress.compressor(media_type, blob, level)
            item, done = f"compressing {layer.diff_id}", 0
            while piece := stream.read(_PIECE):
                sink.write(piece)
                done += len(piece)
                self._progress(item, done, 0)
            sink.finish()
            self._progress(item, done, done)
            return blob.commit(media_type)

    def has(self, layer: Layer) -> bool:
        """Whether the layer's content can be had: stored in a form, or of known origin."""
        if self._store.size(layer.diff_id) is not None:
            return True
        if self._store.size(layer.blob.digest) == layer.blob.size:
            return True
        if _is_plain(layer) and self._forms.first(layer.diff_id) is not None:
            return True
        return self.origin(layer.blob.digest) is not None

    @contextlib.contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Open any blob, fetched first if need be: the ContentProvider of exports and pushes.

        A large one is read and verified while what came before of it is used.
        """
        self.ensure(descriptor)
        with self._store.open(descriptor) as stream:
            if descriptor.size < _LARGE:
                yield stream
                return
            from cache.readahead import ReadAhead  # noqa: PLC0415 - few commands read one

            with contextlib.closing(ReadAhead(_pieces(stream))) as ahead:
                yield cast("BinaryIO", ahead)

    def remember_origin(self, blobs: Iterable[Descriptor], repository: str) -> None:
        """Note which repository blobs that are not fetched yet come from."""
        with self._database.transaction():
            for blob in blobs:
                self._database.rows(
                    "INSERT OR REPLACE INTO origins VALUES (?, ?)", (str(blob.digest), repository)
                )

    def origin(self, digest: Digest) -> str | None:
        """The repository a blob comes from, as a full name without tag."""
        rows = self._database.rows("SELECT reference FROM origins WHERE digest = ?", (str(digest),))
        return str(rows[0][0]) if rows else None

    def ensure(self, blob: Descriptor) -> None:
        """Have a blob in the store, fetched and verified if need be."""
        if self._store.size(blob.digest) == blob.size:
            return
        if blob.media_type in _UNCOMPRESSED and self._forms.first(blob.digest) is not None:
            with self.open_seekable(Layer(blob, blob.digest)):
                return
        arrival = self._arrivals().get(blob)
        if arrival is not None:
            arrival.wait(self._progress)

    def _keep_index(self, diff_id: Digest, entries: list[Entry]) -> None:
        from cache.archive.index import dump_index  # noqa: PLC0415 - a cached build keeps none

        path = os.path.join(self._root, f"{os.urandom(8).hex()}.tmp")
        with open(path, "xb") as file:
            file.write(dump_index(entries))
        os.rename(path, os.path.join(self._root, diff_id.hex))


def _is_plain(layer: Layer) -> bool:
    """Whether a layer is known by its tar, as all are that were made here."""
    return layer.blob.digest == layer.diff_id


def _unpacked(stream: BinaryIO, layer: Layer) -> Iterator[bytes]:
    """A layer's tar in pieces, its digest checked at the end, the compressed stream drained too."""
    from cache import compress  # noqa: PLC0415 - a cached build reads no layer

    diff_id = layer.diff_id
    state = hashes.new(diff_id.algorithm)
    plain = compress.decompressed(stream, layer.blob.media_type)
    while data := plain.read(_PLAIN):
        state.update(data)
        yield data
    drain(stream)
    if state.hexdigest() != diff_id.hex:
        msg = f"layer content does not have the diff_id {diff_id} its config names"
        raise DigestMismatchError(msg)


class NoRemote:
    """A ContentProvider that has nothing: for stores without a network."""

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BinaryIO]:
        """Refuse."""
        msg = f"{descriptor.digest} is not in the store"
        raise ContentNotFoundError(msg)


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    """A stream to its end."""
    while data := stream.read(_PLAIN):
        yield data


def _nothing() -> None:
    """Nobody waits for a stored blob."""


def _quiet(_item: str, _current: int, _total: int) -> None:
    """Take no notice."""


def copy(stream: BinaryIO, sink: BlobWriter) -> int:
    """Copy to the end; returns the number of bytes."""
    size = 0
    while piece := stream.read(_PIECE):
        size += sink.write(piece)
    return size


def drain(stream: BinaryIO) -> None:
    """Read to the end, so that verification happens."""
    while stream.read(_PIECE):
        pass
