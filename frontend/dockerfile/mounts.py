"""The options of RUN --mount, read and checked one by one (M01-M14); knows no stages or graph."""

from __future__ import annotations

import posixpath
import re

from cache.hints import TYPE_CHECKING
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
_BARE = frozenset({"readonly", "readwrite", "required"})
_WITH_OWNER = frozenset({"secret", "ssh", "cache"})
_SIZE = r"(\+?[0-9]*\.?[0-9]*(?:e[+-]?[0-9]{1,3})?) ?(?:b|([kmgtp])(?:i?b)?)?"
_LONGEST_NUMBER = 64
_MAX_NUMBER = (1 << 32) - 1
_MAX_SIZE = 1 << 62
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


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
    env: str | None = None

    def is_readonly(self) -> bool:
        """Whether it is read-only; cache and tmpfs are not unless asked (M04)."""
        return self.type not in {"cache", "tmpfs"} if self.readonly is None else self.readonly

    def secret_id(self) -> str:
        """The id of a secret: id, or source, or the target's last part (M13)."""
        return self.id or self.source or posixpath.basename(self.target.rstrip("/"))


def parse(options: tuple[MountOption, ...], expand: Expander) -> MountRequest:
    """Read the options in order and check them against each other (M01-M03).

    Raises:
        MistakeError: naming the option.
    """
    request = MountRequest()
    for option in options:
        _read(request, option, expand)
    _check(request)
    return request


def _read(request: MountRequest, option: MountOption, expand: Expander) -> None:
    key = _ALIASES.get(option.key, option.key)
    if option.value is None and key not in _BARE:
        raise MistakeError(
            f"invalid field '{option.key[:128]}' must be a key=value pair",
            hint=None if option.key else "write options without blanks behind the commas",
        )
    value = "true" if option.value is None else expand(option.value)
    if "\0" in value:
        raise MistakeError(f"value of '{option.key[:64]}' contains a zero byte")
    reader = _READERS.get(key)
    if reader is None:
        known = (*_READERS, *_ALIASES)
        raise MistakeError(
            f"unexpected key '{option.key[:64]}' in '{option.key[:64]}={(option.value or '')[:64]}'",
            hint=nearest(key, known) or f"the keys of --mount are {', '.join(known)}",
        )
    reader(request, option.key, value)


def _check(request: MountRequest) -> None:
    kind = request.type
    for name, value in (("mode", request.mode), ("uid", request.uid), ("gid", request.gid)):
        if value is not None and kind not in _WITH_OWNER:
            raise MistakeError(f'{name} not allowed for "{kind}" type mounts')
    if kind == "secret":
        _check_secret(request)
    if request.sharing is not None and kind != "cache":
        raise MistakeError(f"invalid cache sharing set for {kind} mount")
    if kind == "ssh" and request.source:
        raise MistakeError("ssh does not support source", hint="name the agent with id=")


def _check_secret(request: MountRequest) -> None:
    if request.source_from:
        raise MistakeError("secret mount should not have a from")
    if request.sharing is not None:
        raise MistakeError("secret mount should not define sharing")
    if not (request.source or request.id or request.target):
        raise MistakeError(
            "invalid secret mount. one of source, target required",
            hint="write --mount=type=secret,id=NAME",
        )
    if request.source and request.id:
        raise MistakeError("both source and id can't be set", hint="id names the secret")
    if request.env is not None and "=" in request.env:
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
    request.size = _bytes(key, value)


def _read_sharing(request: MountRequest, _: str, value: str) -> None:
    known = tuple(sharing.value for sharing in Sharing)
    if value.lower() not in known:
        raise MistakeError(
            f'unsupported sharing value "{value[:60]}"',
            hint=nearest(value, known) or f"values are {', '.join(known)}",
        )
    request.sharing = Sharing(value.lower())


def _read_mode(request: MountRequest, _: str, value: str) -> None:
    request.mode = _number("mode", value, 8)


def _read_uid(request: MountRequest, _: str, value: str) -> None:
    request.uid = _number("uid", value)


def _read_gid(request: MountRequest, _: str, value: str) -> None:
    request.gid = _number("gid", value)


def _boolean(key: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise MistakeError(f"invalid value for {key}: {value[:60]}", hint="give true or false")


def _number(key: str, value: str, base: int = 10) -> int:
    digits = "[0-7]" if base == 8 else "[0-9]"  # noqa: PLR2004 - octal
    if re.fullmatch(digits + f"{{1,{_LONGEST_NUMBER}}}", value) is None or (
        int(value, base) > _MAX_NUMBER
    ):
        kind = "an octal" if key == "mode" else "a"
        raise MistakeError(f"invalid value {value[:60]} for {key}", hint=f"give {kind} number")
    return int(value, base)


def _bytes(key: str, value: str) -> int:
    match = re.fullmatch(_SIZE, value[:_LONGEST_NUMBER].lower())
    try:
        number = float(match[1]) if match is not None else -1.0
    except ValueError:
        number = -1.0
    if match is None or number < 0 or len(value) > _LONGEST_NUMBER:
        raise MistakeError(
            f"invalid value for {key}: {value[:60]}", hint="give a size such as 128m"
        )
    number *= 1024 ** " kmgtp".index(match[2] or " ")
    if number > _MAX_SIZE:
        raise MistakeError(f"invalid value for {key}: {value[:60]} is too large")
    return int(number)


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
