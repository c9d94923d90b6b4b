"""The build graph: operations, vertices and a stable text dump; knows no Dockerfile."""

from __future__ import annotations

import json
from enum import StrEnum

from cache.hints import TYPE_CHECKING, NewType
from cache.value import compared_fields, field, replace, value
from frontend.source import Span

if TYPE_CHECKING:
    from cache.spec.digest import Digest
    from cache.spec.oci import Platform

Ref = NewType("Ref", int)


class Network(StrEnum):
    """Network of a RUN step; SANDBOX is one of its own that reaches the world."""

    DEFAULT = "default"
    NONE = "none"
    HOST = "host"
    SANDBOX = "sandbox"


class Sharing(StrEnum):
    """How concurrent users of a cache mount meet (M11)."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


@value
class ScratchOp:
    """The empty tree."""


@value
class ImageOp:
    """A base image, by the digest of its single-platform manifest."""

    reference: str
    manifest: Digest
    platform: Platform


@value
class ContextOp:
    """A local directory: the build context ("context") or a named one."""

    name: str = "context"


@value
class HttpOp:
    """A file fetched by http(s). `filename` is its sanitised base name (A04)."""

    url: str
    filename: str
    checksum: Digest | None = None


@value
class BlobOp:
    """A file that is in the content store already, such as a context read from standard input."""

    filename: str
    digest: Digest


@value
class GitOp:
    """The files of a git commit (A08, A09); `ref` is "" for the remote's HEAD.

    `checksum` is a hex commit, or a prefix of one, that must be what `ref` names.
    """

    url: str
    ref: str = ""
    subdir: str = ""
    keep_git_dir: bool = False
    submodules: bool = True
    checksum: str = ""
    mtime: str = ""  # "" or "checkout": time of the checkout; "commit": of the commit
    fetch_by_commit: bool = False


@value
class BindMount:
    """RUN --mount=type=bind: `source` inside the tree of `inputs[input]`."""

    target: str
    input: int
    source: str = "/"
    readonly: bool = True


@value
class CacheMount:
    """RUN --mount=type=cache. `input` is -1 or the vertex input that gives first content.

    `source` is a path inside the cache. `owned` says that mode, uid or gid were asked for: then
    it is another cache than one without (M11).
    """

    target: str
    id: str
    sharing: Sharing = Sharing.SHARED
    input: int = -1
    source: str = "/"
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    readonly: bool = False
    owned: bool = False


@value
class TmpfsMount:
    """RUN --mount=type=tmpfs; size in bytes, 0 for no limit."""

    target: str
    size: int = 0
    readonly: bool = False


@value
class SecretMount:
    """RUN --mount=type=secret: a file at `target`, an environment variable `env`, or both."""

    id: str
    target: str = ""
    env: str = ""
    mode: int = 0o400
    uid: int = 0
    gid: int = 0
    required: bool = False


@value
class SshMount:
    """RUN --mount=type=ssh: the socket of an agent at `target` (M14)."""

    id: str = "default"
    target: str = ""
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    required: bool = False


Mount = BindMount | CacheMount | TmpfsMount | SecretMount | SshMount


@value
class Ulimit:
    """A resource limit of RUN by docker's name, such as `nofile`; -1 is no limit."""

    name: str
    soft: int
    hard: int


@value
class ExecOp:
    """RUN: a process in the tree of `inputs[0]`.

    `env` is complete and ordered. `script` is the body of a `#!` heredoc, mounted read-only
    at /dev/pipes/<script_name> (P56). `proxies` reach the process but are no identity (V42).
    `after` tells the earlier users of caches apart, which this step may see the work of although
    no layer has it; "" where the step or all before it mount none. `platform` is the stage's:
    the same command in the same tree is another step for another machine.
    """

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/"
    user: str = ""
    network: Network = Network.DEFAULT
    mounts: tuple[Mount, ...] = ()
    hostname: str = "buildkitsandbox"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    insecure: bool = False  # --security=insecure (R21)
    shm_size: int = 0  # bytes of /dev/shm; 0 for the default of 64 MiB
    ulimits: tuple[Ulimit, ...] = ()
    script_name: str = ""
    script: str = ""
    after: str = ""
    platform: str = ""
    proxies: tuple[tuple[str, str], ...] = field(default=(), compare=False)


@value
class PathSource:
    """Paths of `inputs[input]` that match a pattern: cleaned, rooted at that tree (C20-C24).

    With `CopyOp.parents` the first `/./` is kept: it is where the kept path begins (CP05).
    """

    input: int
    path: str


@value
class InlineSource:
    """A heredoc: a file of mode 0644 owned by root (P55)."""

    name: str
    text: str


@value
class RemoteSource:
    """The file of an HttpOp or BlobOp at `inputs[input]`."""

    input: int
    filename: str


Source = PathSource | InlineSource | RemoteSource


class Unpack(StrEnum):
    """What happens to sources that are tar archives (A02, A04)."""

    NEVER = "never"
    LOCAL = "local"  # ADD: path sources are unpacked, fetched ones are not
    ALWAYS = "always"  # ADD --unpack=true


@value
class CopyOp:
    """COPY or ADD onto the tree of `inputs[0]`.

    `dest` is absolute, a trailing slash (or `/.`) kept; `owner` is the expanded --chown text,
    "" for none; `mode` the expanded --chmod text, "" for none. A link op has the ScratchOp as
    inputs[0]; its layer is stacked by the vertex that follows (see `LinkOp`).
    """

    sources: tuple[Source, ...]
    dest: str
    owner: str = ""
    mode: str = ""
    parents: bool = False
    excludes: tuple[str, ...] = ()
    unpack: Unpack = Unpack.NEVER


@value
class LinkOp:
    """Stack the layers of `inputs[1]` on those of `inputs[0]` (COPY --link)."""


@value
class MkdirOp:
    """WORKDIR: make `path` and its parents, 0755, owned by `owner` (USER text) (I05)."""

    path: str
    owner: str = ""


Op = ScratchOp | ImageOp | ContextOp | HttpOp | BlobOp | GitOp | ExecOp | CopyOp | LinkOp | MkdirOp


@value
class Vertex:
    """An operation on earlier vertices' outputs; name and span never affect identity."""

    op: Op
    inputs: tuple[Ref, ...] = ()
    name: str = field(default="", compare=False)
    span: Span = field(default=Span(0, 0), compare=False)
    stage: str = field(default="", compare=False)
    fresh: bool = field(default=False, compare=False)  # runs even if cached (--no-cache-filter)


@value
class Graph:
    """Vertices in topological order: acyclic because inputs come before their users."""

    vertices: tuple[Vertex, ...]

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            ValueError: a vertex reads one that is not before it.
        """
        for index, vertex in enumerate(self.vertices):
            if any(not 0 <= ref < index for ref in vertex.inputs):
                msg = f"vertex {index} reads a vertex that is not before it"
                raise ValueError(msg)

    def __getitem__(self, ref: Ref) -> Vertex:
        """The vertex of a ref."""
        return self.vertices[ref]

    def dump(self) -> str:
        """Render one line a vertex, stable and complete: `v2 copy {...} <- v0 v1`."""
        return "".join(_line(index, vertex) for index, vertex in enumerate(self.vertices))


class GraphBuilder:
    """Collects vertices; equal (op, inputs) become one."""

    def __init__(self) -> None:
        """Start empty."""
        self._refs: dict[Vertex, Ref] = {}
        self._fresh: set[Ref] = set()

    def add(
        self,
        op: Op,
        *inputs: Ref,
        name: str = "",
        span: Span = Span(0, 0),
        stage: str = "",
        fresh: bool = False,
    ) -> Ref:
        """Intern a vertex and return its ref; what is fresh for one stage is so for all."""
        vertex = Vertex(op, inputs, name, span, stage, fresh)
        ref = self._refs.setdefault(vertex, Ref(len(self._refs)))
        if fresh:
            self._fresh.add(ref)
        return ref

    def find(self, op: Op) -> Ref | None:
        """The ref of a vertex without inputs and name, if it was added."""
        return self._refs.get(Vertex(op))

    def build(self) -> Graph:
        """The graph so far."""
        if not self._fresh:
            return Graph(tuple(self._refs))
        return Graph(tuple(replace(v, fresh=ref in self._fresh) for v, ref in self._refs.items()))


def _line(index: int, vertex: Vertex) -> str:
    kind = type(vertex.op).__name__.removesuffix("Op").lower()
    body = json.dumps(_plain(vertex.op), ensure_ascii=True)
    inputs = f" <- {' '.join(f'v{ref}' for ref in vertex.inputs)}" if vertex.inputs else ""
    return f"v{index} {kind} {body}{inputs}\n"


def _plain(value: object) -> object:
    """Reduce a frozen value to JSON values; fields at their default are left out."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int)):
        return value
    name = type(value).__name__
    if not name.endswith(("Op", "Mount", "Source", "Ulimit")):
        return str(value)
    plain = {
        field: _plain(item)
        for field, default in compared_fields(value)
        if (item := getattr(value, field)) != default
    }
    return plain if name.endswith("Op") else {"type": name, **plain}
