"""What the user asked for, parsed: frozen values without effects."""

from __future__ import annotations

from builder.errors import UsageError
from builder.resources import NO_LIMITS, Limits
from cache.hints import TYPE_CHECKING
from cache.spec.oci import Platform
from cache.value import value
from frontend.graph import Network, Ulimit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cache.spec.reference import Reference

MAX_SECRET = 500 * 1024  # bytes, as docker's limit (M13)
CONTEXT_EPOCH = "context"  # the epoch of a build whose context has a time
MAX_EPOCH = 253_402_300_799  # 9999-12-31T23:59:59Z, the last second RFC 3339 can name


@value
class SecretSource:
    """Where a secret comes from: a file `path`, or the environment variable `env`."""

    id: str
    path: str = ""
    env: str = ""


@value
class SshSource:
    """One --ssh: agent sockets or key files of an id; no paths means $SSH_AUTH_SOCK."""

    id: str = "default"
    paths: tuple[str, ...] = ()


@value
class CachePlace:
    """One --cache-from or --cache-to: an image that holds what steps gave.

    `place` is its name in a registry, or the directory of an OCI layout, where `tag` names it
    (or, with @, a digest). What is written is compressed as `compression` says, with every
    step's layer if `everything`, else those of the result.
    """

    local: bool
    place: str
    tag: str = ""
    everything: bool = False
    compression: str = "gzip"
    level: int | None = None
    force: bool = False
    oci_types: bool = True
    ignore_error: bool = False


@value
class BuildRequest:
    """One `pybuild build`. `dockerfile` is "" for the context's own, "-" for standard input.

    `platforms` has every platform asked for, `platform` is the first. `contexts` are the values
    of --build-context as written, `annotations` those of --annotation.
    `runtime` is an OCI runtime's name or path, `sandbox` a tier's name, "auto" or "none"; `call` is the name after
    --call (or "check"), `call_format` text or json. `warnings` are about the flags themselves. `root` is the state
    directory, "" for where it usually is.
    """

    context: str
    dockerfile: str = ""
    tags: tuple[Reference, ...] = ()
    build_args: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    target: str = ""
    also_targets: tuple[str, ...] = ()
    platform: Platform = Platform()
    platforms: tuple[Platform, ...] = ()
    network: Network = Network.DEFAULT
    sandbox: str = "auto"
    runtime: str = ""
    secrets: tuple[SecretSource, ...] = ()
    ssh: tuple[SshSource, ...] = ()
    allow: tuple[str, ...] = ()
    contexts: tuple[tuple[str, str], ...] = ()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    limits: Limits = NO_LIMITS
    outputs: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    push: bool = False
    load: bool = False
    pull: bool = False
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    explain: bool = False
    call: str = "build"
    call_format: str = "text"
    call_ignore_status: bool = False
    debug: bool = False
    cache_from: tuple[CachePlace, ...] = ()
    cache_to: tuple[CachePlace, ...] = ()
    iidfile: str = ""
    metadata_file: str = ""
    progress: str = "auto"
    source_date_epoch: int | None = None
    insecure_registries: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    root: str = ""


def parse_pairs(
    flag: str, texts: list[str], environ: Mapping[str, str] | None = None
) -> tuple[tuple[str, str], ...]:
    """Read `KEY=VALUE` texts in order; a bare KEY takes its value from `environ` where given.

    Raises:
        UsageError: an empty key or a NUL.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or "\0" in text:
            msg = f"invalid {flag} {text!r}: the name is empty"
            raise UsageError(msg, hint=f"write {flag} NAME=value")
        if equals or environ is None:
            pairs[key] = value
        elif key in environ:
            pairs[key] = environ[key]
    return tuple(pairs.items())


def parse_epoch(text: str | None) -> int | None:
    """Read SOURCE_DATE_EPOCH: seconds since 1970; empty means unset (O20).

    `context` is the time of the context, which a local one has not.

    Raises:
        UsageError: not a whole number of seconds from 0 to the year 9999.
    """
    if not text or text == "context":
        return None
    digits = text.removeprefix("+")
    known = digits.isascii() and digits.isdigit() and len(digits) <= 12  # noqa: PLR2004 - digits of MAX_EPOCH
    if not (known and int(digits) <= MAX_EPOCH):
        msg = f"invalid SOURCE_DATE_EPOCH {text[:40]!r}"
        raise UsageError(msg, hint="give whole seconds since 1970, such as 1700000000")
    return int(digits)
