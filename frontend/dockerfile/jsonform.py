"""The JSON form of arguments: one strict array of strings, or not JSON at all (P40)."""

from __future__ import annotations

from frontend.dockerfile.problems import MistakeError

_INFINITY = float("inf")
_SMALL = 300  # digits of a number that surely is finite


class ShapeError(MistakeError):
    """A line that cannot be taken apart, whatever its instruction means by the parts.

    Of several mistakes in a file, these are reported first, as the reference does.
    """


def parse_json_form(text: str) -> tuple[str, ...] | None:
    """Return the words of an array, None when the text is in shell form.

    Raises:
        ShapeError: it is an array, but not of strings.
    """
    if not text.startswith("["):
        return None
    import json  # noqa: PLC0415 - shell forms do not need it

    try:
        words = json.loads(text, parse_constant=_refuse, parse_int=_integer, parse_float=_number)
    except (ValueError, RecursionError):
        return None  # not JSON: silently the shell form
    if all(isinstance(word, str) for word in words):
        return tuple(_as_text(word) for word in words)
    raise ShapeError("when using JSON array syntax, arrays must be comprised of strings only")


def is_json_form(text: str) -> bool:
    """Whether the text is a JSON array, of whatever."""
    try:
        return parse_json_form(text) is not None
    except MistakeError:
        return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _number(text: str) -> float:
    value = float(text)
    if value in (_INFINITY, -_INFINITY):
        raise ValueError(f"{text[:20]} is too large")  # as for the reference: no JSON then
    return value


def _integer(text: str) -> float:
    return _number(text) if len(text) > _SMALL else 0.0


def _as_text(word: str) -> str:
    # \ud800 alone is no character and could not be written as UTF-8 anywhere.
    return word.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
