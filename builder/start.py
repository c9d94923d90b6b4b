"""The `pybuild` program: its modules' bytecode from one file, then the command line.

A cached build spends more time finding and opening a hundred compiled modules than running them.
What Python keeps in `__pycache__`, of ours and of its own library, is therefore kept here a second
time, all in one file, which is written where Python may write its own and is believed as little: a
module is taken from it only if its source still has the size and time it had. For the same reason
`-S` leaves the directories of other packages alone until one of those is wanted. Must not know
what the modules do.
"""

import _thread
import marshal
import os
import sys
from time import time as now

TYPE_CHECKING = False  # as cache.hints has it, which is to come from the bundle
if TYPE_CHECKING:
    from types import CodeType

_PACKAGES = ("builder", "frontend", "cache")
_LIBRARY = os.path.dirname(os.__file__)
_LIMIT = 32 << 20  # bytes of a bundle; ours are two or three million
_LENGTH = 8  # bytes that say how long the table at the beginning is
_YOUNG = 2.0  # seconds
_NAME = 100  # characters of a directory
_HEADER = 16  # bytes of a compiled file before its code: mark, kind, and the source's time and size

# Of each module: path, whether it is a package, the source's size and time, the code's place.
_Row = tuple[str, bool, int, int, int, int]
_Source = tuple[str, bool, int, int]


class Bundle:
    """A finder and loader of modules out of the bundle."""

    def __init__(self, data: bytes = b"", where: str = "") -> None:
        """Read what was written for the packages in `where`; anything else is an empty bundle."""
        self.rows: dict[str, _Row] = {}
        self._codes = memoryview(b"")
        length = int.from_bytes(data[:_LENGTH], "little")
        rows: dict[str, _Row] = {}
        try:
            home, rows = marshal.loads(data[_LENGTH : _LENGTH + length])  # noqa: S302 - as Python's own files
        except (ValueError, EOFError, TypeError):
            home = None
        if home == where:
            self.rows = rows
            self._codes = memoryview(data)[_LENGTH + length :]
        self.is_stale = not self.rows

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """Describe a module that is in the bundle and did not change."""
        del path, target
        row = self.rows.get(name)
        if row is None or not self.is_right(row):
            self.is_stale = self.is_stale or row is not None or _is_ours(name)
            return None
        # A loader by its methods; the class is at hand without another import.
        spec = type(sys.__spec__)(name, self, origin=row[0], is_package=row[1])  # type: ignore[arg-type]
        spec.has_location = True
        if row[1]:
            spec.submodule_search_locations = [os.path.dirname(row[0])]
        return spec

    @staticmethod
    def is_right(row: _Row) -> bool:
        """Whether the source is the one that was compiled."""
        try:
            status = os.stat(row[0])
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == row[2:4]

    def create_module(self, spec: object) -> None:
        """Leave it to the interpreter."""

    def exec_module(self, module: object) -> None:
        """Run a module's code in it."""
        names = vars(module)
        exec(self.get_code(names["__name__"]), names)  # noqa: S102 - what an import is

    def get_code(self, name: str) -> "CodeType":
        """The code of a module."""
        code: CodeType = marshal.loads(self.code(name))  # noqa: S302 - as Python's own files
        return code

    def code(self, name: str) -> memoryview:
        """The same, marshalled."""
        *_, start, end = self.rows[name]
        return self._codes[start:end]


class LateSite:
    """The last finder, for an interpreter that has left out `site`: has it done when it is missed."""

    def __init__(self) -> None:
        """Begin with nothing done."""
        self._lock = _thread.RLock()
        self._is_done = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """Look again for what is in none of the directories so far, now in those of packages."""
        del target
        if path is not None:  # part of a package, which says where to look
            return None
        with self._lock:
            if not self._is_done:
                self._is_done = True  # it may look for modules that are not there
                import site  # noqa: PLC0415 - what this class puts off

                site.main()
        for finder in sys.meta_path:
            spec = None if id(finder) == id(self) else finder.find_spec(name, None)
            if spec is not None:
                return spec
        return None


def main() -> int:
    """Run the command line with the bundle, and write it when it has to be written."""
    if sys.flags.no_site:
        sys.meta_path.append(LateSite())  # type: ignore[arg-type] # a finder by its methods
    path = _path()
    bundle = Bundle(_read(path), os.path.dirname(path)) if path else None
    if bundle is not None:
        sys.meta_path.insert(0, bundle)  # type: ignore[arg-type] # a finder by its methods
    try:
        from builder.cli import main as run  # noqa: PLC0415 - it is to come from the bundle

        return run(at_end=lambda: _write(path, bundle) if bundle is not None else None)
    except (OSError, ImportError, SyntaxError) as error:
        # modules are loaded late: any of them may be missing, cut short, or another user's only
        sys.stderr.write(f"pybuild: error: the installation is not whole: {error}\n")
        sys.stderr.write("hint: install pybuild again, readable for whoever runs it\n")
        return 1


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in _PACKAGES


def _is_library(source: str) -> bool:
    """Whether a module belongs to Python itself; others' packages lie below it in some places."""
    return source.startswith(f"{_LIBRARY}/") and "-packages/" not in source[len(_LIBRARY) :]


def _path() -> str:
    """Where the bundle of this interpreter lies; "" where there shall be none."""
    if sys.flags.optimize or sys.pycache_prefix:
        return ""
    whose = _LIBRARY[-_NAME:].replace("/", "-")  # there may be two interpreters of one version
    name = f"bundle.{sys.implementation.cache_tag}-{sys.hexversion:x}{whose}"
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__", name)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(_LIMIT)
    except OSError:
        return b""


def _write(path: str, bundle: Bundle) -> None:
    """Keep what this process has loaded, and what was kept before and is still right."""
    if not bundle.is_stale or sys.dont_write_bytecode:
        return
    rows: dict[str, _Row] = {}
    codes = bytearray()
    for name in sorted({*bundle.rows, *sys.modules}):
        compiled = _compiled(name, bundle)
        if compiled is not None:
            head, code = compiled
            rows[name] = (*head, len(codes), len(codes) + len(code))
            codes += code
    table = marshal.dumps((os.path.dirname(path), rows))
    aside = f"{path}.{os.getpid()}"
    try:
        with open(aside, "xb") as file:
            file.write(len(table).to_bytes(_LENGTH, "little") + table + codes)
        os.replace(aside, path)
    except OSError:
        return  # as where Python cannot write its own


def _compiled(name: str, bundle: Bundle) -> tuple[_Source, bytes | memoryview] | None:
    """A module's source and code: as it was kept, or as Python compiled it; None if it changed."""
    row = bundle.rows.get(name)
    if row is not None and bundle.is_right(row):
        return row[:4], bundle.code(name)
    module = sys.modules.get(name)
    source, kept = getattr(module, "__file__", None), getattr(module, "__cached__", None)
    if not (isinstance(source, str) and isinstance(kept, str)):
        return None
    if not (_is_ours(name) or _is_library(source)):
        return None
    try:
        status = os.stat(source)
        with open(kept, "rb") as file:
            data = file.read(_LIMIT)
    except OSError:
        return None
    # Python's own check, which knows seconds only: a source of just now may have changed since.
    expected = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    kind, time, size = (int.from_bytes(data[n : n + 4], "little") for n in (4, 8, 12))
    if kind or (time, size) != expected or now() - status.st_mtime < _YOUNG:
        return None
    is_package = hasattr(module, "__path__")
    return (source, is_package, status.st_size, status.st_mtime_ns), data[_HEADER:]
