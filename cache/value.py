"""Frozen values: what `dataclass(frozen=True, slots=True)` gives, made in an eighth of the time.

A cached build is over in some hundred milliseconds, and pybuild has far over a hundred value
classes: at a millisecond each, dataclasses would be most of it. One function is compiled for
each class of which there are many; the rest are closures over its field names. ADR-5 has the
figures.
"""

from __future__ import annotations

from operator import attrgetter

from cache.hints import TYPE_CHECKING, Any, dataclass_transform

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_MISSING = object()
_MANY = 20  # instances of a class that make compiling its constructor worth while


class _Field:
    """A field's default or how to make it, and whether it counts for equality."""

    __slots__ = ("compare", "default", "factory", "repr")

    def __init__(self, default: object, factory: object, *, compare: bool, show: bool) -> None:
        self.default = default
        self.factory = factory
        self.compare = compare
        self.repr = show


def field(
    *,
    default: Any = _MISSING,
    default_factory: Callable[[], Any] | None = None,
    compare: bool = True,
    hash: bool | None = None,  # noqa: A002 - the name dataclasses use
    repr: bool = True,  # noqa: A002 - the same
) -> Any:
    """Describe a field that needs more than a default; `hash=False` also leaves equality alone."""
    made = _Field(default, default_factory, compare=compare, show=repr)
    return made if hash is None or hash else _Unhashed(made)


class _Unhashed:
    """A compared field that does not count for the hash (it may hold a dict)."""

    __slots__ = ("field",)

    def __init__(self, inner: _Field) -> None:
        self.field = inner


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make a class of annotated fields a frozen value: slots, init, eq, hash, repr, match args."""
    body, fields = _body(cls)
    compared = [name for name, (entry, _) in fields.items() if entry.compare]
    if "__eq__" not in body:
        body["__eq__"] = _eq(_getter(compared))
    if body.get("__hash__") is None:
        body["__hash__"] = _hash(_getter([name for name in compared if fields[name][1]]))
    body["__setattr__"] = body["__delattr__"] = _refuse
    return _made(cls, body, fields)  # type: ignore[no-any-return] # the same class, with slots


@dataclass_transform(eq_default=False, field_specifiers=(field,))
def state(cls: type[T]) -> type[T]:
    """Make a class of annotated fields one that changes: slots, init, repr; equal to itself only."""
    return _made(cls, *_body(cls))  # type: ignore[no-any-return] # likewise


def _body(cls: type[Any]) -> tuple[dict[str, Any], dict[str, tuple[_Field, bool]]]:
    """What the class shall have besides what its fields ask for, and those."""
    body = dict(cls.__dict__)
    body.pop("__dict__", None)
    body.pop("__weakref__", None)
    fields = {
        name: _described(body.pop(name, _MISSING))
        for name, annotation in body.get("__annotations__", {}).items()
        if not str(annotation).startswith("ClassVar")
    }
    return body, fields


def _made(cls: type[Any], body: dict[str, Any], fields: dict[str, tuple[_Field, bool]]) -> Any:
    """The class itself, made with everything at once: adding to a class afterwards is slow."""
    body["__slots__"] = body["__match_args__"] = tuple(fields)
    body["__value_fields__"] = {name: entry for name, (entry, _) in fields.items()}
    body["__qualname__"] = cls.__qualname__
    if "__repr__" not in body:
        shown = [name for name, (entry, _) in fields.items() if entry.repr]
        body["__repr__"] = _repr(cls.__qualname__, shown)
    own: list[Any] = []
    body["__init__"] = _init_later(own, fields, body.get("__post_init__"))
    metaclass: Any = type(cls)
    own.append(metaclass(cls.__name__, cls.__bases__, body))
    return own[0]


def replace(instance: T, /, **changes: object) -> T:
    """Copy a value with some fields changed.

    Raises:
        TypeError: a name that is no field.
    """
    names: tuple[str, ...] = type(instance).__match_args__  # type: ignore[attr-defined]
    for name in names:
        if name not in changes:
            changes[name] = getattr(instance, name)
    return type(instance)(**changes)


def compared_fields(instance: object) -> list[tuple[str, object]]:
    """Name the fields that are a value's identity, each with its default (or a marker)."""
    fields: dict[str, _Field] = type(instance).__value_fields__  # type: ignore[attr-defined]
    return [(name, entry.default) for name, entry in fields.items() if entry.compare]


def _described(default: object) -> tuple[_Field, bool]:
    if isinstance(default, _Unhashed):
        return default.field, False
    if isinstance(default, _Field):
        return default, True
    return _Field(default, None, compare=True, show=True), True


def _init_later(
    own: list[Any], fields: dict[str, tuple[_Field, bool]], finish: Callable[[Any], None] | None
) -> Callable[..., None]:
    """An `__init__` for few instances of the class `own` will hold; a compiled one then follows.

    Compiling takes as long as making fifty instances this way, and most classes of a short
    process have fewer, or none.
    """
    made = 0
    rows: list[tuple[str, Any, Any]] = []

    def init(self: object, *arguments: object, **named: object) -> None:
        nonlocal made, rows
        made += 1
        rows = rows or _setters(own[0], fields)
        if made > _MANY or len(arguments) > len(rows):
            _compiled(own[0], fields)(self, *arguments, **named)
            return
        given = iter(arguments)
        left = len(named)
        for name, put, entry in rows:
            found = next(given, _MISSING)
            if found is _MISSING and name in named:
                found = named[name]
                left -= 1
            if found is _MISSING:
                found = entry.default if entry.factory is None else entry.factory()
            if found is _MISSING:
                left = 1
                break
            put(self, found)
        if left:  # too few, too many or wrong ones: the compiled one words the mistake
            _compiled(own[0], fields)(self, *arguments, **named)
        elif finish is not None:
            finish(self)

    return init


def _compiled(cls: Any, fields: dict[str, tuple[_Field, bool]]) -> Callable[..., None]:
    """Give a class its compiled constructor; several threads may, and make the same."""
    cls.__init__ = _init(cls, fields)
    real: Callable[..., None] = cls.__init__
    return real


def _setters(cls: Any, fields: dict[str, tuple[_Field, bool]]) -> list[tuple[str, Any, Any]]:
    return [(name, getattr(cls, name).__set__, entry) for name, (entry, _) in fields.items()]


def _init(cls: Any, fields: dict[str, tuple[_Field, bool]]) -> Callable[..., None]:
    """Compile the one function whose shape depends on the fields."""
    scope: dict[str, Any] = {"_missing": _MISSING}
    parameters, lines = [], []
    for name, (entry, _) in fields.items():
        scope[f"_set_{name}"] = getattr(cls, name).__set__
        if entry.factory is not None:
            scope[f"_make_{name}"] = entry.factory
            parameters.append(f"{name}=_missing")
            lines.append(f" _set_{name}(self, _make_{name}() if {name} is _missing else {name})")
            continue
        if entry.default is not _MISSING:
            scope[f"_default_{name}"] = entry.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        lines.append(f" _set_{name}(self, {name})")
    if "__post_init__" in cls.__dict__:
        lines.append(" self.__post_init__()")
    source = f"def __init__(self, {', '.join(parameters)}):\n" + "\n".join(lines or [" pass"])
    exec(source, scope)  # noqa: S102 - the text is made of field names of our own classes
    init: Callable[..., None] = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


def _getter(names: list[str]) -> Callable[[Any], Any]:
    if not names:
        return lambda _: ()
    return attrgetter(*names)


def _eq(key: Callable[[Any], Any]) -> Callable[[Any, object], Any]:
    def eq(self: Any, other: object) -> Any:
        if type(other) is not type(self):
            return NotImplemented
        return key(self) == key(other)

    return eq


def _hash(key: Callable[[Any], Any]) -> Callable[[Any], int]:
    return lambda self: hash(key(self))


def _repr(qualname: str, names: list[str]) -> Callable[[Any], str]:
    def show(self: Any) -> str:
        inside = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{qualname}({inside})"

    return show


def _refuse(self: object, name: str, *_: object) -> None:
    msg = f"{type(self).__name__}.{name}: values do not change"
    raise AttributeError(msg)
