"""Instructions grouped into stages: global ARGs, names, the target, where a FROM or --from points.

Knows no images and no graph (CP01, M06, S01-S10, V31-V41).
"""

from __future__ import annotations

from bisect import bisect_left

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.value import field, replace, value
from frontend.dockerfile.problems import MistakeError, nearest
from frontend.dockerfile.syntax import Arg, From

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cache.spec.oci import Platform
    from frontend.dockerfile.syntax import Instruction, Parsed
    from frontend.source import Span

SCRATCH = "scratch"
_MAX_INDEX_DIGITS = 9


class TooEarlyError(MistakeError):
    """A stage is read by one above it, which matters only if that one is built."""


@value
class Stage:
    """A FROM and what follows it."""

    index: int
    origin: From
    instructions: tuple[Instruction, ...]
    replaced: bool = False  # by a named context, which stands in for all of it

    @property
    def name(self) -> str:
        """The name, lower case, or `stage-<index>`."""
        return self.origin.stage or f"stage-{self.index}"


@value
class Stages:
    """The stages of a file in order and the global ARGs before them."""

    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    by_name: Mapping[str, Sequence[int]] = field(repr=False)  # indices, ascending

    def target(self, name: str) -> Stage:
        """Find the stage to build: the last one, or the last one of that name (S02).

        Raises:
            MistakeError: no stage has that name.
        """
        if not name:
            return self.stages[-1]
        found = self.by_name.get(name.lower())
        if found is None:
            known = ", ".join(self.by_name) or "none; name one with FROM … AS"
            raise MistakeError(
                f'target stage "{name[:100]}" could not be found',
                hint=nearest(name, tuple(self.by_name)) or f"named stages: {known[:200]}",
            )
        return self.stages[found[-1]]

    def base(self, name: str, user: int) -> int | None:
        """Find the earlier stage a FROM of stage `user` means, None for an image (F02).

        Stages are named in lower case, and a FROM must name them so.
        """
        found = self.by_name.get(name, ())
        position = bisect_left(found, user)
        return found[position - 1] if position else None

    def copied(self, name: str, user: int) -> int | None:
        """Find the earlier stage COPY --from means, None for an image (CP01).

        Raises:
            MistakeError: a number of no stage, the stage itself or a later one.
        """
        if name.isascii() and name.isdigit():
            index = int(name) if len(name) <= _MAX_INDEX_DIGITS else len(self.stages)
            if index >= len(self.stages):
                raise MistakeError(
                    f"invalid stage index {name[:20]}",
                    hint=f"the file has {len(self.stages)} stages, counted from 0",
                )
            return self._earlier(index, name, user, "copy")
        return self._found(name, user, "copy")

    def mounted(self, name: str, user: int) -> int | None:
        """Find the earlier stage a mount's `from` means, None for an image; no numbers (M06).

        Raises:
            MistakeError: the stage itself or a later one.
        """
        return self._found(name, user, "mount")

    def _found(self, name: str, user: int, verb: str) -> int | None:
        """Of several stages of a name the file's last is meant, wherever it is named (S01)."""
        found = self.by_name.get(name.lower(), ())
        return self._earlier(found[-1], name, user, verb) if found else None

    def _earlier(self, index: int, name: str, user: int, verb: str) -> int:
        current = self.stages[user].name
        if index == user:
            raise MistakeError(f"circular dependency detected on stage: {current}")
        if index > user:
            raise TooEarlyError(
                f'cannot {verb} from stage "{name[:100]}", it needs to be defined before current'
                f' stage "{current}"',
                hint="move that stage up in the file",
            )
        return index


def without_bodies(stages: Stages, replaced: Callable[[From], bool]) -> Stages:
    """Let stages that a named context replaces build on nothing but their own name (S07)."""
    kept = tuple(
        Stage(stage.index, replace(stage.origin, image=stage.origin.stage), (), replaced=True)
        if stage.origin.stage and replaced(stage.origin)
        else stage
        for stage in stages.stages
    )
    return replace(stages, stages=kept)


def group(parsed: Parsed) -> Stages:
    """Split instructions at each FROM. The parser has seen to it that there is one (P04)."""
    heads = [(i, ins) for i, ins in enumerate(parsed.instructions) if isinstance(ins, From)]
    ends = [*(start for start, _ in heads[1:]), len(parsed.instructions)]
    stages = tuple(
        Stage(index, origin, parsed.instructions[start + 1 : end])
        for index, ((start, origin), end) in enumerate(zip(heads, ends, strict=True))
    )
    names: dict[str, list[int]] = {}
    for stage in stages:
        if stage.origin.stage:
            names.setdefault(stage.origin.stage, []).append(stage.index)
    head = parsed.instructions[: heads[0][0]]
    return Stages(tuple(ins for ins in head if isinstance(ins, Arg)), stages, names)


def platform_args(target: Platform, build: Platform, stage: str) -> dict[str, str]:
    """The automatic platform arguments (V40, V41)."""
    values = {"TARGETSTAGE": stage}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        values[f"{prefix}PLATFORM"] = str(platform)
        values[f"{prefix}OS"] = platform.os
        values[f"{prefix}OSVERSION"] = platform.os_version
        values[f"{prefix}ARCH"] = platform.architecture
        values[f"{prefix}VARIANT"] = platform.variant
    return values


def global_scope(
    args: tuple[Arg, ...],
    automatic: dict[str, str],
    build_args: Mapping[str, str],
    expand: Callable[[str, Mapping[str, str], Span], str],
    failed: Callable[[Span, PybuildError], None],
) -> dict[str, str]:
    """Evaluate the ARGs before the first FROM, in order and lazily (V32, T21, T22)."""
    scope = {name: build_args.get(name, value) for name, value in automatic.items()}
    for arg in args:
        for name, default in arg.args:
            try:
                if name in build_args:
                    scope[name] = build_args[name]
                elif default is not None:
                    scope[name] = expand(default, scope, arg.node.span)
            except PybuildError as error:
                failed(arg.node.span, error)
    return scope
