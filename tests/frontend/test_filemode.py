"""--chmod texts: what they make of a mode, as the reference has it."""

import os
import subprocess

import pytest

from frontend.filemode import parse_mode

LIKE_CHMOD = ["u=rwX,go=rX", "+x", "a-w", "u+s", "g+s", "a=", "=", "-x", "ug+rw-x",
              "u=rws", "g=xs", "a+X", "-s", "+t", "+", "u-"]  # fmt: skip


@pytest.mark.parametrize("text", LIKE_CHMOD)
def test_symbolic_like_chmod(tmp_path, text):
    """Symbolic modes give files what chmod(1) gives them (CP03, T43)."""
    change = parse_mode(text)
    path = tmp_path / "file"
    path.touch()
    for mode in (0o000, 0o644, 0o755, 0o4711, 0o2070, 0o6505, 0o100):
        os.chmod(path, mode)
        if os.stat(path).st_mode & 0o7777 != mode:
            continue  # this user may not set it
        subprocess.run(["sh", "-c", 'umask 0; chmod -- "$0" "$1"', text, path], check=True)
        expected = os.stat(path).st_mode & 0o7777
        assert oct(change.apply(mode, directory=False)) == oct(expected), oct(mode)


BSD = [
    ("o+t", 0o755, 0o755), ("+xt", 0o644, 0o1644), ("u+t", 0o700, 0o1700), ("g=uw", 0o751, 0o721),
    ("g=ru", 0o751, 0o771), ("=", 0o1777, 0o1000), ("a=rx", 0o1777, 0o1555), ("go=", 0o3777, 0o1700),
    ("o+s", 0o755, 0o755), ("g=u", 0o2070, 0o2000),
    ("=t", 0o644, 0o1644), ("a-x,+X", 0o750, 0o751 | 0o110), ("g=uo", 0o604, 0o644),
]  # fmt: skip


@pytest.mark.parametrize(("text", "before", "after"), BSD)
def test_symbolic_like_setmode(text, before, after):
    """Where setmode(3) and chmod(1) differ the former is right, as for the reference (CP03)."""
    assert oct(parse_mode(text).apply(before, directory=False)) == oct(after)


def test_directories():
    """X is for every directory; their set-id bits are as any other bit (CP03)."""
    assert oct(parse_mode("u=rwX,go=rX").apply(0o2600, directory=True)) == oct(0o755)
    assert oct(parse_mode("g-s").apply(0o2755, directory=True)) == oct(0o755)


@pytest.mark.parametrize(
    "text", ["64a", "10000", "8", "u", "x+u", "u+q", ",", "u+r,", "rwx", "-1", "٧", "0o755", "+755"]
)
def test_invalid_mode(text):
    """What is neither octal up to 7777 nor symbolic is refused (CP03, B15)."""
    with pytest.raises(ValueError, match="octal"):
        parse_mode(text)


@pytest.mark.parametrize(
    ("text", "mode"), [("0", 0), ("7777", 0o7777), ("0755", 0o755), ("00000000000644", 0o644)]
)
def test_octal(text, mode):
    """Octal modes are absolute (CP03)."""
    change = parse_mode(text)
    assert change.apply(0o123, directory=False) == change.apply(0, directory=True) == mode
