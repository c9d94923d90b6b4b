"""The options of RUN --mount, read and checked one by one (M01-M14); knows no stages or graph."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from cache.value import state
from frontend.dockerfile.problems import MistakeError, nearest
from frontend.graph import Sharing

if TYPE_CHECKING:
    from collections.abc import Callable

    from frontend.dockerfile.environment import Expander
    from frontend.dockerfile.syntax import MountOption

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_ALIASES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_WITH_OWNER = frozenset({"secret", "ssh", "cache"})
_SIZE = r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?:([kmgtp])i?)?b?"
_MAX_ID = 1 << 32
_MAX_MODE = 0o7777
_MAX_SIZE = 1 << 62
_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})


@state
class MountRequest:
    """One --mount as it was asked for; None for what was not said."""

    type: str = "bind"
    source_from: str = ""
    source: str = ""
    target: str = ""
    readonly: bool | None = None
    required: bool = False
    size: int = 0
    id: str = ""
    sharing: Sharing | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str = ""

    def is_readonly(self) -> bool:
        """Whether it is read-only; cache and tmpfs are not unless asked (M04)."""
        return self.type not in {"cache", "tmpfs"} if self.readonly is None else self.readonly

    def secret_id(self) -> str:
        """The id of a secret: id, or source, or the target's last part (M13)."""
        return self.id or self.source or posixpath.basename(self.target)


def parse(options: tuple[MountOption, ...], expand: Expander) -> MountRequest:
    """Read the options in order and check them against each other (M01-M03).

    The parser has seen to it that keys are known, lower case, and have a value if they need one.

    Raises:
        MistakeError: naming the option.
    """
    request = MountRequest()
    for option in options:
        written = option.key
        key = _ALIASES.get(written, written)
        value = "true" if option.value is None else option.value
        if key != "from":
            value = expand(value)
        if "\0" in value:
            raise MistakeError(f"value of '{option.key}' contains a zero byte")
        _READERS[key](request, written, value)
    _check(request)
    return request


def _check(request: MountRequest) -> None:
    kind = request.type
    for name, value in (("mode", request.mode), ("uid", request.uid), ("gid", request.gid)):
        if value is not None and kind not in _WITH_OWNER:
            raise MistakeError(f'{name} not allowed for "{kind}" type mounts')
    if request.sharing is not None and kind != "cache":
        raise MistakeError(f"invalid cache sharing set for {kind} mount")
    if request.env and kind != "secret":
        raise MistakeError(f'env not allowed for "{kind}" type mounts')
    if kind == "secret":
        _check_secret(request)
    if kind == "ssh":
        raise MistakeError(
            "ssh mounts are not supported yet",
            hint="pass a key with --mount=type=secret and --secret id=…,src=…",
        )


def _check_secret(request: MountRequest) -> None:
    if request.source_from:
        raise MistakeError("secret mount should not have a from")
    if request.source and request.id:
        raise MistakeError("invalid secret mount: both source and id can't be set")
    if not (request.source or request.id or request.target):
        raise MistakeError(
            "invalid secret mount: one of source, target or id is required",
            hint="write --mount=type=secret,id=NAME",
        )
    if posixpath.basename(request.secret_id()) in {"", ".", ".."}:
        raise MistakeError(f"invalid secret id '{request.secret_id()[:60]}'")
    if "=" in request.env:
        raise MistakeError(f"invalid variable name '{request.env[:60]}' of a secret")


def _read_type(request: MountRequest, _: str, value: str) -> None:
    if value.lower() not in _TYPES:
        raise MistakeError(
            f'unsupported mount type "{value[:60]}"',
            hint=nearest(value, _TYPES) or f"types are {', '.join(_TYPES)}",
        )
    request.type = value.lower()


def _read_from(request: MountRequest, _: str, value: str) -> None:
    request.source_from = value


def _read_source(request: MountRequest, _: str, value: str) -> None:
    request.source = value


def _read_target(request: MountRequest, _: str, value: str) -> None:
    request.target = value


def _read_id(request: MountRequest, _: str, value: str) -> None:
    request.id = value


def _read_env(request: MountRequest, _: str, value: str) -> None:
    request.env = value


def _read_readonly(request: MountRequest, key: str, value: str) -> None:
    request.readonly = _boolean(key, value)


def _read_readwrite(request: MountRequest, key: str, value: str) -> None:
    request.readonly = not _boolean(key, value)


def _read_required(request: MountRequest, key: str, value: str) -> None:
    # The type seen so far counts, as in the reference (M02).
    if request.type not in {"secret", "ssh"}:
        raise MistakeError(
            f"unexpected key '{key}' for mount type '{request.type}'",
            hint="required belongs to secret and ssh mounts; put type= before it",
        )
    request.required = _boolean(key, value)


def _read_size(request: MountRequest, key: str, value: str) -> None:
    if request.type != "tmpfs":
        raise MistakeError(
            f"unexpected key '{key}' for mount type '{request.type}'",
            hint="size belongs to tmpfs mounts; put type=tmpfs before it",
        )
    request.size = _bytes(value)


def _read_sharing(request: MountRequest, _: str, value: str) -> None:
    known = tuple(sharing.value for sharing in Sharing)
    if value.lower() not in known:
        raise MistakeError(
            f'unsupported sharing value "{value[:60]}"',
            hint=nearest(value, known) or f"values are {', '.join(known)}",
        )
    request.sharing = Sharing(value.lower())


def _read_mode(request: MountRequest, _: str, value: str) -> None:
    if re.fullmatch(r"[0-7]{1,11}", value) is None or int(value, 8) > _MAX_MODE:
        raise MistakeError(f"invalid value {value[:60]!r} for mode", hint="give an octal number")
    request.mode = int(value, 8)


def _read_uid(request: MountRequest, key: str, value: str) -> None:
    request.uid = _number(key, value)


def _read_gid(request: MountRequest, key: str, value: str) -> None:
    request.gid = _number(key, value)


def _boolean(key: str, value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise MistakeError(f"invalid value for {key}: {value[:60]}", hint="give true or false")


def _number(key: str, value: str) -> int:
    if re.fullmatch(r"[0-9]{1,10}", value) is None or int(value) >= _MAX_ID:
        raise MistakeError(f"invalid value {value[:60]!r} for {key}", hint="give a number")
    return int(value)


def _bytes(value: str) -> int:
    match = re.fullmatch(_SIZE, value.lower())
    if match is None:
        raise MistakeError(f"invalid size: {value[:60]!r}", hint="give a size such as 128m")
    size = int(float(match[1]) * 1024 ** (" kmgtp".index(match[2] or " ")))
    if size > _MAX_SIZE:
        raise MistakeError(f"invalid size: {value[:60]!r} is too large")
    return size


_READERS: dict[str, Callable[[MountRequest, str, str], None]] = {
    "type": _read_type,
    "from": _read_from,
    "source": _read_source,
    "target": _read_target,
    "readonly": _read_readonly,
    "readwrite": _read_readwrite,
    "required": _read_required,
    "size": _read_size,
    "id": _read_id,
    "sharing": _read_sharing,
    "mode": _read_mode,
    "uid": _read_uid,
    "gid": _read_gid,
    "env": _read_env,
}
