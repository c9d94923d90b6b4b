"""COPY and ADD to CopyOps, with their fetches, and WORKDIR to a MkdirOp (C01, C20, CP01-CP07, A01-A05)."""

from __future__ import annotations

import posixpath

from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING
from cache.spec.digest import Digest
from cache.value import replace
from frontend.dockerfile import remote
from frontend.dockerfile.heredocs import body_as_file, file_name
from frontend.dockerfile.history import PendingHistory, copy_text
from frontend.dockerfile.metadata import clean
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.session import Inputs
from frontend.graph import (
    CopyOp,
    HttpOp,
    InlineSource,
    LinkOp,
    MkdirOp,
    PathSource,
    RemoteSource,
    ScratchOp,
    Unpack,
)

if TYPE_CHECKING:
    from frontend.dockerfile.environment import Expander
    from frontend.dockerfile.giturl import GitReference
    from frontend.dockerfile.session import Session, StageWork
    from frontend.dockerfile.syntax import Copy, Text
    from frontend.graph import Ref, Source

_PIVOT = "/./"


def lower_copy(
    session: Session, work: StageWork, copy: Copy, expand: Expander, prefix: str
) -> None:
    """Append a COPY or ADD to a stage."""
    paths = [_no_zero(expand(source)) for source in copy.sources]
    dest = _no_zero(expand(copy.dest))
    owner, mode = expand(copy.owner), expand(copy.mode)
    _check_mode(mode)
    _check_checksum(copy, paths)
    link = copy.link and not mode  # the reference falls back as well (CP04)
    base = session.scratch() if link else work.ref
    _check_owner(session, base, owner)
    inputs = Inputs(base)
    op = CopyOp(
        sources=_sources(session, work, copy, paths, expand, inputs),
        dest=destination(work.draft.config.working_dir, dest),
        owner=owner,
        mode=mode,
        parents=copy.parents,
        excludes=copy.excludes,
        unpack=_unpack(copy),
    )
    text = copy.node.original.split("\n", 1)[0]
    ref = session.graph.add(
        op,
        *inputs.refs,
        name=session.step_name(work, prefix + text),
        span=copy.node.span,
        stage=session.label(work),
        fresh=session.is_fresh(work),
    )
    if link:
        name = session.step_name(work, f"LINK {prefix}{text}")
        ref = session.graph.add(
            LinkOp(), work.ref, ref, name=name, span=copy.node.span, stage=session.label(work)
        )
    work.ref = ref
    _record(session, work, copy, owner, mode, [*paths, *_heredoc_words(copy), dest])


def _record(
    session: Session, work: StageWork, copy: Copy, owner: str, mode: str, paths: list[str]
) -> None:
    flags = [
        *(["--parents"] if copy.parents else []),
        *([f"--chown={owner}"] if owner else []),
        *([f"--chmod={mode}"] if mode else []),
    ]
    text = copy_text(copy.node.keyword, flags, paths)
    session.budget.spend(len(text))
    work.history.append(PendingHistory(text, work.ref))


def _heredoc_words(copy: Copy) -> list[str]:
    return [f"<<{heredoc.name}" for heredoc in copy.heredocs]


def _sources(
    session: Session,
    work: StageWork,
    copy: Copy,
    paths: list[str],
    expand: Expander,
    inputs: Inputs,
) -> tuple[Source, ...]:
    """Lower the sources; heredocs come last wherever they stand (P55)."""
    sources: list[Source] = []
    tree: Ref | None = None
    for path in paths:
        reference = remote.git(path)
        if reference is not None:
            sources.append(_cloned(session, work, copy, path, reference, expand, inputs))
            continue
        if remote.is_http(path):
            sources.append(_fetched(session, work, copy, path, expand, inputs))
            continue
        if tree is None:
            tree = _tree(session, work, copy)
        sources.append(PathSource(inputs.add(tree), source_path(path, parents=copy.parents)))
    scope = work.draft.environment.scope
    for heredoc in copy.heredocs:
        body = body_as_file(heredoc)
        text = session.expand_heredoc(body, scope) if heredoc.expand else body
        sources.append(InlineSource(file_name(heredoc), text))
    return tuple(sources)


def _tree(session: Session, work: StageWork, copy: Copy) -> Ref:
    if not copy.source_from:
        return session.context()
    origin = session.find(copy.source_from, work.stage.index, session.stages.copied)
    return session.tree(origin, copy.node.span)


def _cloned(
    session: Session,
    work: StageWork,
    copy: Copy,
    path: str,
    reference: GitReference,
    expand: Expander,
    inputs: Inputs,
) -> PathSource:
    """Lower an ADD of a git repository to a clone and all that is in it (A07, A09)."""
    if copy.node.keyword == "COPY":
        raise MistakeError(
            f"source can't be a git ref for COPY ({remote.shown(path)})",
            hint="use ADD to clone a repository",
        )
    keep = copy.keep_git_dir
    if keep is not None and reference.keep_git_dir not in {None, keep}:
        raise MistakeError("inconsistent keep-git-dir configuration")
    checksum = expand(copy.checksum) if copy.checksum else ""
    if checksum and reference.checksum not in {"", checksum}:
        raise MistakeError(f'checksum mismatch "{checksum[:80]}" != "{reference.checksum[:80]}"')
    op = replace(
        reference.operation(),
        keep_git_dir=bool(keep or reference.keep_git_dir),
        checksum=checksum or reference.checksum,
    )
    ref = session.graph.add(
        op, name=remote.shown(path), span=copy.node.span, stage=session.label(work)
    )
    return PathSource(inputs.add(ref), "/")


def _fetched(
    session: Session, work: StageWork, copy: Copy, url: str, expand: Expander, inputs: Inputs
) -> RemoteSource:
    """Lower an ADD of a URL to a fetch and a source (A04, A05)."""
    if copy.node.keyword == "COPY":
        raise MistakeError(
            f"source can't be a URL for COPY ({remote.shown(url)})", hint="use ADD to fetch a URL"
        )
    filename = remote.filename(url)
    checksum = _digest(expand(copy.checksum)) if copy.checksum else None
    ref = session.graph.add(
        HttpOp(url, filename, checksum),
        name=remote.shown(url),
        span=copy.node.span,
        stage=session.label(work),
    )
    return RemoteSource(inputs.add(ref), filename)


def _check_checksum(copy: Copy, paths: list[str]) -> None:
    if not copy.checksum:
        return
    if len(paths) != 1:
        raise MistakeError("checksum can't be specified for multiple sources")
    if not remote.is_http(paths[0]) and not remote.is_git(paths[0]):
        raise MistakeError("checksum requires an HTTP(S) or git source")


def _digest(text: str) -> Digest:
    algorithm, colon, _ = text.partition(":")
    if colon and algorithm not in {"sha256", "sha512"}:
        raise MistakeError(f'unsupported digest algorithm "{algorithm[:20]}"', hint="use sha256:…")
    try:
        return Digest.parse(text)
    except PybuildError as error:
        raise MistakeError(
            f"invalid checksum digest format {text[:80]!r}",
            hint="give sha256: and 64 lower-case hexadecimal digits",
        ) from error


def _unpack(copy: Copy) -> Unpack:
    if copy.node.keyword == "COPY" or copy.unpack is False:
        return Unpack.NEVER
    return Unpack.ALWAYS if copy.unpack else Unpack.LOCAL


def _check_mode(mode: str) -> None:
    """Accept octal up to 07777 and chmod's symbolic lists (CP03)."""
    if not mode:
        return
    from frontend.filemode import parse_mode  # noqa: PLC0415 - few images change modes

    try:
        parse_mode(mode)
    except ValueError as error:
        raise MistakeError(f"invalid chmod parameter: {mode[:60]!r}", hint=str(error)) from error


def _check_owner(session: Session, base: Ref, owner: str) -> None:
    """Refuse names where there is no tree, hence no user database to look them up in (CP02)."""
    names = [name for name in owner.split(":", 1) if not _is_id(name)]
    if names and base == session.graph.find(ScratchOp()):
        raise MistakeError(
            f"there is no user database to look up the owner {owner[:60]!r} in",
            hint="give numbers: --link and FROM scratch begin with an empty file system",
        )


def _is_id(name: str) -> bool:
    number = name[1:] if name[:1] in {"+", "-"} else name
    return name in {"", "root"} or (number.isascii() and number.isdigit())


def _no_zero(path: str) -> str:
    if "\0" in path:
        raise MistakeError("path contains a zero byte")
    return path


def source_path(path: str, *, parents: bool) -> str:
    """Clean a source path as rooted; with --parents the pivot, the first `/./`, stays (C20, CP05)."""
    if not parents:
        return clean(path)
    rooted = path if path.startswith("/") else f"/{path.removeprefix('./')}"
    before, pivot, after = rooted.partition(_PIVOT)
    if not pivot:
        return clean(path)
    return f"{clean(before).rstrip('/')}/.{clean(after)}"


def destination(workdir: str, dest: str) -> str:
    """Make a destination absolute; `.`, `` and a final slash say it is a directory (C01)."""
    directory = posixpath.basename(dest) in {"", "."}
    path = clean(posixpath.join(workdir, dest))
    return f"{path}/" if directory and path != "/" else path


def lower_workdir(
    session: Session, work: StageWork, text: Text, expand: Expander, prefix: str
) -> None:
    """Append a WORKDIR to a stage; `/` is no step, but `//` is one (I05, O10)."""
    created_by = work.draft.set_workdir(text, expand)
    path = clean(work.draft.config.working_dir)
    ref = None
    if work.draft.config.working_dir == "/":
        work.done -= 1
    else:
        _check_owner(session, work.ref, work.draft.config.user)
        work.ref = ref = session.graph.add(
            MkdirOp(path, work.draft.config.user),
            work.ref,
            name=session.step_name(work, prefix + text.node.original),
            span=text.node.span,
            stage=session.label(work),
        )
    session.budget.spend(len(created_by))
    work.history.append(PendingHistory(created_by, ref))
