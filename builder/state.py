"""The state directory: where it is, who may use it, and what stands open in it during a build."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from cache.database import Database, drop_damaged
from cache.errors import StoreError, advice_on, reason_of
from cache.hints import TYPE_CHECKING
from cache.images import ImageStore
from cache.layerstore import NoRemote, StoredLayers
from cache.localstore import LocalStore
from cache.memos import SqliteMemos
from cache.records import SqliteRecords
from cache.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from cache.content import ContentProvider

_PRIVATE = 0o700  # nobody else may look into state (D24)


@value
class State:
    """An open state directory."""

    root: str
    store: LocalStore
    database: Database
    layers: StoredLayers
    images: ImageStore
    records: SqliteRecords
    memos: SqliteMemos


@value
class Place:
    """Where state lies, and why there."""

    path: str
    reason: str


def locate(environ: Mapping[str, str], root: str = "") -> str:
    """Where state lies: `place` without the reason."""
    return place(environ, root).path


def place(environ: Mapping[str, str], root: str = "") -> Place:
    """Where state lies: `root`, PYBUILD_ROOT, the XDG data directory, or a directory of our own.

    The first of them that is given; `root` is what --root says.

    In a container there may be no home, or one that cannot be written to: then it is
    `pybuild-UID` in TMPDIR or /var/tmp, or, where that is a container's own file system or
    cannot be written to, on a volume that is mounted.

    Raises:
        StoreError: somebody put a link where that directory would be.
    """
    if root:
        return Place(os.path.abspath(root), "as --root says")
    if environ.get("PYBUILD_ROOT"):
        return Place(os.path.abspath(environ["PYBUILD_ROOT"]), "as PYBUILD_ROOT says")
    data = environ.get("XDG_DATA_HOME", "")
    if data.startswith("/"):
        return Place(f"{data}/pybuild", "as XDG_DATA_HOME says")
    home = environ.get("HOME", "")
    if home.startswith("/") and home != "/" and _can_be_made(f"{home}/.local/share/pybuild"):
        return Place(f"{home}/.local/share/pybuild", "in the home directory")
    return _without_home(environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - checked when opened


def _without_home(directory: str) -> Place:
    from builder import places  # noqa: PLC0415 - rarely needed

    chosen = Place(directory, "without a home, among temporary files")
    if not _can_be_made(directory) or places.kind_of(directory) == "overlay":
        found = places.volumes(places.mounts(places.read_text))
        if found:
            chosen = Place(found[0], "without a home, on a volume")
    path = os.path.join(chosen.path, f"pybuild-{os.geteuid()}")
    if os.path.islink(path):
        msg = f"{path} is a link, and the state directory must be one of our own"
        raise StoreError(msg, hint="set PYBUILD_ROOT to a directory you can write to")
    return Place(path, chosen.reason)


def _can_be_made(path: str) -> bool:
    """Whether a directory is there and writable, or can be made."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return os.access(path, os.W_OK | os.X_OK)


@contextlib.contextmanager
def opened(
    root: str,
    remote: ContentProvider | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    *,
    exclusive: bool = False,
    repair: bool = False,
) -> Iterator[State]:
    """Open a state directory, shared with other builds unless `exclusive`.

    With `repair` (and `exclusive`) a damaged database gives way to a new one.

    Raises:
        StoreError: it cannot be made, belongs to somebody else, or is in use (exclusive).
    """
    _make(root)
    with _locked(root, exclusive=exclusive):
        if repair:
            drop_damaged(f"{root}/state.db")
        store = LocalStore(root)
        with (
            contextlib.closing(Database(f"{root}/state.db")) as database,
            contextlib.closing(
                StoredLayers(root, store, database, remote or NoRemote(), progress)
            ) as layers,
        ):
            yield State(
                root,
                store,
                database,
                layers,
                ImageStore(database, store),
                SqliteRecords(database),
                SqliteMemos(database),
            )


def _make(root: str) -> None:
    try:
        os.makedirs(root, mode=_PRIVATE, exist_ok=True)
        status = os.stat(root)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != _PRIVATE:
            os.chmod(root, _PRIVATE)
    except OSError as error:
        msg = f"cannot use the state directory {root}: {error.strerror}"
        raise StoreError(msg, hint=advice_on(error, in_state=True)) from error
    if status.st_uid not in {os.geteuid(), 0}:
        # a volume made for a container may be root's; another user's directory never is ours
        msg = f"the state directory {root} belongs to another user"
        raise StoreError(msg, hint="name a directory of yours with --root or PYBUILD_ROOT")
    if not os.access(root, os.W_OK | os.X_OK):
        msg = f"cannot write to the state directory {root}"
        raise StoreError(msg, hint="name a directory of yours with --root or PYBUILD_ROOT")


@contextlib.contextmanager
def _locked(root: str, *, exclusive: bool) -> Iterator[None]:
    try:
        lock = os.open(f"{root}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        msg = f"cannot use the state directory {root}: {reason_of(error)}"
        raise StoreError(msg, hint=advice_on(error, in_state=True)) from error
    try:
        if exclusive:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                msg = "the state directory is in use by another pybuild"
                raise StoreError(msg, hint="wait for the running builds to end") from error
        else:
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
    finally:
        os.close(lock)
