"""RUN to an ExecOp: argv, heredocs, environment, network, mounts (R01-R22, M01-M14, P56-P60)."""

from __future__ import annotations

import posixpath

from cache.hints import TYPE_CHECKING
from cache.spec.digest import framed
from frontend.dockerfile.environment import proxies
from frontend.dockerfile.heredocs import body_as_file, file_name
from frontend.dockerfile.history import PendingHistory, run_text
from frontend.dockerfile.metadata import clean
from frontend.dockerfile.problems import MistakeError
from frontend.dockerfile.session import Inputs
from frontend.dockerfile.stages import SCRATCH
from frontend.dockerfile.words import parse_heredoc_word
from frontend.graph import (
    BindMount,
    CacheMount,
    ExecOp,
    Network,
    SecretMount,
    Sharing,
    SshMount,
    TmpfsMount,
)

if TYPE_CHECKING:
    from frontend.dockerfile.environment import Expander
    from frontend.dockerfile.mounts import MountRequest
    from frontend.dockerfile.session import Session, StageWork
    from frontend.dockerfile.syntax import Run
    from frontend.graph import Mount, Ref

_PIPES = "/dev/pipes"
_CACHE_NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"
_HOSTNAME = "BUILDKIT_SANDBOX_HOSTNAME"
_HOST_NETWORK = "network.host"
_INSECURE = "security.insecure"
_AGENT = "SSH_AUTH_SOCK"
_AGENTS = "/run/buildkit/ssh_agent."
_PERMISSIONS = 0o777


def lower_run(session: Session, work: StageWork, run: Run, expand: Expander, prefix: str) -> None:
    """Append a RUN to a stage."""
    argv, script_name, script = _checked_command(work, run)
    inputs = Inputs(work.ref)
    requests = _requests(run, expand)
    environment = work.draft.environment
    mounts = _mounts(session, work, run, requests, inputs)
    caches = any(isinstance(mount, CacheMount) for mount in mounts)
    op = ExecOp(
        argv=argv,
        env=_with_agent(environment.pairs(), requests),
        cwd=work.draft.config.working_dir,
        user=work.draft.config.user,
        network=_network(session, run),
        mounts=mounts,
        insecure=_insecure(session, run),
        shm_size=session.request.shm_size,
        ulimits=session.request.ulimits,
        hostname=session.build_args.get(_HOSTNAME, session.request.hostname),
        extra_hosts=session.request.extra_hosts,
        script_name=script_name,
        script=script,
        after=_earlier(work) if caches else "",
        platform=str(work.platform),
        proxies=proxies(session.build_args, environment.scope),
    )
    if caches:
        work.cache_users = _and_this(op)
    session.budget.spend(len(op.env))  # hashing it costs as much, however often it is shared
    work.ref = session.graph.add(
        op,
        *inputs.refs,
        name=session.step_name(work, prefix + _shown(run), _secret_names(requests)),
        span=run.node.span,
        stage=session.label(work),
        fresh=session.is_fresh(work),
    )
    text = run_text(argv, environment.arguments())
    session.budget.spend(len(text) + len(script))
    work.history.append(PendingHistory(text, work.ref))


def _earlier(work: StageWork) -> str:
    """Tell the steps with caches before this one apart, in this stage or those it is built on."""
    stage: StageWork | None = work
    while stage is not None:
        if stage.cache_users:
            return stage.cache_users
        stage = stage.parent
    return ""


def _and_this(op: ExecOp) -> str:
    mounts = "\0".join(repr(mount) for mount in op.mounts)
    env = "\0".join(f"{name}={value}" for name, value in op.env)
    parts = (op.after, "\0".join(op.argv), op.script, mounts, op.cwd, op.user, env)
    return framed("pybuild.cacheusers.v1", [p.encode("utf-8", "surrogatepass") for p in parts]).hex


def _requests(run: Run, expand: Expander) -> list[MountRequest]:
    if not run.mounts:
        return []
    from frontend.dockerfile import mounts  # noqa: PLC0415 - start-up time; many files have none

    return [mounts.parse(options, expand) for options in run.mounts]


def _checked_command(work: StageWork, run: Run) -> tuple[tuple[str, ...], str, str]:
    command = _command(work, run)
    if not command[0]:
        raise MistakeError("RUN needs a command", hint='write RUN ["program", "argument"]')
    if any("\0" in word for word in command[0]):
        raise MistakeError("the command contains a zero byte")
    return command


def _command(work: StageWork, run: Run) -> tuple[tuple[str, ...], str, str]:
    """Give argv and, for a `#!` heredoc, the script's name and body (P56, P57)."""
    if not run.heredocs or not run.command.shell_form:
        return work.draft.argv(run.command), "", ""
    line = run.command.words[0]
    shell = work.draft.shell
    if _is_whole(run):
        script = body_as_file(run.heredocs[0])
        if script.startswith("#!"):
            name = file_name(run.heredocs[0])
            return (*shell, f"{_PIPES}/{name}"), name, script
        return (*shell, script), "", ""
    bodies = (f"\n{_closed(doc.body)}{doc.name}" for doc in run.heredocs)
    return (*shell, line + "".join(bodies)), "", ""


def _is_whole(run: Run) -> bool:
    return len(run.heredocs) == 1 and parse_heredoc_word(run.command.words[0].strip()) is not None


def _closed(body: str) -> str:
    return body if not body or body.endswith("\n") else f"{body}\n"


def _shown(run: Run) -> str:
    """Show a heredoc RUN with its first line: `RUN <<EOF (apt-get update...)` (P60)."""
    text = run.node.original.split("\n", 1)[0] if run.heredocs else run.node.original
    if not run.heredocs or not _is_whole(run):
        return text
    lines = run.heredocs[0].body.strip().split("\n")
    return f"{text} ({lines[0].rstrip()}{'...' if len(lines) > 1 else ''})"


def _network(session: Session, run: Run) -> Network:
    """Choose the network: the RUN's own, else the build's (R20)."""
    asked = session.request.network
    if run.network in {"", "default"}:
        return asked
    if run.network == "none":
        return Network.NONE
    if asked is not Network.HOST and _HOST_NETWORK not in session.request.allow:
        raise MistakeError(
            "network.host is not allowed", hint=f"allow it with --allow {_HOST_NETWORK}"
        )
    return Network.HOST


def _insecure(session: Session, run: Run) -> bool:
    """Say whether a step has all capabilities (R21)."""
    if run.security != "insecure":
        return False
    if _INSECURE not in session.request.allow:
        raise MistakeError(
            "security.insecure is not allowed", hint=f"allow it with --allow {_INSECURE}"
        )
    return True


def _secret_names(requests: list[MountRequest]) -> tuple[str, ...]:
    return tuple(request.env for request in requests if request.type == "secret" and request.env)


def _with_agent(
    env: tuple[tuple[str, str], ...], requests: list[MountRequest]
) -> tuple[tuple[str, str], ...]:
    """Name the first agent's socket, as it was written, unless the variable is set (M14)."""
    first = next((request for request in requests if request.type == "ssh"), None)
    if first is None or any(name == _AGENT for name, _ in env):
        return env
    return (*env, (_AGENT, first.target or f"{_AGENTS}0"))


def _mounts(
    session: Session, work: StageWork, run: Run, requests: list[MountRequest], inputs: Inputs
) -> tuple[Mount, ...]:
    """Lower every mount; a parent is mounted before what lies below it, whatever was written first."""
    mounts: list[Mount] = []
    agents = 0
    for request in requests:
        if request.type == "ssh" and not request.target:
            request.target = f"{_AGENTS}{agents}"
        agents += request.type == "ssh"
        mounts.append(_mount(session, work, run, request, inputs))
    return tuple(sorted(mounts, key=lambda mount: mount.target))


def _mount(
    session: Session, work: StageWork, run: Run, request: MountRequest, inputs: Inputs
) -> Mount:
    if request.type == "secret":
        return _secret(work, request)
    origin = _origin(session, work, run, request)
    target = _target(work, request.target)
    match request.type:
        case "ssh":
            return _ssh(request, target)
        case "tmpfs":
            return TmpfsMount(target, request.size, request.is_readonly())
        case "cache":
            place = -1 if origin is None else inputs.add(origin)
            return _cache(session, request, target, place)
        case _:
            pass
    place = inputs.add(session.context() if origin is None else origin)
    return BindMount(target, place, clean(request.source), request.is_readonly())


def _origin(session: Session, work: StageWork, run: Run, request: MountRequest) -> Ref | None:
    """Give the tree of `from`, which must exist even where it is of no use (M06)."""
    if not request.source_from:
        return None
    origin = session.find(request.source_from, work.stage.index, session.stages.mounted)
    if origin.image == SCRATCH and request.type == "cache":
        return None  # the same cache as one that begins empty
    return session.tree(origin, run.node.span)


def _cache(session: Session, request: MountRequest, target: str, place: int) -> CacheMount:
    """Lower a cache mount; its id is the target as written unless given (M11)."""
    name = request.id or _cleaned(request.target)
    asked = (request.mode, request.uid, request.gid) != (None, None, None)
    owned = asked and clean(request.source) == "/"
    return CacheMount(
        target=target,
        id=f"{session.build_args.get(_CACHE_NAMESPACE, '')}/{name}",
        sharing=request.sharing or Sharing.SHARED,
        input=place,
        source=clean(request.source),
        mode=0o755 if request.mode is None or not owned else request.mode & _PERMISSIONS,
        uid=(request.uid or 0) if owned else 0,
        gid=(request.gid or 0) if owned else 0,
        readonly=request.is_readonly(),
        owned=owned,
    )


def _cleaned(target: str) -> str:
    path = posixpath.normpath(target or ".")
    return path[1:] if path.startswith("//") else path


def _secret(work: StageWork, request: MountRequest) -> SecretMount:
    """Lower a secret: a file unless only `env` is given (M13)."""
    name = request.secret_id()
    target = request.target
    if not target and request.env is None:
        target = f"/run/secrets/{posixpath.basename(name.rstrip('/'))}"
    return SecretMount(
        id=name,
        target=_target(work, target) if target else "",
        env=request.env or "",
        mode=0o400 if request.mode is None else request.mode & _PERMISSIONS,
        uid=request.uid or 0,
        gid=request.gid or 0,
        required=request.required,
    )


def _ssh(request: MountRequest, target: str) -> SshMount:
    return SshMount(
        id=request.id or "default",
        target=target,
        mode=0o600 if request.mode is None else request.mode & _PERMISSIONS,
        uid=request.uid or 0,
        gid=request.gid or 0,
        required=request.required,
    )


def _target(work: StageWork, target: str) -> str:
    """Place a mount: relative to WORKDIR, never the root itself (M05)."""
    path = clean(posixpath.join(work.draft.config.working_dir, target))
    if path == "/":
        raise MistakeError(f'invalid mount target "{path}"', hint="give target=/some/path")
    return path
