"""The small grammars inside single flags: --secret, --ssh, --add-host, --ulimit and their like.

Texts to values without effects. Loaded only when such a flag is given.
"""

from __future__ import annotations

import csv
import ipaddress
import re

from builder.errors import UsageError
from builder.flags import FALSE, TRUE
from builder.request import SecretSource, SshSource
from frontend.graph import Ulimit

# The resource limits docker knows by name.
ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
    "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
CALLS = ("build", "check", "outline", "targets", "subrequests.describe", "graph")
ENTITLEMENTS = ("network.host", "security.insecure", "device", "buildx.local.delete")
_ANNOTATED = frozenset({"manifest", "manifest-descriptor", "index", "index-descriptor"})
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_MAX_SIZE = (1 << 63) - 1  # what the kernel and docker can count
_SECRET_HINT = "write --secret id=ID,src=PATH or --secret id=ID,env=NAME"  # noqa: S105 - a hint
_LOCAL_HOST = "127.0.0.1"


def comma_fields(flag: str, text: str) -> list[str]:
    """Split at commas as RFC 4180 has it: a field in double quotes may hold commas.

    Raises:
        UsageError: a quote that does not end.
    """
    if not text:
        return []
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        msg = f"invalid {flag} {text[:100]!r}: {error}"
        raise UsageError(msg, hint='quote a field that holds a comma: "a,b"') from error
    return rows[0] if rows else []


def parse_secret(text: str) -> SecretSource:
    """Read `id=ID[,src=PATH][,env=NAME][,type=file|env]` (M13).

    Raises:
        UsageError: an unknown key, a key without value, or no id.
    """
    fields: dict[str, str] = {}
    for part in comma_fields("--secret", text):
        key, equals, value = part.partition("=")
        key = {"source": "src"}.get(key.lower(), key.lower())
        if not equals or key not in {"id", "src", "env", "type"}:
            msg = f"invalid --secret {text[:100]!r}: unexpected {part[:60]!r}"
            raise UsageError(msg, hint=_SECRET_HINT)
        fields[key] = value
    if not fields.get("id"):
        msg = f"invalid --secret {text[:100]!r}: no id"
        raise UsageError(msg, hint=_SECRET_HINT)
    path, env = fields.get("src", ""), fields.get("env", "")
    match fields.get("type", ""):
        case "env" if not env:
            return SecretSource(fields["id"], env=path)
        case "" | "file" | "env":
            # A variable wins over a file, which must be there all the same.
            return SecretSource(fields["id"], path, env)
        case kind:
            msg = f"invalid --secret {text[:100]!r}: no type {kind[:40]!r}"
            raise UsageError(msg, hint="the types are file and env")


def parse_ssh(texts: list[str]) -> tuple[SshSource, ...]:
    """Read every --ssh: `default`, `ID`, `ID=SOCKET` or `ID=KEY[,KEY...]`.

    Raises:
        UsageError: an id twice, or an option that is not supported.
    """
    sources: dict[str, SshSource] = {}
    for text in texts:
        name, equals, places = text.partition("=")
        name = name or "default"
        if name in sources:
            msg = f"--ssh {name[:60]!r} is given twice"
            raise UsageError(msg, hint="separate the keys of one id by commas: id=KEY,KEY")
        paths = places.split(",") if equals and places else []
        if any(path.startswith("raw=") for path in paths):
            msg = f"invalid --ssh {text[:100]!r}: raw sockets are not supported"
            raise UsageError(msg, hint="name the socket of an ssh agent, or key files")
        sources[name] = SshSource(name, tuple(paths))
    return tuple(sources.values())


def parse_hosts(texts: list[str], gateway: str = _LOCAL_HOST) -> tuple[tuple[str, str], ...]:
    """Read --add-host: `name=ip` or `name:ip`, several ips or entries separated by commas.

    IPv6 may stand in brackets. `host-gateway` is `gateway`: this host, where RUN
    shares its network.

    Raises:
        UsageError: no name or no address.
    """
    hosts: list[tuple[str, str]] = []
    for text in texts:
        name = ""
        for field in comma_fields("--add-host", text):
            for part in field.split(","):
                alone = _address(part, gateway) if name else None
                if alone is None:
                    name, address = _host(part, text, gateway)
                    hosts.append((name, address))
                else:
                    hosts.append((name, alone))
    return tuple(hosts)


def _host(part: str, text: str, gateway: str) -> tuple[str, str]:
    name, equals, rest = part.partition("=")
    if not equals:
        name, _, rest = part.partition(":")
    address = _address(rest, gateway)
    if address is None or not name or not name.isprintable() or " " in name:
        msg = f"invalid host {part[:100]!r} in --add-host {text[:100]!r}"
        raise UsageError(msg, hint="write --add-host NAME:IP, such as db:10.0.0.5 or db=[::1]")
    return name, address


def _address(text: str, gateway: str) -> str | None:
    if text.lower() == "host-gateway":
        return gateway
    bracketed = len(text) > 2 and text[0] == "[" and text[-1] == "]"  # noqa: PLR2004 - the brackets
    try:
        return (
            str(ipaddress.ip_address(text[1:-1] if bracketed else text))
            if "%" not in text
            else None
        )
    except ValueError:
        return None


def parse_size(flag: str, text: str) -> int:
    """Read a number of bytes with an optional binary unit: `64m`, `1.5GiB`, `4096`.

    Raises:
        UsageError: not such a number.
    """
    match = re.fullmatch(r"([0-9]{1,18})(\.[0-9]{0,18})? ?(?:([kmgtp])(?:i?b)?|b?)", text.lower())
    if match is None:
        msg = f"invalid {flag} {text[:40]!r}"
        raise UsageError(msg, hint=f"write a size such as {flag} 128m")
    whole, fraction = int(match[1]), float(f"0{match[2] or ''}")
    unit = _UNITS[match[3] or ""]
    size = whole * unit + int(fraction * unit)
    if size > _MAX_SIZE:
        msg = f"{flag} {text[:40]} is too large"
        raise UsageError(msg)
    return size


def parse_ulimits(texts: list[str]) -> tuple[Ulimit, ...]:
    """Read every --ulimit `NAME=SOFT[:HARD]`, sorted by name; the last of a name counts.

    Raises:
        UsageError: an unknown name, no number, or a soft limit above the hard one.
    """
    limits = (_ulimit(text) for text in texts)
    return tuple(limit for _, limit in sorted({limit.name: limit for limit in limits}.items()))


def _ulimit(text: str) -> Ulimit:
    name, equals, numbers = text.partition("=")
    hint = "write --ulimit NAME=SOFT[:HARD], such as nofile=1024:2048"
    if not equals or name not in ULIMITS:
        msg = f"invalid --ulimit {text[:60]!r}"
        raise UsageError(msg, hint=f"the limits are {', '.join(ULIMITS)}" if equals else hint)
    values = numbers.split(":")
    if len(values) not in {1, 2} or not all(re.fullmatch("-1|[0-9]{1,18}", v) for v in values):
        msg = f"invalid --ulimit {text[:60]!r}: not numbers"
        raise UsageError(msg, hint=hint)
    soft, hard = int(values[0]), int(values[-1])
    if hard != -1 and (soft == -1 or soft > hard):
        msg = f"invalid --ulimit {text[:60]!r}: the soft limit is above the hard one"
        raise UsageError(msg, hint=hint)
    return Ulimit(name, soft, hard)


def parse_contexts(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """Read every --build-context `NAME=VALUE`; the last of a name counts (S07).

    Raises:
        UsageError: no name or no value.
    """
    contexts: dict[str, str] = {}
    for text in texts:
        name, _, place = text.partition("=")
        if not name or not place or "\0" in text:
            msg = f"invalid --build-context {text[:100]!r}"
            raise UsageError(
                msg, hint="write NAME=DIRECTORY, NAME=URL or NAME=docker-image://IMAGE"
            )
        contexts[name] = place
    return tuple(contexts.items())


def parse_allow(texts: list[str]) -> tuple[str, ...]:
    """Read every --allow: entitlements, each once.

    Raises:
        UsageError: no entitlement that a build can be given.
    """
    for text in texts:
        if text.partition("=")[0] not in ENTITLEMENTS or ("=" in text and text[:6] != "device"):
            msg = f"invalid --allow {text[:60]!r}"
            raise UsageError(msg, hint=f"the entitlements are {', '.join(ENTITLEMENTS)}")
    return tuple(dict.fromkeys(texts))


def check_annotations(texts: list[str]) -> tuple[str, ...]:
    """Check every --annotation `[TYPE[,TYPE...][[PLATFORM]]:]KEY=VALUE`; give them as written.

    Raises:
        UsageError: no key, no `=`, or an unknown type.
    """
    for text in texts:
        name, equals, _ = text.partition("=")
        types, colon, key = name.rpartition(":")
        if not equals or not key or "\0" in text:
            msg = f"invalid --annotation {text[:100]!r}"
            raise UsageError(msg, hint="write --annotation KEY=VALUE or TYPE:KEY=VALUE")
        for kind in types.split(",") if colon else ():
            if kind.partition("[")[0] not in _ANNOTATED or ("[" in kind) != kind.endswith("]"):
                msg = f"invalid --annotation {text[:100]!r}: no type {kind[:40]!r}"
                raise UsageError(msg, hint=f"the types are {', '.join(sorted(_ANNOTATED))}")
    return tuple(texts)


def parse_call(text: str) -> tuple[str, str, bool]:
    """Read --call `NAME[,format=text|json][,ignorestatus=BOOL]` (O77); `lint` is `check`.

    Raises:
        UsageError: an unknown name or option.
    """
    name, form, ignore = "", "text", False
    for part in comma_fields("--call", text):
        key, equals, value = part.partition("=")
        if not equals and not name:
            name = {"lint": "check"}.get(part, part)
        elif key == "format" and value in {"text", "json"}:
            form = value
        elif key == "ignorestatus" and value in TRUE | FALSE:
            ignore = value in TRUE
        else:
            msg = f"invalid --call {text[:100]!r}: unexpected {part[:60]!r}"
            raise UsageError(msg, hint="write --call NAME[,format=json][,ignorestatus=true]")
    if name and name not in CALLS:
        msg = f"unknown --call {name[:60]!r}"
        raise UsageError(msg, hint=f"choose one of {', '.join(CALLS)}")
    return name or "build", form, ignore
