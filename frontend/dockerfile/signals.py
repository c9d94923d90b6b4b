"""Names of Linux signals, for STOPSIGNAL (I08): the same on every host, so not from `signal`."""

from __future__ import annotations

_NAMES = frozenset(
    {
        "ABRT",
        "ALRM",
        "BUS",
        "CHLD",
        "CLD",
        "CONT",
        "FPE",
        "HUP",
        "ILL",
        "INT",
        "IO",
        "IOT",
        "KILL",
        "PIPE",
        "POLL",
        "PROF",
        "PWR",
        "QUIT",
        "SEGV",
        "STKFLT",
        "STOP",
        "SYS",
        "TERM",
        "TRAP",
        "TSTP",
        "TTIN",
        "TTOU",
        "URG",
        "USR1",
        "USR2",
        "VTALRM",
        "WINCH",
        "XCPU",
        "XFSZ",
    }
) | {
    "RTMIN",
    "RTMAX",
    *(f"RTMIN+{n}" for n in range(1, 16)),
    *(f"RTMAX-{n}" for n in range(1, 15)),
}


_DIGITS = 19  # of the largest number
_MAX = (1 << 63) - 1


def is_signal(text: str) -> bool:
    """Whether text is a signal's name, with or without SIG in any case, or a number but 0, of either sign."""
    digits = text[1:] if text[:1] in {"+", "-"} else text
    if digits.isascii() and digits.isdigit():
        number = digits.lstrip("0")
        return bool(number) and len(number) <= _DIGITS and int(number) <= _MAX
    return text.upper().removeprefix("SIG") in _NAMES
