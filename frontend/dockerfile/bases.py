"""What stages build on: the origin and platform of a FROM, the names steps read from.

Also lists the images a build will ask for, so that they can be resolved at the same time.
"""

from __future__ import annotations

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.spec.oci import Platform
from cache.spec.reference import Reference
from frontend.dockerfile.contexts import ContextError, check_stage_name
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.stages import SCRATCH, TooEarlyError
from frontend.dockerfile.syntax import Copy, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from frontend.dockerfile.session import Origin, Session
    from frontend.dockerfile.stages import Stage
    from frontend.dockerfile.syntax import Instruction


def origin_of(session: Session, stage: Stage) -> Origin:
    """Say what a FROM builds on.

    Raises:
        PybuildError: its name cannot be expanded or is empty (V23).
    """
    origin = stage.origin
    name = session.expand(origin.image, session.globals, origin.node.span)
    if not name:
        raise MistakeError(
            f"base name ({origin.image[:100]}) should not be blank",
            hint="give the ARG a default before the first FROM",
        )
    return session.find(name, stage.index, session.stages.base, _known_platform(session, stage))


def _known_platform(session: Session, stage: Stage) -> Platform | None:
    """The platform a FROM asks for; a wrong one is reported where it is needed."""
    try:
        return platform_of(session, stage)
    except PybuildError:
        return None


def platform_of(session: Session, stage: Stage) -> Platform:
    """Read --platform of a FROM; the target's without one (F03).

    Raises:
        PybuildError: it is empty or no platform.
    """
    text = stage.origin.platform
    if not text:
        return session.request.platform
    value = session.expand(text, session.globals, stage.origin.node.span)
    if not value:
        raise MistakeError(f"empty platform value from expression {text[:100]}")
    return Platform.parse(value)


def check_names(session: Session) -> None:
    """Refuse wrong FROMs, and report names that lead nowhere, of stages needed or not (S03).

    Raises:
        DockerfileError: with all wrong FROMs.
    """
    session.problems.check()
    for stage in session.stages.stages:
        try:
            check_stage_name(stage.origin.stage)
            platform_of(session, stage)
            image = origin_of(session, stage).image
            if image and image != SCRATCH and "://" not in image:
                Reference.parse(image)
        except ContextError:
            continue  # matters only if the stage is built (S07)
        except PybuildError as error:
            session.problems.add(stage.origin.node.span, error)
    session.problems.check()
    for stage in session.stages.stages:
        for step in stage.instructions:
            for name, lookup in _names(session, step):
                try:
                    session.find(name, stage.index, lookup)
                except (ContextError, TooEarlyError):
                    continue  # the step itself says so if it is built
                except PybuildError as error:
                    session.problems.add(step.node.span, error)


def origins_read(session: Session, stage: Stage, step: Instruction) -> Iterator[Origin]:
    """List where COPY --from and mounts of a step lead; wrong names are left to the step itself."""
    for name, lookup in _names(session, step):
        try:
            yield session.find(name, stage.index, lookup)
        except PybuildError:
            continue


def _names(
    session: Session, step: Instruction
) -> Iterator[tuple[str, Callable[[str, int], int | None]]]:
    if isinstance(step, Copy) and step.source_from:
        yield step.source_from, session.stages.copied
    if isinstance(step, Run):
        for options in step.mounts:
            for option in options:
                if option.key == "from" and option.value:
                    yield option.value, session.stages.mounted


def images_needed(session: Session, target: int) -> tuple[tuple[str, Platform], ...]:
    """List the images that the target's stages name, with the platforms wanted of them.

    A guess for resolving ahead: triggers of the images may name more, and errors are left out.
    """
    found: dict[tuple[str, Platform], None] = {}
    pending, seen = [target], {target}
    while pending:
        stage = session.stages.stages[pending.pop()]
        for origin, platform in _wanted(session, stage):
            if origin.stage is not None and origin.stage not in seen:
                seen.add(origin.stage)
                pending.append(origin.stage)
            if origin.image not in {"", SCRATCH}:
                found[origin.image, platform] = None
    return tuple(found)


def _wanted(session: Session, stage: Stage) -> Iterator[tuple[Origin, Platform]]:
    try:
        yield origin_of(session, stage), platform_of(session, stage)
    except PybuildError:
        return
    for step in stage.instructions:
        for origin in origins_read(session, stage, step):
            yield origin, session.request.platform
