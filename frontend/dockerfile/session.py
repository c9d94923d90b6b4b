"""What one lowering shares: the request, the graph so far, base images, stages under work.

Turns names into trees (stages, images, contexts) and words into expanded words; knows no
single instruction.
"""

from __future__ import annotations

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING, Protocol
from cache.spec.oci import Platform
from cache.spec.reference import Reference
from cache.value import field, state, value
from frontend.dockerfile import shell
from frontend.dockerfile.contexts import (
    LAYOUT,
    ContextError,
    Contexts,
    ImageSource,
    NamedContext,
    StageSource,
    base_tree,
    copied_tree,
)
from frontend.dockerfile.ignored import IgnoreFile
from frontend.dockerfile.problems import Budget, LoweringError, closest, nearest
from frontend.dockerfile.stages import SCRATCH, without_bodies
from frontend.dockerfile.stepnames import step_text
from frontend.graph import ContextOp, GraphBuilder, ImageOp, Network, Ref, ScratchOp, Ulimit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cache.spec.config import ImageConfig
    from cache.spec.manifest import Image
    from frontend.dockerfile.history import PendingHistory
    from frontend.dockerfile.metadata import Draft
    from frontend.dockerfile.problems import Problems
    from frontend.dockerfile.stages import Stage, Stages
    from frontend.dockerfile.syntax import Arg, Directives, Instruction
    from frontend.ignore import IgnorePattern
    from frontend.source import SourceFile, Span

CONTEXT = "context"
EPOCH = "SOURCE_DATE_EPOCH"
_BUILD_ONLY = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})  # never set
_USUAL_IMAGES = (
    "alpine",
    "busybox",
    "centos",
    "debian",
    "fedora",
    "golang",
    "node",
    "python",
    "ubuntu",
)


@value
class LowerRequest:
    """What a build asks of a Dockerfile.

    `contexts` are named contexts as --build-context gives them; what is no URL is a directory (S07).
    """

    platform: Platform = Platform()
    build_platform: Platform = Platform()
    target: str = ""
    also_targets: tuple[str, ...] = ()  # built too, for what their steps do
    build_args: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    network: Network = Network.DEFAULT
    source_date_epoch: int | None = None
    hostname: str = "buildkitsandbox"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    contexts: tuple[tuple[str, str], ...] = ()
    allow: tuple[str, ...] = ()  # entitlements such as "security.insecure"
    shm_size: int = 0  # bytes of /dev/shm in RUN; 0 for the default
    ulimits: tuple[Ulimit, ...] = ()
    no_cache_filter: tuple[str, ...] = ()  # stages whose steps run even if cached (K30)
    multi_platform: bool = False  # step names begin with the platform (O15)


class ImageResolver(Protocol):
    """Finds base images: the only effect of lowering."""

    def resolve(self, reference: str, platform: Platform | None) -> Image:
        """Give the image of a name, as written, for a platform; any PybuildError may be raised."""


@value
class Origin:
    """Where a name leads: an earlier stage, a named context, or an image (maybe scratch)."""

    stage: int | None = None
    context: str = ""
    image: str = ""


@value
class Base:
    """A resolved image: its vertex to be, and its config."""

    op: ImageOp
    config: ImageConfig
    pinned: str  # the name with the digest of the manifest


@state
class StageWork:
    """A stage while it is lowered, and what it became."""

    stage: Stage
    origin: Origin
    platform: Platform
    ref: Ref
    draft: Draft
    parent: StageWork | None = None
    steps: tuple[tuple[Instruction, bool], ...] = ()  # with whether ONBUILD brought it
    dependencies: tuple[int, ...] = ()
    history: list[PendingHistory] = field(default_factory=list)
    total: int = 0
    done: int = 0
    cache_users: str = ""  # tells the steps with cache mounts so far apart
    has_workdir: bool = False  # a WORKDIR was seen, in this stage or the stages it builds on
    seen_once: dict[str, Span] = field(default_factory=dict)  # CMD and the like, for the linter
    arguments: dict[str, tuple[Arg, str]] = field(default_factory=dict)  # own ARGs, not global ones


class Session:
    """One lowering."""

    def __init__(
        self,
        source: SourceFile,
        directives: Directives,
        stages: Stages,
        request: LowerRequest,
        resolver: ImageResolver,
        problems: Problems,
        ignore: Callable[[], tuple[IgnorePattern, ...]] | None = None,
    ) -> None:
        """Keep the parts; nothing is resolved yet."""
        self.source = source
        self.directives = directives
        self._contexts = Contexts(request.contexts)
        self.named: dict[str, NamedContext] = {}
        if self._contexts:
            stages = without_bodies(
                stages, lambda origin: self._contexts.replaces(origin, request.platform)
            )
        self.stages = stages
        self.request = request
        self.problems = problems
        self.budget = Budget()
        self.graph = GraphBuilder()
        self.build_args = dict(request.build_args)
        self.globals: dict[str, str] = {}
        self.finished: dict[int, StageWork] = {}
        self.lenient = False  # a base that cannot be resolved is a mistake like others
        self._unresolved: set[str] = set()
        self._here: tuple[StageWork, Span] | None = None
        self._resolver = resolver
        self.ignore_file = IgnoreFile(ignore)
        self._images: dict[tuple[str, Platform], Image] = {}
        self._alone = len(stages.stages) == 1 and not any(
            map(_reads, stages.stages[0].instructions)
        )
        self._unnamed = len(stages.stages) == 1 and not stages.stages[0].origin.stage

    def given(self, name: str) -> str | None:
        """Give the value of an ARG from the command line; the epoch is always the numeric one (O21)."""
        if name == EPOCH:
            epoch = self.request.source_date_epoch
            return self.build_args.get(name) or None if epoch is None else str(epoch)
        return self.build_args.get(name)

    def enter(self, work: StageWork, step: Instruction) -> None:
        """Begin with an instruction: unset variables are reported at it (V12)."""
        self._here = (work, step.node.span)

    def expand(self, text: str, scope: Mapping[str, str], span: Span) -> str:
        """Expand one word; unset variables in a stage become warnings (V12)."""
        unset: list[str] = []
        result = shell.expand(text, scope, escape=self.directives.escape, undefined=unset.append)
        self.budget.spend(len(result))
        if scope is not self.globals:
            self._warn_unset(unset, span)
        return result

    def split(self, text: str, scope: Mapping[str, str], span: Span) -> list[str]:
        """Expand one word and split the result (EXPOSE)."""
        del span
        result = list(shell.expand_words(text, scope, escape=self.directives.escape))
        self.budget.spend(sum(map(len, result)))
        return result

    def expand_heredoc(self, body: str, scope: Mapping[str, str]) -> str:
        """Expand the body of an unquoted heredoc of COPY or ADD (P55)."""
        unset: list[str] = []
        result = shell.expand_heredoc(body, scope, undefined=unset.append)
        self.budget.spend(len(result))
        if self._here is not None:
            self._warn_unset(unset, self._here[1])
        return result

    def _is_unknown(self, work: StageWork) -> bool:
        while work.parent is not None:
            work = work.parent
        return work.origin.image in self._unresolved

    def _warn_unset(self, names: list[str], span: Span) -> None:
        if not names or self._here is None or not self.problems.hears("UndefinedVar", span):
            return
        work = self._here[0]
        if self._unresolved and self._is_unknown(work):
            return  # who knows what its base sets
        environment = work.draft.environment
        for name in dict.fromkeys(names):
            if name in environment.declared or name in _BUILD_ONLY:
                continue
            guess = self.problems.closest(name, environment.scope)
            suffix = f" (did you mean ${guess}?)" if guess else ""
            self.problems.warn(
                "UndefinedVar", f"Usage of undefined variable '${name}'{suffix}", span
            )

    def find(
        self,
        name: str,
        user: int,
        lookup: Callable[[str, int], int | None],
        platform: Platform | None = None,
    ) -> Origin:
        """Say where a name leads; named contexts win over stages, stages over images (F02, S06)."""
        context = self._contexts.find(name, platform or self.request.platform)
        try:
            # A stage that is replaced leads to its context by itself.
            stage = lookup(name, user) if name != SCRATCH else None
        except PybuildError:
            if context is None:
                raise
            stage = None
        if stage is not None:
            return Origin(stage=stage)
        return Origin(image=name) if context is None else self._context_origin(context)

    def _context_origin(self, context: NamedContext) -> Origin:
        source = context.source
        if isinstance(source, ImageSource):
            return Origin(image=source.text)
        if not isinstance(source, StageSource):
            self.named[context.name] = context
            return Origin(context=context.name)
        found = self.stages.by_name.get(source.name.lower())
        if found is None:
            raise ContextError(
                f"context {context.name}: target stage {source.name[:100]!r} could not be found",
                hint=nearest(source.name, tuple(self.stages.by_name)),
            )
        return Origin(stage=found[-1])

    def tree(self, origin: Origin, span: Span) -> Ref:
        """Give the tree of an origin; its stage is finished."""
        if origin.stage is not None:
            return self.finished[origin.stage].ref
        if origin.context:
            return copied_tree(self.graph, self.named[origin.context], span)
        base = self.resolve(origin.image, self.request.platform, span)
        if base is None:
            return self.scratch()
        return self.graph.add(base.op, name=f"FROM {origin.image}", span=span)

    def context(self) -> Ref:
        """Give the build context."""
        return self.graph.add(ContextOp(), name="[internal] load build context")

    def base(self, origin: Origin, span: Span) -> Ref:
        """Give the file system of a stage that builds on a named context, or on nothing."""
        if not origin.context:
            return self.scratch()
        return base_tree(self.graph, self.named[origin.context], span)

    def scratch(self) -> Ref:
        """Give the empty tree."""
        return self.graph.add(ScratchOp())

    def resolve(self, text: str, platform: Platform, span: Span) -> Base | None:
        """Find an image, each once; None for scratch.

        Raises:
            InvalidDocumentError: the text is no image name.
            LoweringError: the resolver failed; earlier mistakes of the file are reported first.
        """
        if text == SCRATCH or text in self._unresolved:
            return None
        name = None if text.startswith(LAYOUT) else Reference.parse(text)
        reference = text if name is None else str(name)
        image = self._images.get((reference, platform))
        if image is None:
            try:
                image = self._resolver.resolve(text, platform)
            except PybuildError as error:
                guess = self._meant(text)
                if self.lenient:
                    self._unresolved.add(text)
                    self.problems.add(span, error, guess=guess)
                    return None
                self.problems.check()
                raise LoweringError(self.source, span, error, guess=guess) from error
            self._images[reference, platform] = image
        digest = image.manifest.digest
        pinned = f"{text.partition('@')[0]}@{digest}" if name is None else str(name.pinned(digest))
        return Base(ImageOp(reference, digest, platform), image.config, pinned)

    def _meant(self, text: str) -> str:
        """Guess which stage or well-known image was meant by a name that leads nowhere (P05)."""
        return closest(text.partition(":")[0], (*self.stages.by_name, *_USUAL_IMAGES))

    def label(self, work: StageWork) -> str:
        """Name a stage for reports; "" if the file has one unnamed stage (O15)."""
        return "" if self._unnamed else work.stage.name

    def is_fresh(self, work: StageWork) -> bool:
        """Say whether a stage's RUN, COPY and ADD run even if they are cached (K30)."""
        named = work.stage.origin.stage.lower()
        return bool(named) and any(name.lower() == named for name in self.request.no_cache_filter)

    def step_name(self, work: StageWork, text: str, masked: tuple[str, ...] = ()) -> str:
        """Word a step: `[stage 2/5] RUN …` with variables in the text expanded (O15)."""
        scope = work.draft.environment.scope
        position = f"{work.done:{len(str(work.total))}}/{work.total}"
        stage = "" if self._alone else work.stage.name
        parts = [self._platform_prefix(work), stage, position]
        text = step_text(text, scope, self.directives.escape, frozenset(masked))
        self.budget.spend(len(text))
        return f"[{' '.join(part for part in parts if part)}] {text}"

    def _platform_prefix(self, work: StageWork) -> str:
        if not self.request.multi_platform:
            return ""
        aim = _aim(work.draft.environment.scope, work.platform)
        return f"{work.platform}->{aim}" if aim else str(work.platform)


def _aim(scope: Mapping[str, str], platform: Platform) -> str:
    """What a step that knows its target builds for; "" for its own platform (O15)."""
    given = scope.get("TARGETPLATFORM")
    if given is None:
        os, architecture = scope.get("TARGETOS"), scope.get("TARGETARCH")
        given = f"{os or platform.os}/{architecture or platform.architecture}"
    try:
        target = Platform.parse(given)
    except PybuildError:
        return ""
    if target.os != platform.os:
        return str(target)
    if target.architecture == platform.architecture:
        return ""
    return str(target).partition("/")[2]


def _reads(step: Instruction) -> bool:
    """Whether a step reads another tree than the context's; then a lone stage is named as well."""
    return bool(getattr(step, "source_from", "") or getattr(step, "mounts", ()))


class Inputs:
    """The inputs of a vertex while it is made: equal trees share one place."""

    def __init__(self, first: Ref) -> None:
        """Begin with the tree the step works on."""
        self._first = first
        self._others: dict[Ref, int] = {}

    def add(self, ref: Ref) -> int:
        """Give the place of a further tree; never 0, which is the step's own."""
        return self._others.setdefault(ref, len(self._others) + 1)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """All inputs in order."""
        return (self._first, *self._others)
