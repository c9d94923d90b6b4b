"""The command line of `pybuild build`: words to a request, by the rules of docker's own.

Owns which flags there are and how they exclude each other; the grammar is in `flags`, what
stands inside a value in `flagvalues`. Reads no file and starts nothing.
"""

from __future__ import annotations

from builder.errors import UsageError
from builder.flags import Grammar, parse
from builder.request import BuildRequest, parse_epoch, parse_pairs
from builder.resources import GATEWAY
from cache.errors import PybuildError
from cache.hints import TYPE_CHECKING, Any
from cache.spec.oci import Platform
from cache.spec.reference import Reference
from frontend.graph import Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from builder.flags import Words

_EPOCH = "SOURCE_DATE_EPOCH"
PROGRESS = ("auto", "plain", "tty", "rawjson", "quiet", "none")

SANDBOXES = ("auto", "userns", "single", "chroot", "emulate", "none")

_VALUED = """
    add-host allow annotation attest build-arg build-context builder cache-from cache-to call
    cgroup-parent cpu-period cpu-quota cpu-shares cpus cpuset-cpus cpuset-mems file iidfile
    insecure-registry isolation label memory memory-swap metadata-file network no-cache-filter
    output pids-limit platform policy print progress provenance resource root runtime sandbox sbom
    secret security-opt shm-size ssh tag target ulimit
"""
_SWITCHES = """
    check compress debug explain force-rm help load no-cache pull push quiet rm squash
"""
GRAMMAR = Grammar(
    valued=frozenset(_VALUED.split()),
    switches=frozenset(_SWITCHES.split()),
    shorts={
        "D": "debug", "c": "cpu-shares", "f": "file", "h": "help", "m": "memory", "o": "output",
        "q": "quiet", "t": "tag",
    },
)  # fmt: skip

# What cannot be had here, and what to do instead.
_REFUSED = {
    "cgroup-parent": "start pybuild itself in that cgroup, for example with systemd-run",
    "policy": "leave it out: sources are not checked against a policy",
}  # fmt: skip

# What limitvalues reads.
_LIMITS = frozenset({
    "cpu-period", "cpu-quota", "cpu-shares", "cpus", "cpuset-cpus", "cpuset-mems", "memory",
    "memory-swap", "pids-limit", "resource",
})  # fmt: skip

# What docker takes and no longer heeds, and what it says then.
_LEGACY = {
    "compress": "contexts are not sent anywhere",
    "isolation": "it is for Windows containers",
    "security-opt": "use RUN --security and --allow",
    "squash": "copy from a stage into a fresh one instead",
}


def read(argv: Sequence[str]) -> Words:
    """Read the words after `pybuild build` as flags and their values.

    Raises:
        UsageError: what is no flag of a build.
    """
    return parse(argv, GRAMMAR)


def parse_build(argv: Sequence[str], environ: Mapping[str, str]) -> BuildRequest:
    """Parse the words after `pybuild build`.

    Raises:
        UsageError: anything that docker buildx would refuse too, or that pybuild cannot do.
    """
    return build_request(read(argv), environ)


def build_request(words: Words, environ: Mapping[str, str]) -> BuildRequest:
    """Give the flags their meaning.

    Raises:
        UsageError: anything that docker buildx would refuse too, or that pybuild cannot do.
    """
    _refuse(words)
    platforms = parse_platforms(words.every("platform"), environ)
    build_args = parse_pairs("--build-arg", words.every("build-arg"), environ)
    build_args, epoch = _epoch(build_args, environ)
    network = _network(words.last("network"))
    return BuildRequest(
        context=_context(words.positional),
        dockerfile=words.last("file"),
        tags=tuple(parse_tag(text) for text in words.every("tag")),
        build_args=build_args,
        labels=parse_pairs("--label", words.every("label")),
        target=words.last("target"),
        also_targets=tuple(words.every("target")[:-1]),
        platform=platforms[0],
        platforms=platforms,
        network=network,
        sandbox=_sandbox(words.last("sandbox", "auto")),
        outputs=tuple(words.every("output")),
        push=words.switch("push"),
        load=words.switch("load"),
        pull=words.switch("pull"),
        no_cache=words.switch("no-cache"),
        no_cache_filter=_stages(words),
        explain=words.switch("explain"),
        debug=words.switch("debug"),
        iidfile=words.last("iidfile"),
        metadata_file=words.last("metadata-file"),
        progress=_progress(words, environ),
        source_date_epoch=epoch,
        insecure_registries=tuple(words.every("insecure-registry")),
        warnings=_legacy(words),
        **_call(words),
        **_rarely_given(words, network),
    )


def _epoch(
    build_args: tuple[tuple[str, str], ...], environ: Mapping[str, str]
) -> tuple[tuple[tuple[str, str], ...], int | None]:
    """Read the epoch; one that is a name is known later, and a build argument until then."""
    text = dict(build_args).get(_EPOCH, environ.get(_EPOCH))
    if not text or text.removeprefix("+").isdigit():
        return build_args, parse_epoch(text)
    return (*build_args, (_EPOCH, text)), None


def _sandbox(text: str) -> str:
    if text not in SANDBOXES:
        msg = f"invalid --sandbox {text[:40]!r}"
        raise UsageError(msg, hint=f"one of {', '.join(SANDBOXES)}")
    return text


def _rarely_given(words: Words, network: Network) -> dict[str, Any]:
    """Fields whose flags have a grammar of their own, as far as they are given."""
    flags = {"secret", "ssh", "add-host", "shm-size", "ulimit", "build-context", "annotation",
             "cache-from", "cache-to"}  # fmt: skip
    if not flags.isdisjoint(words.order) or "allow" in words.order:
        from builder import flagvalues as values  # noqa: PLC0415 - start-up time

        size = words.last("shm-size")
        return {
            "secrets": tuple(values.parse_secret(text) for text in words.every("secret")),
            "ssh": values.parse_ssh(words.every("ssh")),
            "extra_hosts": values.parse_hosts(words.every("add-host"), _gateway(network)),
            "shm_size": values.parse_size("--shm-size", size) if size else 0,
            "ulimits": values.parse_ulimits(words.every("ulimit")),
            "contexts": values.parse_contexts(words.every("build-context")),
            "annotations": values.check_annotations(words.every("annotation")),
            "allow": _granted(values.parse_allow(words.every("allow")), network),
            "root": _root(words),
            **_caches(words),
            **_limits(words),
        }
    return {"allow": _granted((), network), "root": _root(words), **_limits(words)}


def _root(words: Words) -> str:
    """The state directory; an empty name is an unset variable more often than not."""
    if "" in words.every("root"):
        msg = "--root: a directory is needed"
        raise UsageError(msg, hint="name one, or leave the flag out")
    return words.last("root")


def _caches(words: Words) -> dict[str, Any]:
    """Places that steps' results come from and go to."""
    given = {
        name: [text for text in words.every(name) if text] for name in ("cache-from", "cache-to")
    }
    if not any(given.values()):
        return {}
    from builder.cacheflags import parse_cache_from, parse_cache_to  # noqa: PLC0415 - start-up time

    return {
        "cache_from": tuple(
            place for text in given["cache-from"] for place in parse_cache_from(text)
        ),
        "cache_to": tuple(place for text in given["cache-to"] for place in parse_cache_to(text)),
    }


def _gateway(network: Network) -> str:
    """The address of host-gateway."""
    return GATEWAY if network is Network.SANDBOX else "127.0.0.1"


def _limits(words: Words) -> dict[str, Any]:
    """What runs a step and what it may use; an own flag wins over --resource."""
    names = [name for name in dict.fromkeys(words.order) if name in _LIMITS]
    runtime = words.last("runtime")
    if not names:
        return {"runtime": runtime}
    from builder.limitvalues import parse_limits  # noqa: PLC0415 - start-up time

    names.sort(key=lambda name: name != "resource")
    given = [(name, text) for name in names for text in words.every(name)]
    return {"runtime": runtime, "limits": parse_limits(given)}


def _granted(allow: tuple[str, ...], network: Network) -> tuple[str, ...]:
    """Entitlements: --network host grants its own."""
    host = ("network.host",) if network is Network.HOST else ()
    return tuple(dict.fromkeys((*allow, *host)))


def _context(positional: Sequence[str]) -> str:
    if len(positional) == 1 and positional[0]:
        return positional[0]
    if not positional or not positional[0]:
        msg = "no build context given"
        raise UsageError(msg, hint="name a directory: pybuild -t NAME .")
    words = ", ".join(repr(word[:60]) for word in positional[:2])
    more = ", …" if positional[2:] else ""
    msg = f"one build context is wanted, {len(positional)} words are given: {words}{more}"
    switch = {"true", "false"} & set(positional)
    hint = "write a switch's value as --push=false" if switch else "flags begin with a hyphen"
    raise UsageError(msg, hint=hint)


def _refuse(words: Words) -> None:
    for name in words.order:
        if name in _REFUSED and words.last(name):
            msg = f"--{name} is not supported"
            raise UsageError(msg, hint=_REFUSED[name])
        if name in {"attest", "provenance", "sbom"}:
            _refuse_attestation(name, words.every(name))
    if words.last("builder") not in {"", "default"}:
        msg = f"--builder {words.last('builder')[:60]}: there is no builder of that name"
        raise UsageError(msg, hint="leave it out: pybuild builds without a daemon")


def _refuse_attestation(name: str, texts: Sequence[str]) -> None:
    """Refuse attestations that are asked for; that there are none is what may be asked."""
    for text in texts:
        fields = text.lower().split(",")
        if not (text.lower() in {"0", "f", "false", ""} or "disabled=true" in fields):
            msg = f"--{name} {text[:60]}: attestations are not written"
            raise UsageError(msg, hint=f"leave --{name} out")


def _legacy(words: Words) -> tuple[str, ...]:
    given = (name for name in dict.fromkeys(words.order) if name in _LEGACY)
    return tuple(f"--{name} does nothing: {_LEGACY[name]}" for name in given)


def _network(text: str) -> Network:
    if text not in {"", *Network}:
        msg = f"network mode {text[:60]!r} is not supported"
        raise UsageError(msg, hint=f"choose one of {', '.join(Network)}")
    return Network(text or "default")


def _progress(words: Words, environ: Mapping[str, str]) -> str:
    mode = words.last("progress") or environ.get("BUILDKIT_PROGRESS") or "auto"
    if mode not in PROGRESS:
        msg = f"unknown progress {mode[:40]!r}"
        raise UsageError(msg, hint=f"choose one of {', '.join(PROGRESS)}")
    if not words.switch("quiet"):
        return mode
    if words.last("progress", "auto") not in {"auto", "quiet"}:
        msg = f"--quiet and --progress={mode} exclude each other"
        raise UsageError(msg)
    return "quiet"


def _stages(words: Words) -> tuple[str, ...]:
    """Stages of --no-cache-filter, in lists and repeated (K30)."""
    texts = words.every("no-cache-filter")
    if texts and words.switch("no-cache"):
        msg = "--no-cache and --no-cache-filter exclude each other"
        raise UsageError(msg, hint="--no-cache is for every stage, --no-cache-filter for some")
    return tuple(name for text in texts for name in text.split(",") if name)


def _call(words: Words) -> dict[str, Any]:
    """What --call, --check and --print ask for; the last of them counts."""
    for name in reversed(words.order):
        if name == "check":
            return {"call": "check" if words.switch("check") else "build"}
        if name in {"call", "print"}:
            from builder.flagvalues import parse_call  # noqa: PLC0415 - start-up time

            call, form, ignore_status = parse_call(words.last(name))
            return {"call": call, "call_format": form, "call_ignore_status": ignore_status}
    return {}


def parse_platforms(texts: Sequence[str], environ: Mapping[str, str]) -> tuple[Platform, ...]:
    """Read --platform, else DOCKER_DEFAULT_PLATFORM, else this machine's; each once.

    Raises:
        UsageError: an unknown one.
    """
    names = [name.strip() for text in texts for name in text.split(",")]
    if not any(names):
        names = environ.get("DOCKER_DEFAULT_PLATFORM", "").split(",")
    platforms = tuple(dict.fromkeys(_platform(name) for name in names if name))
    return platforms or (local_platform(),)


def _platform(text: str) -> Platform:
    if text == "local":
        return local_platform()
    try:
        return Platform.parse(text)
    except PybuildError as error:
        raise UsageError(error.message, hint=error.hint) from error


def parse_tag(text: str) -> Reference:
    """Read a -t name.

    Raises:
        UsageError: not a name, or one with a digest.
    """
    try:
        reference = Reference.parse(text)
    except PybuildError as error:
        msg = f"invalid tag {text[:100]!r}: {error.message}"
        raise UsageError(
            msg, hint=error.hint or "write it as [registry/]repository[:tag]"
        ) from error
    if reference.digest is not None:
        msg = f"invalid tag {text[:100]!r}: a name to give cannot have a digest"
        raise UsageError(msg)
    return reference


def parse_platform(text: str, environ: Mapping[str, str]) -> Platform:
    """Read the one --platform of a command that is about a single image.

    Raises:
        UsageError: unknown, or several.
    """
    platforms = parse_platforms([text], environ)
    if len(platforms) > 1:
        msg = f"--platform {text[:60]}: one platform is wanted"
        raise UsageError(msg)
    return platforms[0]


def local_platform() -> Platform:
    """The platform of this machine."""
    import os  # noqa: PLC0415 - nothing else here needs it

    return Platform.parse(f"linux/{os.uname().machine}")
