"""Calls of a step in a changed root: the kernel's, but for those on names that lie elsewhere.

Looks at the path of each call. What is not in a place (/proc, /dev, /sys, binds, files in memory)
goes on as it stands; for the rest the supervisor does what the task cannot. It must not know how
a task is started.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from builder.sandbox.engine import files, ids, kernel, metadata, natively, processes, xattrs
from builder.sandbox.engine.callpaths import ALONE, BESIDE, PAIRS, REMOVES, Name, name_of
from builder.sandbox.engine.kernel import AT_FDCWD, fail
from builder.sandbox.engine.natively import acting_as, link_of
from builder.sandbox.engine.netless import require_near
from builder.sandbox.engine.records import is_device, key_of
from builder.sandbox.engine.sockets import connected, path_in, put_instead
from builder.sandbox.engine.step import CONTINUE
from builder.sandbox.engine.taskowners import owner_of
from builder.sandbox.engine.view import fd_path, signed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.sandbox.engine.kernel import Request
    from builder.sandbox.engine.links import Links
    from builder.sandbox.engine.ownhand import OwnHand
    from builder.sandbox.engine.records import Record
    from builder.sandbox.engine.step import Handler, Step
    from builder.sandbox.engine.view import View

_OTHERS = tuple(name for name in processes.CALLS if name not in {"prlimit64", "setrlimit", "uname"})
_IDS = ("setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid")
SELDOM = {"prctl": (ids.GET_DUMPABLE, ids.SET_DUMPABLE)}  # by first arguments
READS = ("readlink", "readlinkat", "statfs", "getxattr", "lgetxattr", "listxattr", "llistxattr")
SHOWS = ("stat", "lstat", "newfstatat", "statx")
MODES = ("chmod", "fchmodat", "fchmodat2")
_NOT_SIMPLE = {*REMOVES, *PAIRS, *MODES, "mknod", "mknodat", "symlink", "symlinkat"}
CHANGES = tuple(name for name in natively.CHANGES if name not in _NOT_SIMPLE)


class Passthrough:
    """Handlers of one step."""

    def __init__(self, view: View, links: Links, hand: OwnHand) -> None:
        """Nobody has gone anywhere yet."""
        self._view = view
        self.links = links
        self._hand = hand
        self._letters = view.letters
        self._below = view.root + b"/"
        self._entered = False  # whether a task may hold or work in a directory of a place
        self.roams = False  # or in one that is not below its root
        self.rooted = False  # whether a task may have changed its root once more

    def enter(self) -> None:
        """A task is given a directory that lies elsewhere."""
        self._entered = self.roams = True

    def calls(self, *, ids: bool) -> Mapping[str, Handler]:
        """What is to be answered; with `ids` also changes of them, after which a task is closed to us."""
        known = {**metadata.CALLS, **files.CALLS, **xattrs.CALLS}
        found = {name: self._looking(name_of(name), known[name]) for name in READS}
        found |= {name: self._showing(name_of(name), known[name]) for name in SHOWS}
        found |= {name: self._looking(name_of(name), natively.CHANGES[name]) for name in CHANGES}
        found |= {name: self._dressing(name_of(name), natively.CHANGES[name]) for name in MODES}
        found["mknod"] = self._making(name_of("mknod"), natively.CHANGES["mknod"])
        found["mknodat"] = self._making(name_of("mknodat"), natively.CHANGES["mknodat"])
        found |= {name: self._looking(name_of(name), act) for name, act in ACCESS.items()}
        found |= {name: self._removing(name, at) for name, at in REMOVES.items()}
        found |= {name: self._pairing(name, *pair) for name, pair in PAIRS.items()}
        found["symlink"] = self._linking("symlink", Name(-1, 1, -1))
        found["symlinkat"] = self._linking("symlinkat", Name(1, 2, -1))
        for name, act in self._openings().items():
            found[name] = self._looking(name_of(name), act)
        found["chdir"] = self._looking(ALONE, self._chdir)
        found["execve"] = self._executing(ALONE)
        found["execveat"] = self._executing(BESIDE)
        found |= {"chroot": self._chroot, "getcwd": self._getcwd, "uname": self._uname}
        found |= {name: processes.CALLS[name] for name in _OTHERS} | {"prlimit64": _limits}
        found |= _PROCESSES
        return found | (dict.fromkeys(_IDS, self._hand.change_ids) if ids else {})

    def _path(self, task: int, address: int) -> bytes | None:
        """A path in a task's memory; None for the kernel to find out what is wrong."""
        try:
            return kernel.read_path(task, address)
        except PermissionError:
            pass
        except OSError:
            return None
        try:
            self._hand.reach(task)
            return kernel.read_path(task, address)
        except OSError:
            return None

    def _leads(self, task: int, directory: int, path: bytes, *, follow: bool) -> bool:
        """Whether a name lies elsewhere, or is one the kernel must not be asked for."""
        view, links = self._view, self.links
        if path[:1] == b"/":
            if self.rooted and link_of(task, b"/proc/%d/root" % task) != view.root:
                return False
        else:
            if not self.roams and links.hot.isdisjoint(path.split(b"/")):
                return False
            base = _base(task, directory)
            if self.rooted and not (base + b"/").startswith(
                link_of(task, b"/proc/%d/root" % task) + b"/"
            ):
                return base[:1] == b"/" and bool(path)  # may climb out of what is its root now
            if base != view.root and not base.startswith(self._below):
                return base[:1] == b"/" and bool(path)
            path = base[len(view.root) :] + b"/" + path
        if view.lies_in_place(path):
            return True
        if links.names.isdisjoint(path.split(b"/")):
            return False
        try:
            return view.lies_in_place(view.resolved(task, path, follow=follow))
        except OSError:
            return False

    def _named(self, request: Request, name: Name) -> bytes | None:
        """The path of a call if that lies elsewhere."""
        path = self._path(request.task, request.arguments[name.path])
        if path is None:
            return None
        directory = AT_FDCWD if name.directory < 0 else request.arguments[name.directory]
        leads = self._leads(request.task, directory, path, follow=name.follows(request))
        return path if leads else None

    def _looking(self, name: Name, act: Handler) -> Handler:
        position = name.path

        def handle(step: Step, request: Request) -> int | None:
            if self._is_plain(request.task, request.arguments[position]):
                return CONTINUE
            if self._named(request, name) is None:
                return CONTINUE
            with acting_as(owner_of(request.task)):
                return act(step, request)

        return handle

    def _is_plain(self, task: int, address: int) -> bool:
        """Whether a path surely leads nowhere else: most do, and most time is spent here."""
        try:
            path = kernel.read_path(task, address)
        except OSError:
            return False
        links = self.links
        if path[:1] == b"/":
            if self.rooted or path.startswith(self._letters):
                return False
            return links.names.isdisjoint(path.split(b"/"))
        return not self.roams and links.hot.isdisjoint(path.split(b"/"))

    def _showing(self, name: Name, act: Handler) -> Handler:
        """Ask what a file is like: one that is recorded, once there are any, is not as it says."""
        look = self._looking(name, act)

        def handle(step: Step, request: Request) -> int | None:
            if not step.records or not self._path(request.task, request.arguments[name.path]):
                return look(step, request)
            with acting_as(owner_of(request.task)):
                return act(step, request)

        return handle

    def _dressing(self, name: Name, act: Handler) -> Handler:
        """Change a mode: a recorded one, too."""
        look = self._looking(name, act)

        def handle(step: Step, request: Request) -> int | None:
            record = self._record(step, request, name)
            if record is not None:
                mode = request.arguments[name.path + 1]
                record.mode = stat.S_IFMT(record.mode) | mode & 0o7777
            return look(step, request)

        return handle

    def _record(self, step: Step, request: Request, name: Name) -> Record | None:
        """The record of the file that a call names, if it has one."""
        if not step.records:
            return None
        directory = AT_FDCWD if name.directory < 0 else request.arguments[name.directory]
        address, follow = request.arguments[name.path], name.follows(request)
        try:
            fd = files.reference(step, request.task, directory, address, 0, follow)
        except OSError:
            return None
        try:
            return step.records.get(key_of(fd)[0])
        finally:
            os.close(fd)

    def _making(self, name: Name, act: Handler) -> Handler:
        """Make a node: a device is made by us wherever it is to be."""
        look = self._looking(name, act)

        def handle(step: Step, request: Request) -> int | None:
            if not is_device(request.arguments[name.path + 1]):
                return look(step, request)
            if self._path(request.task, request.arguments[name.path]) is None:
                fail(errno.EPERM)
            with acting_as(owner_of(request.task)):
                return act(step, request)

        return handle

    def _removing(self, call: str, name: Name) -> Handler:
        act = natively.CHANGES[call]

        def handle(step: Step, request: Request) -> int | None:
            path = self._named(request, name)
            if path is None:
                self._forget(step, request, name)
                return CONTINUE
            self._refuse_busy(request, name, path)
            with acting_as(owner_of(request.task)):
                return act(step, request)

        return handle

    def _forget(self, step: Step, request: Request, name: Name) -> None:
        """The name of a recorded file goes away: its inode may become another's."""
        if not step.records:
            return
        directory = AT_FDCWD if name.directory < 0 else request.arguments[name.directory]
        try:
            fd = files.reference(
                step, request.task, directory, request.arguments[name.path], 0, follow=False
            )
        except OSError:
            return
        key, status = key_of(fd)
        os.close(fd)
        if status.st_nlink <= 1:
            step.records.forget(key)

    def _refuse_busy(self, request: Request, name: Name, path: bytes) -> None:
        """What would be a mount can be neither removed nor renamed."""
        directory = AT_FDCWD if name.directory < 0 else request.arguments[name.directory]
        with acting_as(owner_of(request.task)):
            absolute = self._view.absolute(request.task, directory, path)
        if self._view.is_place(self._view.resolved(request.task, absolute, follow=False)):
            fail(errno.EBUSY)

    def _pairing(self, call: str, old: Name, new: Name) -> Handler:
        act = natively.CHANGES[call]

        def handle(step: Step, request: Request) -> int | None:
            elsewhere = [(name, self._named(request, name)) for name in (old, new)]
            if elsewhere[0][1] is None and elsewhere[1][1] is None:
                paths = [self._path(request.task, request.arguments[n.path]) for n in (old, new)]
                if paths[0] and paths[1]:
                    self.links.named(paths[0], paths[1])
                if call.startswith("rename"):
                    self._forget(step, request, new)
                return CONTINUE
            for name, path in elsewhere:
                if path is not None and call.startswith("rename"):
                    self._refuse_busy(request, name, path)
            with acting_as(owner_of(request.task)):
                return act(step, request)

        return handle

    def _linking(self, call: str, name: Name) -> Handler:
        act = natively.CHANGES[call]

        def handle(step: Step, request: Request) -> int | None:
            text = self._path(request.task, request.arguments[0])
            path = self._path(request.task, request.arguments[name.path])
            if text and path:
                self.links.made(path, text)
            if self._named(request, name) is None:
                return CONTINUE
            with acting_as(owner_of(request.task)):
                return act(step, request)

        return handle

    def _openings(self) -> dict[str, Handler]:
        creation = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
        return {
            "open": lambda s, r: self._open(s, r, AT_FDCWD, r.arguments[:3]),
            "creat": lambda s, r: self._open(
                s, r, AT_FDCWD, (r.arguments[0], creation, r.arguments[1])
            ),
            "openat": lambda s, r: self._open(s, r, r.arguments[0], r.arguments[1:4]),
        }

    def _open(self, step: Step, request: Request, directory: int, rest: tuple[int, ...]) -> None:
        address, flags, mode = rest
        fd = natively.open_file(step, request, directory, (address, flags, mode))
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self.enter()
        natively.give(step, request, fd, flags)

    def _chdir(self, step: Step, request: Request) -> int | None:
        fd = files.reference(step, request.task, AT_FDCWD, request.arguments[0], 0)
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                fail(errno.ENOTDIR)
            if not os.access(fd_path(fd), os.X_OK, effective_ids=True):
                fail(errno.EACCES)
            self.enter()
            self._hand.change_directory(step, request, fd)
        finally:
            os.close(fd)
        return None

    def connect(self, step: Step, request: Request) -> int:
        """Connect to a socket in a place, of which the kernel would find no name in the root."""
        task, (number, address, size) = request.task, request.arguments[:3]
        if not step.has_network:
            require_near(task, address, size)
        name = path_in(task, address, size)
        if not name or not self._leads(task, AT_FDCWD, name, follow=True):
            return CONTINUE
        with acting_as(owner_of(task)):
            absolute = self._view.absolute(task, AT_FDCWD, name)
            with connected(self._view, task, absolute) as made:
                put_instead(step, request, made, number)
        return 0

    def _executing(self, name: Name) -> Handler:
        def handle(step: Step, request: Request) -> int | None:
            path = self._path(request.task, request.arguments[name.path])
            if not path:
                return CONTINUE
            directory = AT_FDCWD if name.directory < 0 else request.arguments[name.directory]
            if not self._leads(request.task, directory, path, follow=True):
                return CONTINUE
            with acting_as(owner_of(request.task)):
                absolute = self._view.absolute(request.task, directory, path)
                return self._hand.execute(step, request, absolute, name.path)

        return handle

    def _chroot(self, _step: Step, _request: Request) -> int:
        self.rooted = self.roams = True
        return CONTINUE

    def _getcwd(self, step: Step, request: Request) -> int | None:
        if not self._entered or _base(request.task, AT_FDCWD).startswith(self._view.root):
            return CONTINUE
        with acting_as(owner_of(request.task)):
            return files.CALLS["getcwd"](step, request)

    def _uname(self, step: Step, request: Request) -> int | None:
        """Tell the step's own host name, to who can be written to."""
        for attempt in (True, False):
            try:
                return processes.CALLS["uname"](step, request)
            except OSError:
                if attempt:
                    self._hand.reach(request.task)
        return CONTINUE


def _limits(step: Step, request: Request) -> int:
    """Let prlimit64 through for the step's own."""
    target = signed(request.arguments[0])
    if target and not step.is_ours(target):
        fail(errno.ESRCH)
    return CONTINUE


def _base(task: int, directory: int) -> bytes:
    """The host's name of a descriptor or working directory; empty where there is none."""
    number = signed(directory)
    if number == AT_FDCWD:
        return link_of(task, b"/proc/%d/cwd" % task)
    return link_of(task, b"/proc/%d/fd/%d" % (task, number))


_PROCESSES: dict[str, Handler] = {"prctl": ids.dumpable}  # what of it comes here, SELDOM says
ACCESS: dict[str, Handler] = {
    "access": lambda s, r: natively.access(s, r, AT_FDCWD, (*r.arguments[:2], 0)),  # type: ignore[arg-type]
    "faccessat": lambda s, r: natively.access(s, r, r.arguments[0], (*r.arguments[1:3], 0)),  # type: ignore[arg-type]
    "faccessat2": lambda s, r: natively.access(s, r, r.arguments[0], r.arguments[1:4]),  # type: ignore[arg-type]
}
